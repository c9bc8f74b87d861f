"""No error of ours, nor of what is told of runs, costs a thread, a place, or anybody's outcome."""

import threading

from support.batch_stand import BatchStand, make, rows

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import ExecutionFailed


def answer(inputs):
    return {"y": inputs["x"]}


def test_whoever_is_told_of_runs_and_raises_fails_the_batch_and_no_more():
    """It must not; each of the batch has its outcome, and the next runs."""
    stand = BatchStand()

    def told(run):
        raise RuntimeError("told")

    queue = stand.queue(answer, on_run=told)
    tasks, _ = stand.submit(queue, rows(1), rows(2))
    outcomes = stand.run()
    assert all(isinstance(outcomes[task], ExecutionFailed) for task in tasks)
    assert stand.idle()
    assert not len(stand.scheduler._runs)


class Broken:
    """A caller who can't be asked whether it is there."""

    @property
    def cancelled(self):
        raise RuntimeError("broken")


def test_a_batch_that_can_not_be_put_together_fails_all_that_wait_for_it(caplog):
    """Of its queue; others go on, and so does that one with what comes next."""
    stand = BatchStand(batch_timeout_us=1000)
    queue, other = stand.queue(answer), stand.queue(answer)
    broken = make(rows(1))
    stand.scheduler.submit([(queue, broken)])
    (mate,), _ = stand.submit(queue, rows(2))
    (fine,), _ = stand.submit(other, rows(3))
    broken.caller = Broken()
    queue.due_at_s = lambda: 0.0
    outcomes = stand.run()
    assert isinstance(outcomes[broken], ExecutionFailed)
    assert isinstance(outcomes[mate], ExecutionFailed)
    stand.clock.advance(0.002)
    assert "y" in stand.run()[fine]
    assert "no batch could be put together" in caplog.text
    (later,), _ = stand.submit(queue, rows(4))
    assert "y" in stand.run()[later]
    assert stand.idle()
    assert not len(stand.scheduler._runs)


def test_a_caller_that_can_not_be_asked_fails_with_its_batch():
    """When it is about to run: all of the batch are told, and its place is given back."""
    stand = BatchStand()
    queue = stand.queue(answer)
    broken, mate = make(rows(1)), make(rows(2))
    broken.caller = Broken()
    stand.scheduler.submit([(queue, broken), (queue, mate)])
    outcomes = stand.run()
    assert isinstance(outcomes[broken], ExecutionFailed)
    assert isinstance(outcomes[mate], ExecutionFailed)
    assert not len(stand.scheduler._runs)


def test_a_thread_goes_on_after_an_error_of_ours(caplog):
    """What waits is answered by it all the same."""
    failed, answered = threading.Event(), threading.Event()

    class Fails(BatchQueue):
        def due_at_s(self):
            if threading.current_thread().name.startswith("batch") and not failed.is_set():
                failed.set()
                raise RuntimeError("ours")
            return super().due_at_s()

    options = BatchingOptions(num_batch_threads=1)
    scheduler = BatchScheduler(options=options, on_done=lambda outcomes: answered.set())
    queue = Fails(name="m", run=answer, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(1)))])
    assert answered.wait(30)
    assert failed.is_set()
    assert scheduler.stop(timeout_s=30)
    assert "goes on after an error" in caplog.text
