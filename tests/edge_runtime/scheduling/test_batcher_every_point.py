"""A signal's handler may raise after any call of the main thread: these tests raise at every such point."""

import threading
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from support.edge_models import rows
from support.gated_engines import WAIT_S, Setup
from support.interrupted import interrupted_at

from edge_runtime import EngineFailed
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.waking import wake
from edge_runtime.types import Pending

SCHEDULING = "/edge_runtime/scheduling/"
RUN_S = 0.00001


def predict(setup):
    for _ in range(2):
        setup.batcher.infer(setup.request())


def wait(setup):
    setup.batcher.wait(setup.request())


def cancel(setup):
    setup.batcher.submit(setup.request()).cancel()


def bulk(setup):
    setup.batcher.submit_bulk([setup.request() for _ in range(3)])


def own_bulk(setup):
    setup.batcher.try_bulk(Bulk([setup.request() for _ in range(3)]))


class Others:
    """Two callers that ask again and again."""

    def __init__(self, setup):
        self.stop = threading.Event()
        self.wrong = []
        self.threads = [threading.Thread(target=self.ask, args=(setup, 10 * i), daemon=True) for i in (1, 2)]
        for thread in self.threads:
            thread.start()

    def ask(self, setup, start):
        while not self.stop.is_set():
            setup.clock.advance(0.001)  # Else the first lease would never end.
            if not np.array_equal(setup.batcher.infer(setup.request(start=start)).outputs["y"], rows(1, start) * 2):
                self.wrong.append(start)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(WAIT_S)
        return [thread.name for thread in self.threads if thread.is_alive()], self.wrong


def settled(setup):
    """Waits until the worker rests, and says what is left of anything."""
    batcher, gate = setup.batcher, setup.gate
    deadline = threading.Event()
    threading.Timer(WAIT_S, deadline.set).start()
    while (batcher.stats().queued or batcher.stats().running) and not deadline.is_set():
        pass
    stats = batcher.stats()
    return (
        (stats.queued, stats.queued_rows, stats.queued_bytes, stats.running, batcher.load.running_rows),
        (setup.slot.busy, setup.slot.holder, setup.slot.given),
        (gate._free, gate._waiting, gate._held),
    )


NOTHING = ((0, 0, 0, 0, 0), (False, 0, None), (1, [], {}))


class Timeout(Exception):
    """What an application's own handler raises."""


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (predict, KeyboardInterrupt),
        (predict, Timeout),
        (wait, KeyboardInterrupt),
        (cancel, KeyboardInterrupt),
        (bulk, KeyboardInterrupt),
        (own_bulk, Timeout),
    ],
)
def test_interrupted_anywhere(call, error):
    """Wherever a call is interrupted, others go on, the next ones are answered, and nothing stays taken or counted."""
    point, more = 0, True
    while more:
        point += 1
        setup = Setup(seconds={1: RUN_S}, max_queued_requests=100)
        others = Others(setup)
        more = interrupted_at(point, lambda setup=setup: call(setup), SCHEDULING, error=error)
        answer = setup.batcher.submit(setup.request(start=3)).result(WAIT_S)
        np.testing.assert_array_equal(answer.outputs["y"], rows(1, 3) * 2)
        assert others.end() == ([], []), point
        assert settled(setup) == NOTHING, point
        setup.close()
    assert point > 10


def put(setup, entries):
    """A caller takes its place in the queue."""
    entries.append(setup.batcher._desk.put(setup.request(), None)[0])


def test_interrupted_anywhere_while_a_slot_is_handed_on():
    """Whoever is to be given a slot has it and is told, or waits still and nobody has it."""
    point, more = 0, True
    outcomes = set()
    while more:
        point += 1
        setup = Setup(seconds={1: RUN_S})
        desk, slot, entries = setup.batcher._desk, setup.slot, []
        assert desk.take_now(setup.request()) is slot
        other = threading.Thread(target=put, args=(setup, entries))
        other.start()
        other.join(WAIT_S)
        (entry,) = entries
        slot.lease_until_s = setup.clock() - 1  # A lease that is over.
        release = (slot, (1,), RUN_S, setup.clock())
        more = interrupted_at(point, lambda desk=desk, of=release: wake(desk.release(*of)), SCHEDULING)
        for sleeper in desk.recover():
            if sleeper is entry.awake or sleeper not in desk.workers:
                wake(sleeper)
        given = entry.slot is slot
        outcomes.add(given)
        assert given is (slot.holder == entry.owner) is (not entry.queued), point
        assert slot.busy is given
        assert not given or entry.wait(0.0) is slot, point
        if given:
            desk.release(slot, (), 0.0, setup.clock())
        desk.give_up(entry, expired=True)
        setup.close()
    assert outcomes == {True, False}


@pytest.mark.parametrize("call", ["cancel", "result", "exception"])
def test_an_interrupted_caller_leaves_the_lock_of_its_future(call):
    """Whoever brings the answer never waits for a caller that was interrupted in the future's own methods."""
    point, more = 0, True
    while more:
        point += 1
        future = Pending()

        def ask(future=future):
            if call == "cancel":
                future.cancel()
            else:
                with pytest.raises(TimeoutError):
                    getattr(future, call)(0.0)

        more = interrupted_at(point, ask, "threading.py", "concurrent/futures")
        done = Future()
        threading.Thread(target=lambda future=future, done=done: done.set_result(future.done()), daemon=True).start()
        done.result(WAIT_S)
    assert point > 3


@pytest.fixture
def setup():
    made = Setup(sizes=(1,), max_queued_requests=100)
    yield made
    made.close()


@pytest.mark.parametrize("error", [Timeout("mine"), TimeoutError("mine")])
def test_what_a_handler_raises_during_a_run_is_the_callers(setup, error):
    """What is not an engine's own doing reaches the caller as it is, and nobody supervises the engine for it."""
    original, setup.engine.run = setup.engine.run, raising(error)
    with pytest.raises(type(error), match="mine"):
        setup.batcher.infer(setup.request())
    with pytest.raises(type(error), match="mine"):
        setup.batcher.try_bulk(Bulk([setup.request()]))
    setup.engine.run = original
    assert setup.failures == []
    assert settled(setup) == NOTHING
    assert setup.batcher.infer(setup.request()).place == "device:cpu"


def raising(error):
    def run(signature, inputs, limit_s):
        raise error

    return run


def test_what_an_engine_raises_is_its_failure(setup):
    """Python's own errors in a run are the engine's."""
    setup.engine.run = raising(RuntimeError("in invoke"))
    with pytest.raises(EngineFailed, match="RuntimeError: in invoke"):
        setup.batcher.infer(setup.request())
    assert len(setup.failures) == 1


def test_recovery_leaves_what_others_run(setup):
    """After an interrupt the rows that run are those of the others."""
    other = setup.add()
    desk = setup.batcher._desk
    thread = threading.Thread(target=lambda: desk.take_now(setup.request()))
    thread.start()
    thread.join(WAIT_S)
    assert desk.take_now(setup.request(2)) is other
    assert desk.running_rows == 3
    desk.recover()
    assert (desk.running_rows, desk.slots.busy) == (1, 1)
    desk.release(setup.slot, (1,), 0.0, setup.clock())


def test_recovery_takes_the_callers_request_out_of_the_queue(setup):
    """Nobody waits for the answer of a caller that was interrupted in its sleep; what others asked for stays."""
    first = setup.occupy()
    desk = setup.batcher._desk
    mine, _, _ = desk.put(setup.request(start=1), None)
    future = setup.batcher.submit(setup.request(start=2))
    again = desk.queue.entry(setup.request(start=3), None, setup.clock())
    desk.retries.append(again)
    desk.recover()
    assert not mine.queued
    assert not desk.retries
    setup.engine.gate.set()
    first.result(WAIT_S)
    future.result(WAIT_S)
    assert setup.engine.firsts == [0.0, 2.0]


def test_a_fault_of_a_worker_does_not_end_it(setup):
    """A worker that fails gives back what it had, tells its callers, and serves on."""
    desk = setup.batcher._desk
    original = desk.goes_on

    def once(*args):
        desk.goes_on = original
        raise KeyError("unforeseen")

    desk.goes_on = once
    setup.engine.run = raising(EngineFailed("first"))
    with pytest.raises(EngineFailed):
        setup.batcher.submit(setup.request()).result(WAIT_S)
    del setup.engine.run
    assert setup.batcher.submit(setup.request()).result(WAIT_S).place == "device:cpu"
    assert settled(setup) == NOTHING


def test_interrupted_submit_leaves_nothing_to_run(setup):
    """A request whose future nobody has does not run."""
    first = setup.occupy()

    def interrupt():
        raise KeyboardInterrupt

    setup.batcher._on_pressure = interrupt
    with pytest.raises(KeyboardInterrupt):
        setup.batcher.submit(setup.request(start=5))
    setup.batcher._on_pressure = lambda: None
    gone = setup.batcher.submit(setup.request(start=6))
    assert gone.cancel()
    setup.engine.gate.set()
    first.result(WAIT_S)
    with pytest.raises(CancelledError):
        gone.result(0)
    assert settled(setup) == NOTHING
    assert setup.engine.firsts == [0.0]
