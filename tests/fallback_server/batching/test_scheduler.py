import functools
import gc
import threading
import weakref

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, caller
from support.loops import until

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.batching.runs import Runner
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    QueueFull,
    RequestCancelled,
    ServerStopping,
)


class Bench:
    """A scheduler without threads, stepped by the test."""

    def __init__(self, **options):
        self.options = BatchingOptions(**options)
        self.clock = FakeClock()
        self.done = []
        self.batches = []
        self.scheduler = BatchScheduler(options=self.options, on_done=self.take, clock=self.clock)

    def take(self, outcomes):
        self.batches.append(len(outcomes))
        self.done.extend(outcomes)

    def queue(self, executor, *, merges=True, name="m/1:serving_default"):
        run = executor if callable(executor) else lambda inputs: executor.run("serving_default", inputs)
        return BatchQueue(name=name, run=run, options=self.options, merges=merges)

    def submit(self, queue, *arrays, **options):
        tasks = [make(array, **options) for array in arrays]
        return tasks, self.scheduler.submit([(queue, task) for task in tasks])

    def run(self):
        while self.scheduler.step():
            pass
        return dict(self.done)


def make(array, *, deadline_s=None, cancelled=False):
    return Task(caller=caller(cancelled=cancelled), inputs={"x": array}, deadline_s=deadline_s, rows=len(array))


def rows(value, count=1, width=2):
    return np.full((count, width), value, np.float32)


def test_what_waits_is_run_together_and_split_by_rows():
    """Requests of 1, 3 and 2 rows run as one batch of 6, and each gets its own rows."""
    bench, executor = Bench(), FakeExecutor(factor=10)
    tasks, refusals = bench.submit(bench.queue(executor), rows(1), rows(2, 3), rows(3, 2))
    assert refusals == [None] * 3
    outcomes = bench.run()
    assert executor.batches == [6]
    for task, value in zip(tasks, (10, 20, 30), strict=True):
        np.testing.assert_array_equal(outcomes[task]["y"], np.full_like(task.inputs["x"], value))


def test_a_batch_is_never_larger_than_the_bound_but_for_one_large_request():
    """Full batches in order; without splitting a request larger than a batch runs alone."""
    bench, executor = Bench(max_batch_size_rows=4, enable_large_batch_splitting=False), FakeExecutor()
    bench.submit(bench.queue(executor), rows(1, 3), rows(2, 2), rows(3, 2), rows(4, 9), rows(5))
    bench.run()
    assert executor.batches == [3, 4, 9, 1]


def test_a_first_request_waits_for_company_no_longer_than_the_timeout():
    """Not due before the timeout, due then; due at once when the batch is full."""
    bench, executor = Bench(max_batch_size_rows=4, batch_timeout_us=2000), FakeExecutor()
    queue = bench.queue(executor)
    bench.submit(queue, rows(1))
    assert not bench.scheduler.step()
    bench.clock.advance(0.0021)
    assert bench.scheduler.step()
    bench.submit(queue, rows(1, 2), rows(1, 2))
    assert bench.scheduler.step()
    assert executor.batches == [1, 4]


def test_queues_are_served_in_turn():
    """A queue with much work doesn't keep one with little waiting."""
    bench, busy, quiet = Bench(max_batch_size_rows=1), FakeExecutor(), FakeExecutor()
    bench.submit(bench.queue(busy), *[rows(1)] * 5)
    bench.submit(bench.queue(quiet), rows(2))
    bench.scheduler.step()
    bench.scheduler.step()
    assert (busy.batches, quiet.batches) == ([1], [1])


def test_other_inner_shapes_go_into_other_batches():
    """Rows of width 2 and 3 can't be one array; the older come first."""
    bench, executor = Bench(), FakeExecutor()
    bench.submit(bench.queue(executor), rows(1), rows(2, width=3), rows(3), rows(4, width=3))
    assert all("y" in outcome for outcome in bench.run().values())
    assert executor.batches == [2, 2]


def test_without_a_batch_axis_each_runs_alone():
    """A queue that doesn't merge runs one request at a time, unaltered."""
    bench, executor = Bench(), FakeExecutor()
    bench.submit(bench.queue(executor, merges=False), rows(1, 2), rows(2, 5))
    bench.run()
    assert executor.batches == [2, 5]
    bench = Bench(enabled=False)
    assert not bench.queue(executor).merges


def test_a_full_queue_refuses_at_once_and_others_go_on():
    """Beyond the bound: QueueFull that names it; the other model's queue is not touched by it."""
    bench, executor = Bench(max_batch_size_rows=2, max_enqueued_batches=2), FakeExecutor()
    full = bench.queue(executor)
    _, refusals = bench.submit(full, *[rows(1)] * 5)
    assert refusals[:4] == [None] * 4
    assert isinstance(refusals[4], QueueFull)
    assert "4 rows wait, 1 more would pass max_enqueued_batches * max_batch_size = 4" in str(refusals[4])
    assert bench.submit(bench.queue(executor), rows(1))[1] == [None]
    bench.run()
    assert bench.submit(full, rows(1))[1] == [None]


def test_cancelled_tasks_make_room_in_a_full_queue():
    """The places of callers that went away are free for others, and each of them is settled once."""
    bench, executor = Bench(max_batch_size_rows=1, max_enqueued_batches=4), FakeExecutor()
    queue = bench.queue(executor)
    gone, _ = bench.submit(queue, *[rows(1)] * 3, cancelled=True)
    alive, _ = bench.submit(queue, rows(2))
    more, refusals = bench.submit(queue, *[rows(3)] * 3)
    assert refusals == [None] * 3
    outcomes = bench.run()
    assert all(isinstance(outcomes[task], RequestCancelled) for task in gone)
    assert all("y" in outcomes[task] for task in (*alive, *more))
    assert executor.batches == [1] * 4
    assert (queue.rows, bench.scheduler._bytes) == (0, 0)


def test_bytes_that_wait_are_bounded_over_all_queues():
    """Many large requests are refused before they fill the memory, strings by their own size."""
    bench, executor = Bench(max_enqueued_bytes=20), FakeExecutor()
    assert bench.submit(bench.queue(executor), rows(1), rows(1))[1] == [None, None]
    (refusal,) = bench.submit(bench.queue(executor), rows(1))[1]
    assert isinstance(refusal, QueueFull)
    assert "16 bytes wait, 8 more would pass max_enqueued_bytes = 20" in str(refusal)
    text = np.array([[b"12345"]], dtype=object)
    assert isinstance(bench.submit(bench.queue(executor), text)[1][0], QueueFull)


def test_cancelled_and_expired_requests_are_not_run():
    """They come back as such, and the executor never sees their rows."""
    bench, executor = Bench(), FakeExecutor()
    queue = bench.queue(executor)
    (cancelled,), _ = bench.submit(queue, rows(1), cancelled=True)
    (late,), _ = bench.submit(queue, rows(2), deadline_s=bench.clock.now_s + 0.01)
    (fine,), _ = bench.submit(queue, rows(3), deadline_s=bench.clock.now_s + 1)
    bench.clock.advance(0.02)
    outcomes = bench.run()
    assert isinstance(outcomes[cancelled], RequestCancelled)
    assert isinstance(outcomes[late], DeadlineExceeded)
    assert "after 20 ms in the queue" in str(outcomes[late])
    assert "y" in outcomes[fine]
    assert executor.batches == [1]


def test_one_poisoned_request_harms_no_batch_mate(caplog):
    """The failed batch is run one by one; only the poisoned one fails, and its text tells nothing of the inside."""
    bench, executor = Bench(), FakeExecutor(poison=13)
    tasks, _ = bench.submit(bench.queue(executor), rows(1), rows(13), rows(2))
    outcomes = bench.run()
    assert executor.batches == [3, 1, 1, 1]
    assert "y" in outcomes[tasks[0]]
    assert "y" in outcomes[tasks[2]]
    assert isinstance(outcomes[tasks[1]], ExecutionFailed)
    assert "secret" not in str(outcomes[tasks[1]])
    assert "secret" in caplog.text


def test_the_models_own_refusal_reaches_the_caller():
    """What the model says of a request's values is the request's fault, told as it is."""

    def refuse(inputs):
        raise InvalidInput("index 7 is not in [0, 3)")

    bench = Bench()
    (task,), _ = bench.submit(bench.queue(refuse), rows(1))
    assert isinstance(bench.run()[task], InvalidInput)


def test_a_model_that_does_not_keep_rows_is_not_merged_any_more(caplog):
    """Outputs that can't be split: each request runs alone, now and from now on."""
    sizes = []

    def total(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(axis=0, keepdims=True)}

    bench = Bench()
    queue = bench.queue(total)
    tasks, _ = bench.submit(queue, rows(1, 2), rows(5))
    outcomes = bench.run()
    assert outcomes[tasks[0]]["y"].tolist() == [[2, 2]]
    assert outcomes[tasks[1]]["y"].tolist() == [[5, 5]]
    bench.submit(queue, rows(1), rows(2))
    bench.run()
    assert sizes == [3, 2, 1, 1, 1]
    assert "2 rows went in" not in caplog.text
    assert "3 rows went in, output 'y' came out as [1, 2]" in caplog.text


def test_batches_form_while_the_executor_is_busy():
    """With no timeout and one thread: what comes during a run is the next batch."""
    entered, gate, finished = threading.Event(), threading.Event(), threading.Event()
    sizes, done = [], []

    def slow(inputs):
        sizes.append(len(inputs["x"]))
        entered.set()
        assert gate.wait(10)
        return {"y": inputs["x"]}

    def on_done(outcomes):
        done.extend(outcomes)
        if len(done) == 6:
            finished.set()

    options = BatchingOptions(num_batch_threads=1)
    scheduler = BatchScheduler(options=options, on_done=on_done)
    queue = BatchQueue(name="m", run=slow, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(0)))])
    assert entered.wait(10)
    for value in range(5):
        scheduler.submit([(queue, make(rows(value)))])
    gate.set()
    assert finished.wait(10)
    assert sizes == [1, 5]
    assert scheduler.stop(timeout_s=5)


def test_stop_runs_what_waits_and_refuses_what_comes():
    """Nothing accepted is lost at a stop, however long its batch timeout was."""
    done, options = [], BatchingOptions(num_batch_threads=2, batch_timeout_us=60_000_000)
    scheduler = BatchScheduler(options=options, on_done=done.extend)
    executor = FakeExecutor()
    queue = BatchQueue(name="m", run=lambda inputs: executor.run("", inputs), options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(value))) for value in range(3)])
    assert scheduler.stop(timeout_s=5)
    assert len(done) == 3
    (refusal,) = scheduler.submit([(queue, make(rows(1)))])
    assert isinstance(refusal, ServerStopping)


def test_a_receiver_that_fails_ends_no_thread(caplog):
    """What `on_done` raises is logged, and the next batch is handed over."""
    calls = []

    def fail_once(outcomes):
        calls.append(outcomes)
        if len(calls) == 1:
            raise RuntimeError("receiver")

    options = BatchingOptions(num_batch_threads=1, max_batch_size_rows=1)
    scheduler = BatchScheduler(options=options, on_done=fail_once)
    queue = BatchQueue(name="m", run=lambda inputs: {"y": inputs["x"]}, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(1))), (queue, make(rows(2)))])
    assert scheduler.stop(timeout_s=5)
    assert len(calls) == 2
    assert "could not be handed over" in caplog.text


@pytest.mark.parametrize(
    "name", ["max_batch_size_rows", "max_enqueued_batches", "max_enqueued_bytes", "num_batch_threads"]
)
def test_options_name_what_they_refuse(name):
    """A refusal says the name, the bound and the value."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        BatchingOptions(**{name: 0})


def test_one_slow_model_leaves_a_thread_to_the_others():
    """All batches at a time are the slow model's, and no more of it; another's is run nevertheless."""
    gate, answered, done = threading.Event(), threading.Event(), []
    under_way = threading.Semaphore(0)

    def slow(inputs):
        under_way.release()
        assert gate.wait(10)
        return {"y": inputs["x"]}

    def on_done(outcomes):
        done.extend(outcomes)
        if any(answer["y"][0, 0] == 7 for _, answer in outcomes):
            answered.set()

    options = BatchingOptions(num_batch_threads=2, max_batch_size_rows=1)
    scheduler = BatchScheduler(options=options, on_done=on_done)
    busy = BatchQueue(name="slow", run=slow, options=options, merges=True)
    quiet = BatchQueue(name="quick", run=lambda inputs: {"y": inputs["x"]}, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(busy, make(rows(value))) for value in range(5)])
    assert all(under_way.acquire(timeout=10) for _ in range(2))
    scheduler.submit([(quiet, make(rows(7)))])
    assert answered.wait(10)
    assert not under_way.acquire(blocking=False)
    gate.set()
    assert scheduler.stop(timeout_s=10)
    assert len(done) == 6


def test_models_that_hang_keep_no_other_from_being_answered():
    """Several models hold every thread, for good: what comes for another is run nevertheless, and so is the next."""
    gate, answered = threading.Event(), threading.Semaphore(0)

    def hang(inputs):
        assert gate.wait(30)
        return {"y": inputs["x"]}

    def on_done(outcomes):
        for _, answer in outcomes:
            if answer["y"][0, 0] == 7:
                answered.release()

    options = BatchingOptions(num_batch_threads=2, max_batch_size_rows=1)
    scheduler = BatchScheduler(options=options, on_done=on_done)
    hung = [BatchQueue(name=f"hung{one}", run=hang, options=options, merges=True) for one in range(3)]
    quick = BatchQueue(name="quick", run=lambda inputs: {"y": inputs["x"]}, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(value))) for queue in hung for value in range(4)])
    for _ in range(3):
        scheduler.submit([(quick, make(rows(7)))])
        assert answered.acquire(timeout=30)
    gate.set()
    assert scheduler.stop(timeout_s=30)
    assert all(queue.rows == 0 for queue in hung)


def test_a_queue_with_lanes_has_as_many_runs_at_once_and_takes_no_place_from_others():
    """One batch at a time, and yet three of a model that merges them itself; another model's runs beside them."""
    arrived, answered = threading.Barrier(3), threading.Event()

    def together(inputs):
        arrived.wait(30)
        return {"y": inputs["x"]}

    def on_done(outcomes):
        if len(outcomes[0][1]["y"][0]) == 3:
            answered.set()

    options = BatchingOptions(num_batch_threads=1)
    scheduler = BatchScheduler(options=options, on_done=on_done)
    inside = BatchQueue(name="inside", run=together, options=options, merges=False, lanes=3)
    other = BatchQueue(name="other", run=lambda inputs: {"y": inputs["x"]}, options=options, merges=True)
    scheduler.start()
    scheduler.submit([(inside, make(rows(1))) for _ in range(2)])
    scheduler.submit([(other, make(rows(1, width=3)))])
    assert answered.wait(30)
    scheduler.submit([(inside, make(rows(1)))])
    assert scheduler.stop(timeout_s=30)
    assert inside.rows == 0


def test_a_model_that_runs_one_at_a_time_gets_one_at_a_time_and_full_batches():
    """On four threads, of two signatures: what comes meanwhile is merged, and no thread waits inside for another."""
    running, most, done, finished = [], [], [], threading.Event()

    def alone(inputs):
        running.append(1)
        most.append(len(running))
        if len(most) == 1:
            assert gate.wait(30)
        running.pop()
        return {"y": inputs["x"]}

    def on_done(outcomes):
        done.extend(outcomes)
        if len(done) == 21:
            finished.set()

    gate, runner = threading.Event(), Runner(1)
    options = BatchingOptions(num_batch_threads=4)
    scheduler = BatchScheduler(options=options, on_done=on_done)
    queues = [BatchQueue(name=name, run=alone, options=options, merges=True, runner=runner) for name in "ab"]
    scheduler.start()
    scheduler.submit([(queues[0], make(rows(0)))])
    for number in range(20):
        scheduler.submit([(queues[number % 2], make(rows(number)))])
    gate.set()
    assert finished.wait(30)
    assert scheduler.stop(timeout_s=30)
    assert max(most) == 1
    assert len(most) <= 4


@pytest.mark.parametrize(("name", "most"), [("num_batch_threads", 1024), ("batch_timeout_us", 3_600_000_000)])
def test_options_no_machine_can_follow_are_refused(name, most):
    """Beyond these a thread could not be started, or not wait so long, and would fail when it is too late."""
    with pytest.raises(ValueError, match=f"{name} must be at most {most}, got {most + 1}"):
        BatchingOptions(**{name: most + 1})


def test_an_idle_thread_keeps_no_version_that_has_gone():
    """Its memory may be gigabytes, and the thread may have nothing to do for hours."""
    executor, options = FakeExecutor(), BatchingOptions(num_batch_threads=1)
    gone, answered = weakref.ref(executor), threading.Event()
    scheduler = BatchScheduler(options=options, on_done=lambda _: answered.set())
    queue = BatchQueue(name="m", run=functools.partial(executor.run, ""), options=options, merges=True)
    scheduler.start()
    scheduler.submit([(queue, make(rows(1)))])
    assert answered.wait(10)
    del queue, executor

    def is_gone():
        gc.collect()  # A queue is part of a cycle.
        return gone() is None

    until(is_gone)
    assert scheduler.stop(timeout_s=5)
