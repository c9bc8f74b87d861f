"""Short runs in the thread that brought their requests."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import QueueFull, ServerStopping


def short_queue(stand, executor, *, took_s=1e-5, **more):
    """A queue whose runs are in this process, and were measured; each takes the clock `took_s` further."""

    def run(inputs):
        stand.clock.advance(took_s)
        return executor.run("serving_default", inputs)

    queue = stand.queue(run, in_process=True, **more)
    queue.costs.record(1, 1e-5, stand.clock())
    return queue


def test_what_is_short_is_answered_before_the_call_returns():
    """As one batch, in this thread; nothing is left to the threads."""
    stand, executor = BatchStand(), FakeExecutor(factor=3)
    queue = short_queue(stand, executor)
    tasks = [make(rows(value)) for value in (1, 2)]
    assert stand.scheduler.run_here([(queue, task) for task in tasks]) == [None, None]
    outcomes = dict(stand.done)
    assert [outcomes[task]["y"][0, 0] for task in tasks] == [3, 6]
    assert executor.batches == [2]
    assert stand.idle()


def waits(stand, queue):
    """Nothing of this one is run here; it waits, and a thread runs it."""
    ran = len(stand.done)
    task = make(rows(1))
    assert stand.scheduler.run_here([(queue, task)]) == [None]
    assert len(stand.done) == ran
    assert task in stand.run()
    return True


def test_what_is_not_short_or_has_others_before_it_goes_to_the_threads():
    """Another process, no measurement, a slow one, a bound of 0, something that waits, no free place."""
    stand, executor = BatchStand(num_batch_threads=1), FakeExecutor()
    assert waits(stand, stand.queue(executor))
    assert waits(stand, stand.queue(executor, in_process=True))
    slow = stand.queue(executor, in_process=True)
    slow.costs.record(1, 0.01, stand.clock())
    assert waits(stand, slow)
    never = BatchStand(max_inline_us=0)
    assert waits(never, short_queue(never, executor))
    queue = short_queue(stand, executor)
    stand.submit(queue, rows(1))
    assert waits(stand, queue)
    other = short_queue(stand, executor)
    runs = [stand.scheduler._runs.begin(object(), stand.clock()) for _ in range(2)]
    task = make(rows(1))
    stand.scheduler.run_here([(other, task)])
    assert not any(done is task for done, _ in stand.done)
    for run in runs:
        stand.scheduler._runs.end(run)
    assert task in stand.run()


def test_a_caller_may_say_how_long_it_has():
    """A thread of its own has more time for a run than an event loop."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = stand.queue(executor, in_process=True)
    queue.costs.record(1, 0.0008, stand.clock())
    assert waits(stand, queue)
    queue.costs.record(1, 0.0008, stand.clock())
    stand.scheduler.run_here([(queue, make(rows(1)))], inline_s=0.001)
    assert executor.batches == [1, 1]
    assert stand.idle()


def test_a_run_that_takes_far_too_long_sends_the_next_to_the_threads_at_once():
    """Until others have shown that it was an exception: those that the threads have run."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = short_queue(stand, executor, took_s=0.002)
    for _ in range(200):
        queue.costs.record(1, 1e-5, stand.clock())
    stand.scheduler.run_here([(queue, make(rows(1)))])
    assert executor.batches == [1]
    assert not queue.is_short(1, bound_s=0.001)
    for _ in range(10):
        queue.costs.record(1, 1e-5, stand.clock())
    assert queue.is_short(1, bound_s=0.001)


def test_one_short_run_shows_that_a_long_one_was_an_exception():
    """What the threads run beside others takes longer than by itself: the mean of that would keep it there for long."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = short_queue(stand, executor)
    for took_s, here in ((0.01, False), (1e-5, True), (0.01, False), (0.01, False), (1e-5, True)):
        queue.costs.record(1, took_s, stand.clock(), believed_s=0.001)
        assert queue.is_short(1, bound_s=0.00025) is here


def test_a_thread_does_not_go_on_for_long():
    """Beyond four times the bound the rest of a list waits for the threads."""
    stand, executor = BatchStand(max_batch_size_rows=1), FakeExecutor()
    queue = short_queue(stand, executor, took_s=0.0002)
    stand.scheduler.run_here([(queue, make(rows(1))) for _ in range(20)])
    assert len(executor.batches) == 5
    stand.run()
    assert len(executor.batches) == 20
    assert stand.idle()


def test_bounds_and_a_stop_hold_here_too():
    """What is over the bound is refused, also of one list; and all when the server stops."""
    stand, executor = BatchStand(max_batch_size_rows=1, max_enqueued_batches=2), FakeExecutor()
    queue = short_queue(stand, executor)
    refusals = stand.scheduler.run_here([(queue, make(rows(1))) for _ in range(3)])
    assert refusals[:2] == [None, None]
    assert isinstance(refusals[2], QueueFull)
    assert len(stand.done) == 2
    stand.scheduler.stop(timeout_s=1)
    (refusal,) = stand.scheduler.run_here([(queue, make(rows(1)))])
    assert isinstance(refusal, ServerStopping)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), max_size=30))
def test_here_or_there_nothing_is_lost_or_doubled(steps):
    """Whatever is short or not, and however lists are mixed, each task has one outcome, its own."""
    stand = BatchStand(max_batch_size_rows=3, max_enqueued_batches=1000)
    executor = FakeExecutor(factor=2)
    queues = [short_queue(stand, executor), short_queue(stand, executor, took_s=0.01), stand.queue(executor)]
    given_tasks = []
    for number, (which, count, here) in enumerate(steps):
        tasks = [make(rows(number + index / 10, count=index + 1)) for index in range(count)]
        given_tasks += tasks
        items = [(queues[(which + index) % 3], task) for index, task in enumerate(tasks)]
        submit = stand.scheduler.run_here if here else stand.scheduler.submit
        assert submit(items) == [None] * count
    values = [(task, task.inputs["x"].copy()) for task in given_tasks if task.inputs]
    outcomes = stand.run()
    assert len(stand.done) == len(given_tasks) == len(outcomes)
    for task, value in values:
        np.testing.assert_array_equal(outcomes[task]["y"], value * 2)
    assert stand.idle()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_callers_side_by_side(threads):
    """Callers that run here, and threads that take the rest: each request is answered once."""
    done, lock = [], threading.Lock()

    def take(outcomes):
        with lock:
            done.extend(outcomes)

    options = BatchingOptions(num_batch_threads=threads, max_batch_size_rows=4, max_inline_us=100_000)
    scheduler = BatchScheduler(options=options, on_done=take)
    queue = BatchQueue(
        name="m", run=lambda inputs: {"y": inputs["x"] * 2}, options=options, merges=True, in_process=True
    )
    scheduler.start()

    def bring(base):
        for number in range(100):
            scheduler.run_here([(queue, make(rows(base + number))) for _ in range(2)])

    callers = [threading.Thread(target=bring, args=(1000 * index,)) for index in range(3)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(30)
    assert scheduler.stop(timeout_s=30)
    assert len({id(task) for task, _ in done}) == len(done) == 600
    assert queue.rows == queue.bytes == 0
