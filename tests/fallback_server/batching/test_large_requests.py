"""Requests that are larger than all that may wait, and what becomes of the others meanwhile."""

import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor
from support.loops import until

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue
from fallback_server.batching.runs import LONG_S
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import DeadlineExceeded, QueueFull


def test_a_request_larger_than_the_queue_keeps_no_other_from_waiting_nor_from_being_answered():
    """It counts as half of the bound, and lets a batch of others pass after each piece."""
    stand, executor = BatchStand(max_batch_size_rows=4, max_enqueued_batches=4), FakeExecutor(factor=2)
    queue = stand.queue(executor)
    (large,), refusals = stand.submit(queue, rows(1, 40))
    assert refusals == [None]
    small, refusals = stand.submit(queue, *[rows(value) for value in range(9)])
    assert refusals[:8] == [None] * 8
    assert isinstance(refusals[8], QueueFull)
    assert "16 rows wait, 1 more would pass max_enqueued_batches * max_batch_size = 16" in str(refusals[8])
    for _ in range(4):
        stand.scheduler.step()
    assert {task for task, _ in stand.done} == set(small[:8])
    outcomes = stand.run()
    assert outcomes[large]["y"].tolist() == [[2, 2]] * 40
    assert executor.batches == [4] * 12
    assert stand.idle()


def test_several_large_requests_keep_no_more_places_than_one():
    """Together they count as half of the bound: a small one is let in beside them, and answered in the first rounds."""
    stand, executor = BatchStand(max_batch_size_rows=4, max_enqueued_batches=4), FakeExecutor(factor=2)
    queue = stand.queue(executor)
    large, refusals = stand.submit(queue, *[rows(value, 40) for value in range(3)])
    assert refusals == [None] * 3
    (small,), refusals = stand.submit(queue, rows(7))
    assert refusals == [None]
    for _ in range(3):
        stand.scheduler.step()
    assert [task for task, _ in stand.done] == [small]
    outcomes = stand.run()
    for value, task in enumerate(large):
        assert outcomes[task]["y"].tolist() == [[2 * value, 2 * value]] * 40
    assert stand.idle()


def test_a_smaller_one_keeps_its_turn():
    """What is no larger than half of the bound is run before what came after it."""
    stand, executor = BatchStand(max_batch_size_rows=4, max_enqueued_batches=4), FakeExecutor()
    queue = stand.queue(executor)
    (large, small), _ = stand.submit(queue, rows(1, 8), rows(2))
    stand.run()
    assert [task for task, _ in stand.done] == [large, small]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(-1, 1), st.integers(0, 3)), max_size=25),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_counts_come_to_nothing_whatever_the_sizes(steps, max_rows, batches):
    """Each that was let in is answered once, with its own rows; what is let in beside large ones is bounded."""
    stand = BatchStand(max_batch_size_rows=max_rows, max_enqueued_batches=batches)
    queue = stand.queue(FakeExecutor(factor=2))
    tasks = []
    for number, (count, priority, runs) in enumerate(steps):
        task = make(rows(number, count), priority=priority)
        if stand.scheduler.submit([(queue, task)]) == [None]:
            tasks.append((task, np.full((count, 2), 2 * number)))
        assert queue.counted_rows() <= max(queue.options.max_enqueued_rows, max_rows)
        for _ in range(runs):
            stand.scheduler.step()
    outcomes = stand.run()
    assert len(stand.done) == len(tasks) == len(outcomes)
    for task, values in tasks:
        np.testing.assert_array_equal(outcomes[task]["y"], values)
    assert stand.idle()
    assert not queue.counted_rows()


def test_one_that_can_not_end_in_time_is_not_begun():
    """50 runs of 20 ms by two threads, of which 200 ms are left; with 600 ms it runs."""
    stand, executor = BatchStand(max_batch_size_rows=32, num_batch_threads=2), FakeExecutor()
    queue = stand.queue(executor)
    for _ in range(2):
        queue.costs.record(32, 0.02, stand.clock())
    (late,), _ = stand.submit(queue, rows(1, 1600), deadline_s=stand.clock() + 0.2)
    outcome = stand.run()[late]
    assert isinstance(outcome, DeadlineExceeded)
    assert "not run: 200.0 ms are left after 0 ms in the queue, and the 50 runs of what is left of it take" in str(
        outcome
    )
    assert not executor.batches
    (fine,), _ = stand.submit(queue, rows(1, 1600), deadline_s=stand.clock() + 0.6)
    assert "y" in stand.run()[fine]
    assert stand.idle()


def test_one_that_can_not_end_in_time_any_more_is_given_up():
    """Runs have become slower than was thought: what is left of it is not run, and it has one outcome."""
    stand, sizes = BatchStand(max_batch_size_rows=2, num_batch_threads=1), []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        stand.clock.advance(0.1)
        return {"y": inputs["x"]}

    (task,), _ = stand.submit(stand.queue(run), rows(1, 20), deadline_s=stand.clock() + 0.5)
    assert isinstance(stand.run()[task], DeadlineExceeded)
    assert len(sizes) == 2
    assert len(stand.done) == 1
    assert stand.idle()


def test_pieces_are_as_large_as_the_latency_target_lets():
    """Also the last one."""
    stand, sizes = BatchStand(max_batch_size_rows=32, target_latency_ms=50.0, bulk_rows=1024), []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        stand.clock.advance(0.002 * len(inputs["x"]))
        return {"y": inputs["x"]}

    queue = stand.queue(run)
    for _ in range(30):
        stand.submit(queue, *[rows(1)] * 40)
        stand.run()
    sizes.clear()
    stand.submit(queue, rows(1, 128))
    stand.run()
    assert sum(sizes) == 128
    assert max(sizes) <= 13


def test_what_waits_one_by_one_counts_as_one_each():
    """Merging has ended: a request of 30 rows is one run, at the door and in the queue's bound."""
    stand = BatchStand(max_batch_size_rows=4, max_enqueued_batches=2, num_batch_threads=2)

    def run(inputs):
        stand.clock.advance(0.01)
        return {"y": inputs["x"][:1]}

    queue = stand.queue(run)
    stand.submit(queue, rows(1), rows(2))
    stand.run()
    assert not queue.merges
    for _ in range(2):
        stand.submit(queue, rows(1, 30))
        stand.run()
    assert stand.submit(queue, *[rows(1, 30)] * 7)[1] == [None] * 7
    assert queue.batches() == 7
    assert stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.06)[1] == [None]
    assert isinstance(stand.submit(queue, rows(1))[1][0], QueueFull)
    assert stand.run()


def test_what_comes_when_its_deadline_has_passed_is_told_so():
    """Not that the queue is too full."""
    stand = BatchStand(max_batch_size_rows=1)
    queue = stand.queue(FakeExecutor())
    for _ in range(2):
        queue.costs.record(1, 0.05, stand.clock())
    stand.submit(queue, *[rows(1)] * 5)
    (refusal,) = stand.submit(queue, rows(1), deadline_s=stand.clock() - 0.02)[1]
    assert isinstance(refusal, DeadlineExceeded)
    assert "the deadline had passed 20 ms before it came" in str(refusal)


def test_pieces_of_a_request_run_side_by_side():
    """On all threads, though one request woke one of them."""
    together, answered = threading.Barrier(4), threading.Event()

    def run(inputs):
        together.wait(30)
        return {"y": inputs["x"]}

    options = BatchingOptions(max_batch_size_rows=4, num_batch_threads=4)
    scheduler = BatchScheduler(options=options, on_done=lambda outcomes: outcomes and answered.set())
    queue = BatchQueue(name="m", run=run, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(1, 16)))])
    assert answered.wait(30)
    assert scheduler.stop(timeout_s=30)


def test_what_a_caller_leaves_behind_is_run_by_a_thread_that_is_made_for_it():
    """Its first batch takes too long, and all threads hang in other models: the rest is answered all the same."""
    gate, answered, done, ahead_s = threading.Event(), threading.Event(), [], [0.0]

    def hang(inputs):
        assert gate.wait(30)
        return {"y": inputs["x"]}

    def slow(inputs):
        ahead_s[0] += 0.01
        return {"y": inputs["x"]}

    def on_done(outcomes):
        done.extend(outcomes)
        if len(done) == 6:
            answered.set()

    options = BatchingOptions(max_batch_size_rows=4, num_batch_threads=1)
    scheduler = BatchScheduler(options=options, on_done=on_done, clock=lambda: time.monotonic() + ahead_s[0])
    hung = [BatchQueue(name=f"hung{one}", run=hang, options=options, merges=True) for one in range(2)]
    quick = BatchQueue(name="quick", run=slow, options=options, merges=True, in_process=True)
    quick.costs.record(4, 1e-5, 0.0)
    scheduler.start()
    for queue in hung:
        scheduler.submit([(queue, make(rows(1)))])
    until(lambda: len(scheduler._runs) == 2)
    ahead_s[0] = 2 * LONG_S
    assert scheduler.run_here([(quick, make(rows(2))) for _ in range(6)]) == [None] * 6
    assert answered.wait(30)
    gate.set()
    assert scheduler.stop(timeout_s=30)


def test_the_last_piece_that_is_late_settles_the_request_before_another_fails():
    """One outcome, though the first piece is under way, and fails afterwards."""
    stand = BatchStand(max_batch_size_rows=4, num_batch_threads=3)

    def run(inputs):
        stand.clock.advance(0.1)
        assert stand.scheduler.step()
        raise RuntimeError("too late to matter")

    queue = stand.queue(run)
    for size in (1, 1, 4, 4):
        queue.costs.record(size, 0.05, stand.clock())
    (task,), _ = stand.submit(queue, rows(1, 5), deadline_s=stand.clock() + 0.12)
    assert isinstance(stand.run()[task], DeadlineExceeded)
    assert len(stand.done) == 1
    assert stand.idle()
