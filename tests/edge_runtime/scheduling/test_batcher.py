import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from support.edge_models import rows
from support.gated_engines import WAIT_S, Setup

from edge_runtime import DeadlineExceeded, EngineFailed, Overloaded, RuntimeClosed
from edge_runtime.scheduling.runs import split


@pytest.fixture
def setup():
    made = Setup()
    yield made
    made.close()


def test_idle_engine_answers_in_the_callers_thread(setup):
    """With an idle engine no other thread takes part."""
    seen = []
    setup.engine.run = lambda signature, inputs, limit_s: seen.append(threading.get_ident()) or {"y": inputs["x"]}
    reply = setup.batcher.infer(setup.request())
    assert seen == [threading.get_ident()]
    assert (reply.version, reply.place, reply.reason) == (3, "device:cpu", "local")


def test_busy_engine_is_not_waited_for_by_try_infer(setup):
    """try_infer says None at once where no engine is idle."""
    setup.occupy()
    assert setup.batcher.try_infer(setup.request()) is None


def test_waiting_requests_run_as_one_batch_and_get_their_own_rows(setup):
    """Requests that came while the engine was busy are joined, and each gets its own rows back."""
    setup.occupy()
    futures = [setup.batcher.submit(setup.request(start=100.0 * i)) for i in range(4)]
    setup.engine.gate.set()
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(1, 100.0 * i) * 2)
    assert setup.engine.runs == [1, 4]


def test_a_run_that_takes_far_too_long_is_stalled(setup):
    """What waits behind it is told for how long it has, until it ends; a run that is a little late is none."""
    setup.occupy()
    setup.clock.advance(0.02)
    assert (setup.batcher.load.stalled, setup.batcher.load.stalled_s) == (0, 0.0)
    setup.clock.advance(0.06)
    assert setup.batcher.load.stalled == 1
    assert setup.batcher.load.stalled_s == pytest.approx(0.08)
    waiting = setup.batcher.submit(setup.request())
    setup.engine.gate.set()
    waiting.result(WAIT_S)
    assert setup.batcher.load.stalled == 0


def test_batches_are_not_formed_where_they_do_not_pay():
    """Where only size 1 pays, waiting requests run one by one."""
    setup = Setup(sizes=(1,))
    setup.occupy()
    futures = [setup.batcher.submit(setup.request()) for _ in range(3)]
    setup.engine.gate.set()
    for future in futures:
        future.result(WAIT_S)
    setup.batcher.close()
    assert setup.engine.runs == [1, 1, 1, 1]


def test_full_queue_refuses_at_once():
    """Beyond the bound a request is refused, and those that were taken are answered."""
    setup = Setup(max_queued_requests=2)
    setup.occupy()
    taken = [setup.batcher.submit(setup.request(4)) for _ in range(2)]
    assert setup.batcher.load.full
    with pytest.raises(Overloaded, match="2 of 2 requests"):
        setup.batcher.submit(setup.request())
    setup.engine.gate.set()
    assert [len(future.result(WAIT_S).outputs["y"]) for future in taken] == [4, 4]
    setup.batcher.close()


def test_expired_request_never_runs(setup):
    """A request whose deadline passes in the queue fails with where the time went, and costs the engine nothing."""
    setup.occupy()
    dead = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 1))
    alive = setup.batcher.submit(setup.request(2))
    setup.clock.advance(2)
    setup.engine.gate.set()
    alive.result(WAIT_S)
    with pytest.raises(DeadlineExceeded, match="device's queue"):
        dead.result(WAIT_S)
    assert setup.engine.runs == [1, 2]


def test_late_answer_is_a_missed_deadline(setup):
    """An answer that comes after the deadline is not passed off as one in time."""
    setup.engine.run = lambda signature, inputs, limit_s: setup.clock.advance(5) or {"y": inputs["x"]}
    with pytest.raises(DeadlineExceeded, match="running 5000") as caught:
        setup.batcher.infer(setup.request(deadline_s=setup.clock() + 1))
    assert caught.value.spent_ms["running"] == pytest.approx(5000)


def test_cancelled_request_frees_its_place(setup):
    """A cancelled request never runs, and its batch-mates are answered."""
    setup.occupy()
    gone, stays = setup.batcher.submit(setup.request()), setup.batcher.submit(setup.request())
    assert gone.cancel()
    setup.engine.gate.set()
    stays.result(WAIT_S)
    with pytest.raises(CancelledError):
        gone.result(0)
    assert setup.engine.runs == [1, 1]


def test_one_bad_request_does_not_harm_its_batch_mates(setup):
    """When a batch fails its requests run one by one, and only the one at fault fails."""
    setup.occupy()
    good, bad = setup.batcher.submit(setup.request()), setup.batcher.submit(setup.request(start=np.nan))
    setup.engine.gate.set()
    np.testing.assert_array_equal(good.result(WAIT_S).outputs["y"], rows(1) * 2)
    with pytest.raises(EngineFailed, match="NaN"):
        bad.result(WAIT_S)


def test_any_exception_of_an_engine_is_the_requests_own(setup):
    """An engine that raises what nobody foresaw fails that request, and the worker serves on."""
    first = setup.occupy()
    original = setup.engine.run

    def once(signature, inputs, limit_s):
        setup.engine.run = original
        raise MemoryError("no room")

    setup.engine.run = once
    failed = setup.batcher.submit(setup.request())
    setup.engine.gate.set()
    first.result(WAIT_S)
    with pytest.raises(EngineFailed, match="MemoryError: no room"):
        failed.result(WAIT_S)
    setup.batcher.submit(setup.request()).result(WAIT_S)


def test_close_answers_what_was_taken():
    """Closing refuses what comes later, finishes what waits, and then frees the engines."""
    setup = Setup()
    running = setup.occupy()
    waiting = setup.batcher.submit(setup.request())
    closer = threading.Thread(target=setup.batcher.close)
    closer.start()
    setup.engine.gate.set()
    running.result(WAIT_S)
    waiting.result(WAIT_S)
    closer.join(WAIT_S)
    assert setup.engine.closed
    with pytest.raises(RuntimeClosed):
        setup.batcher.infer(setup.request())
    with pytest.raises(RuntimeClosed):
        setup.batcher.submit(setup.request())


def test_output_rows_are_counted():
    """An output with another number of rows than went in can't be told apart, and is an error for all of them."""
    with pytest.raises(EngineFailed, match=r"\[3, 4\] for 2 rows"):
        split({"y": rows(3)}, [1, 1], 0)


def test_cancelling_makes_room():
    """The place of a cancelled request is free at once, while the engine is still busy."""
    setup = Setup(max_queued_requests=2)
    setup.occupy()
    waiting = [setup.batcher.submit(setup.request()) for _ in range(2)]
    assert setup.batcher.load.full
    assert waiting[0].cancel()
    assert setup.batcher.load.queued_rows == 1
    late_comer = setup.batcher.submit(setup.request())
    setup.engine.gate.set()
    late_comer.result(WAIT_S)
    setup.batcher.close()
