import threading
from _thread import allocate_lock

import numpy as np
import pytest
from support.edge_models import rows, scale_signature
from support.gated_engines import WAIT_S, Setup

from edge_runtime import DeadlineExceeded, EngineFailed
from edge_runtime.errors import EngineLost
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.queue import RequestQueue
from edge_runtime.scheduling.slot import Slot


@pytest.fixture
def setup():
    made = Setup(sizes=(1,), max_queued_requests=100)
    yield made
    made.close()


def test_high_priority_runs_first(setup):
    """Urgent requests run before the others, whatever their deadlines; within a priority the earliest is first."""
    first = setup.occupy()
    now_s = setup.clock()
    asked = [(1.0, now_s + 1, 1), (2.0, None, 0), (3.0, now_s + 2, 1), (4.0, now_s + 3, 0), (5.0, None, 1)]
    futures = [setup.batcher.submit(setup.request(start=a, deadline_s=b, priority=c)) for a, b, c in asked]
    setup.engine.gate.set()
    for future in [first, *futures]:
        future.result(WAIT_S)
    assert setup.engine.firsts == [0.0, 4.0, 2.0, 1.0, 3.0, 5.0]


def test_what_would_be_late_never_runs(setup):
    """A request that could not be answered in time any more is refused before it runs, and tells why."""
    setup.occupy()
    dead = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.005))
    alive = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.05))
    setup.engine.gate.set()
    alive.result(WAIT_S)
    with pytest.raises(DeadlineExceeded, match=r"5\.0 ms left for a run of 7\.5 ms"):
        dead.result(WAIT_S)
    assert setup.engine.runs == [1, 1]
    stats = setup.batcher.stats()
    assert (stats.dropped, stats.expired) == (1, 0)


def test_a_device_that_became_slow_is_tried_by_what_waits(setup):
    """Where the estimate would refuse every request, one a second runs all the same."""
    for _ in range(50):
        setup.costs.record(1, 0.5)
    setup.clock.advance(2)
    reply = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.05)).result(WAIT_S)
    assert reply.place == "device:cpu"
    with pytest.raises(DeadlineExceeded):
        setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.05)).result(WAIT_S)


def test_a_batch_waits_for_company_that_is_expected():
    """Where arrivals come fast and a fuller batch pays, a started one waits for it, by the injected clock."""
    setup = Setup(seconds={1: 0.010, 2: 0.011, 4: 0.012}, max_queued_requests=100)
    first = setup.occupy()
    futures = []
    for i in range(3):
        setup.clock.advance(0.0001)
        futures.append(setup.batcher.submit(setup.request(start=i)))
    setup.engine.gate.set()
    first.result(WAIT_S)
    assert not setup.engine.entered.acquire(timeout=0.03)
    futures.append(setup.batcher.submit(setup.request(start=3)))
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(1, i) * 2)
    assert setup.engine.runs == [1, 4]
    setup.close()


def test_a_batch_does_not_wait_longer_than_expected():
    """When the company does not come, the batch runs as it is."""
    setup = Setup(seconds={1: 0.010, 4: 0.012}, max_queued_requests=100)
    first = setup.occupy()
    futures = []
    for i in range(3):
        setup.clock.advance(0.0001)
        futures.append(setup.batcher.submit(setup.request(start=i)))
    setup.engine.gate.set()
    first.result(WAIT_S)
    setup.clock.advance(0.006)
    for future in futures:
        future.result(WAIT_S)
    assert setup.engine.runs == [1, 1, 1, 1]
    setup.close()


class Desks:
    """A desk with one slot whose runs are short, and a caller that sleeps."""

    def __init__(self):
        self.setup = Setup(seconds={1: 0.00001})
        self.desk = Desk({"serving_default": scale_signature()}, RequestQueue(10, 1000), self.setup.clock)
        self.slot = Slot(self.setup.engine, Gate(1), self.setup.costs)
        self.desk.add(self.slot)
        self.setup.close()

    def release(self):
        return self.desk.release(self.slot, (1,), 0.0, self.setup.clock(), 1, 1)


def test_short_runs_are_leased():
    """Where runs are short, who comes back finds the slot again for 5 ms; then the caller that sleeps is given it."""
    one = Desks()
    assert one.desk.take_now(one.setup.request()) is one.slot
    sleeping, _, _ = one.desk.put(one.setup.request(), None)
    for _ in range(2):
        assert one.release() is None
        assert one.desk.take_now(one.setup.request()) is one.slot
    one.setup.clock.advance(0.006)
    one.release().release()
    assert sleeping.wait(0) is one.slot
    assert one.desk.take_now(one.setup.request()) is None
    assert one.desk.running_rows == 1


@pytest.mark.parametrize("hurry", [{"priority": 0}, {"deadline_s": 100.008}])
def test_what_is_urgent_ends_leases(hurry):
    """A request of high priority or with little time left is not overtaken."""
    one = Desks()
    assert one.desk.take_now(one.setup.request()) is one.slot
    one.desk.put(one.setup.request(), None)
    assert one.release() is None
    one.desk.put(one.setup.request(**hurry), None)
    assert one.desk.take_now(one.setup.request()) is None


def test_nobody_waits_for_a_caller_that_has_gone():
    """A worker takes a leased slot that nobody came back for, and for a while there are no leases."""
    one = Desks()
    assert one.desk.take_now(one.setup.request()) is one.slot
    one.desk.put(one.setup.request(), None)
    one.release()
    me = allocate_lock()
    assert one.desk.next(me, slept=False).slot is None
    assert one.desk.next(me, slept=True).slot is one.slot
    one.desk.put(one.setup.request(), None)
    one.release()
    assert one.desk.take_now(one.setup.request()) is None


def test_whoever_gives_up_hands_its_slot_on():
    """A caller whose time is over as it is given a slot is told of it, to release it."""
    one = Desks()
    assert one.desk.take_now(one.setup.request()) is one.slot
    sleeping, _, _ = one.desk.put(one.setup.request(), None)
    one.release()
    assert one.desk.take_now(one.setup.request()) is one.slot
    one.setup.clock.advance(0.006)
    one.release()
    assert one.desk.give_up(sleeping, expired=True) is one.slot


def test_long_runs_do_not_overtake(setup):
    """Where a run is long, who waits is first."""
    setup.batcher._desk.queue.push(setup.request(), None, setup.clock())
    assert setup.batcher.try_infer(setup.request()) is None


def test_sleeping_callers_get_their_own_answers():
    """Many threads on few slots are each answered with their own rows, however short the runs."""
    setup = Setup(seconds={1: 0.00001}, max_queued_requests=1000)
    setup.add()
    wrong = []

    def ask(base):
        for i in range(300):
            value = base * 1000.0 + i
            if setup.batcher.infer(setup.request(start=value)).outputs["y"][0, 0] != value * 2:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(base,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    stats = setup.batcher.stats()
    assert (stats.requests, stats.rows, stats.batches) == (2400, 2400, {1: 2400})
    assert (stats.queued, stats.running) == (0, 0)
    setup.close()


def test_counts(setup):
    """What was asked, run, cancelled and refused is counted."""
    first = setup.occupy()
    gone, stays = setup.batcher.submit(setup.request(2)), setup.batcher.submit(setup.request(3))
    assert gone.cancel()
    assert (setup.batcher.stats().queued, setup.batcher.stats().running) == (1, 1)
    setup.engine.gate.set()
    first.result(WAIT_S)
    stays.result(WAIT_S)
    setup.batcher.infer(setup.request())
    stats = setup.batcher.stats()
    assert (stats.requests, stats.rows, stats.cancelled) == (4, 7, 1)
    assert stats.batches == {1: 2, 3: 1}


@pytest.mark.parametrize("queued", [True, False])
def test_a_failure_after_the_deadline_is_a_missed_deadline(setup, queued):
    """A request whose run fails when its deadline has passed is told of the deadline, and counted as expired."""

    def run(signature, inputs, limit_s):
        setup.clock.advance(1.0)
        raise EngineFailed("no")

    setup.engine.run = run
    request = setup.request(deadline_s=setup.clock() + 0.5)
    with pytest.raises(DeadlineExceeded, match="a run that failed") as caught:
        setup.batcher.submit(request).result(WAIT_S) if queued else setup.batcher.infer(request)
    assert isinstance(caught.value.__cause__, EngineFailed)
    stats = setup.batcher.stats()
    assert (stats.requests, stats.expired, stats.failed) == (1, 1, 0)


def test_bulk_is_answered_in_order_and_interrupted_by_what_is_urgent(setup):
    """Requests of one entry are run in pieces; what is more urgent runs in between."""
    first = setup.occupy()
    bulk = setup.batcher.submit_bulk([setup.request(start=i) for i in range(10, 14)])
    original = setup.engine.run

    def slow(signature, inputs, limit_s):
        setup.clock.advance(0.01)
        return original(signature, inputs, limit_s)

    setup.engine.run = slow
    urgent = setup.batcher.submit(setup.request(start=1, priority=0))
    setup.engine.gate.set()
    for future in (first, urgent, bulk):
        future.result(WAIT_S)
    assert [reply.outputs["y"][0, 0] for reply in bulk.outcomes] == [20.0, 22.0, 24.0, 26.0]
    assert setup.engine.firsts == [0.0, 1.0, 10.0, 11.0, 12.0, 13.0]


def test_bulk_is_batched_where_that_pays():
    """A bulk's requests are joined up to the largest size that they fill."""
    setup = Setup(max_queued_requests=100)
    bulk = setup.batcher.submit_bulk([setup.request(start=i) for i in range(7)])
    bulk.result(WAIT_S)
    assert [reply.outputs["y"][0, 0] for reply in bulk.outcomes] == [2.0 * i for i in range(7)]
    assert setup.engine.runs == [4, 2, 1]
    setup.close()


def test_bulk_keeps_one_failure_from_the_rest(setup):
    """One bad request of a bulk fails alone."""
    bulk = setup.batcher.submit_bulk([setup.request(start=value) for value in (1, np.nan, 3)])
    bulk.result(WAIT_S)
    assert [isinstance(outcome, EngineFailed) for outcome in bulk.outcomes] == [False, True, False]


def test_bulk_counts_as_its_requests(setup):
    """What waits of a bulk is counted by requests, and once no slot is left what it had left has failed."""
    first = setup.occupy()
    bulk = setup.batcher.submit_bulk([setup.request(start=i) for i in range(5)])
    assert (setup.batcher.stats().queued, setup.batcher.load.queued_requests) == (5, 1)
    original, runs = setup.engine.run, []

    def run(signature, inputs, limit_s):
        runs.append(inputs)
        if len(runs) == 3:
            raise EngineLost("gone", "crashed")
        return original(signature, inputs, limit_s)

    setup.engine.run = run
    setup.engine.gate.set()
    first.result(WAIT_S)
    with pytest.raises(EngineFailed, match="no engine"):
        bulk.result(WAIT_S)
    stats = setup.batcher.stats()
    assert (stats.queued, stats.retried, stats.failed) == (0, 1, 2)
    assert stats.requests == stats.rows == 5  # Without the one that whoever waits is to ask again.


@pytest.mark.parametrize("own_thread", [True, False])
def test_a_joined_run_that_fails_is_counted_as_retried(own_thread):
    """Requests that failed joined and are to be asked again are retried, and count as requests when they are."""
    setup = Setup(max_queued_requests=100)
    bulk = Bulk([setup.request(start=value) for value in (1, np.nan, 3, 4, 5)])
    if own_thread:
        while not bulk.done_all:
            setup.batcher.try_bulk(bulk)
    else:
        bulk = setup.batcher.submit_bulk(bulk.requests)
        bulk.result(WAIT_S)
    stats = setup.batcher.stats()
    assert (stats.requests, stats.rows, stats.retried, stats.failed) == (1, 1, 4, 0)
    for request in bulk.requests[2:4]:
        setup.batcher.infer(request)
    assert setup.batcher.stats().requests == 3
    setup.close()


def test_bulk_goes_on_elsewhere_when_its_engine_is_lost(setup):
    """What is left of a bulk runs on the slot that takes over, and without one it ends."""
    setup.add(rank=1)
    setup.engine.failure = EngineLost("gone", "crashed")
    bulk = setup.batcher.submit_bulk([setup.request(start=i) for i in range(3)])
    bulk.result(WAIT_S)
    assert [getattr(outcome, "place", None) for outcome in bulk.outcomes] == [None, "device:other", "device:other"]
    (last,) = setup.batcher.slots
    last.engine.failure = EngineLost("gone", "crashed")
    with pytest.raises(EngineFailed):
        setup.batcher.submit_bulk([setup.request(), setup.request()]).result(WAIT_S)
