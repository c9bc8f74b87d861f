"""Batches that are padded up to an allowed size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, caller

from fallback_server.batching import policy
from fallback_server.batching.execution import execute
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, BatchRun, Task
from fallback_server.core.errors import ExecutionFailed
from fallback_server.executors.base import GivenInputs

ALLOWED = (2, 4, 8)


def queue_of(run, *, merges=True, allowed=ALLOWED):
    options = BatchingOptions(max_batch_size_rows=allowed[-1], allowed_batch_sizes=allowed)
    return BatchQueue(name="m/1:serving_default", run=run, options=options, merges=merges)


def tasks_of(*values):
    arrays = [np.asarray(value, np.float32).reshape(-1, 2) for value in values]
    return [Task(caller=caller(), inputs={"x": array}, deadline_s=None, rows=len(array)) for array in arrays]


def answers(queue, tasks):
    outcomes = dict(execute(queue, tasks, clock=FakeClock()))
    return [outcomes[task] for task in tasks]


@pytest.mark.parametrize(
    ("rows", "allowed", "size"),
    [(1, (), 1), (1, ALLOWED, 2), (2, ALLOWED, 2), (3, ALLOWED, 4), (8, ALLOWED, 8), (9, ALLOWED, 9), (0, ALLOWED, 0)],
)
def test_padded_rows(rows, allowed, size):
    """The next allowed size; what is larger than all of them, or has nothing to repeat, stays as it is."""
    assert policy.padded_rows(rows, allowed) == size


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_whatever_waits_together_runs_in_an_allowed_size_and_gets_its_own_rows(counts):
    """The model sees allowed sizes alone, and each caller its own rows alone."""
    executor = FakeExecutor(factor=10)
    tasks = tasks_of(*([[index, index]] * count for index, count in enumerate(counts)))
    queue = queue_of(lambda inputs: executor.run("serving_default", inputs), allowed=(2, 4, 8, 16))
    for index, (count, answer) in enumerate(zip(counts, answers(queue, tasks), strict=True)):
        np.testing.assert_array_equal(answer["y"], np.full((count, 2), 10 * index, np.float32))
    assert executor.batches == [next(size for size in (2, 4, 8, 16) if size >= sum(counts))]


def test_padding_repeats_the_first_row_of_every_input():
    """A row that a caller has sent is one that the model can take, strings included."""
    seen = []

    def run(inputs):
        seen.append({name: array.tolist() for name, array in inputs.items()})
        return {"y": inputs["x"]}

    inputs = {"x": np.array([[1.0, 2.0], [3, 4], [5, 6]], np.float32), "s": np.array([b"a", b"b", b"c"], object)}
    task = Task(caller=caller(), inputs=inputs, deadline_s=None, rows=3)
    (answer,) = answers(queue_of(run), [task])
    assert seen == [{"x": [[1, 2], [3, 4], [5, 6], [1, 2]], "s": [b"a", b"b", b"c", b"a"]}]
    assert answer["y"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_what_is_not_merged_or_larger_than_all_sizes_runs_as_it_came():
    """A request of 9 rows, one without rows, and those of a model that keeps no rows."""
    executor = FakeExecutor()
    run = lambda inputs: executor.run("serving_default", inputs)  # noqa: E731
    answers(queue_of(run), tasks_of([[1, 1]] * 9))
    answers(queue_of(run), tasks_of([]))
    answers(queue_of(run, merges=False), tasks_of([[1, 1]]))
    assert executor.batches == [9, 0, 1]


def test_a_model_that_keeps_no_rows_is_found_out_by_the_padding(caplog):
    """It is run again as it came, and padded no more."""
    sizes = []

    def total(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(keepdims=True)}

    queue = queue_of(total)
    (answer,) = answers(queue, tasks_of([[1, 2], [3, 4], [5, 6]]))
    assert (sizes, answer["y"].tolist(), queue.merges) == ([4, 3], [[21.0]], False)
    assert "4 rows went in, output 'y' came out as [1, 1]" in caplog.text


def test_when_a_padded_batch_fails_each_runs_alone_and_padded():
    """The one at fault fails, its batch-mates don't; all in allowed sizes."""
    executor = FakeExecutor(poison=7)
    queue = queue_of(lambda inputs: executor.run("serving_default", inputs))
    good, bad, last = answers(queue, tasks_of([[1, 1]], [[7, 7]], [[2, 2]]))
    assert (good["y"].tolist(), last["y"].tolist()) == ([[1, 1]], [[2, 2]])
    assert isinstance(bad, ExecutionFailed)
    assert executor.batches == [4, 2, 2, 2]


def test_every_run_that_ends_well_is_told():
    """Its rows as asked and as run, how long each request waited and how long it took; a failed run is not."""
    clock, runs = FakeClock(), []

    def run(inputs):
        clock.advance(0.5)
        if (inputs["x"] == 7).any():
            raise ValueError
        return {"y": inputs["x"]}

    queue = queue_of(run)
    queue.on_run = runs.append
    tasks = tasks_of([[1, 1]], [[2, 2], [3, 3]], [[7, 7]])
    tasks[1].enqueued_s = clock() - 2.0
    tasks[0].enqueued_s = tasks[2].enqueued_s = clock()
    execute(queue, tasks[:2], clock=clock)
    execute(queue, tasks[2:], clock=clock)
    assert runs == [BatchRun(rows=3, padded_rows=4, queued_s=(0.0, 2.0), run_s=0.5)]


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((4, 2, 8), r"allowed_batch_sizes must be ascending and at least 1, got \[4, 2, 8\]"),
        ((0, 8), r"allowed_batch_sizes must be ascending and at least 1, got \[0, 8\]"),
        ((2, 4), r"allowed_batch_sizes must end with max_batch_size = 8, got \[2, 4\]"),
        (tuple(range(1, 67)), "allowed_batch_sizes must be at most 64, got 66"),
    ],
)
def test_sizes_that_are_refused(sizes, text):
    """As TensorFlow Serving: ascending, and the last of them the largest batch."""
    with pytest.raises(ValueError, match=text):
        BatchingOptions(max_batch_size_rows=8, allowed_batch_sizes=sizes)


def test_a_request_that_runs_as_it_came_is_given_away():
    """Whoever runs it may let its inputs go meanwhile; what may be run again alone is kept for that."""
    seen = []

    def run(inputs):
        seen.append([task.inputs == {} for task in waiting])
        y = inputs["x"] + 1
        if isinstance(inputs, GivenInputs):
            inputs.clear()
        return {"y": y}

    queue = queue_of(run)
    for waiting in (tasks_of([[1, 1]] * 2), tasks_of([[1, 1]]), tasks_of([[1, 1]], [[2, 2]])):
        assert all((answer["y"] > 1).all() for answer in answers(queue, waiting))
    assert seen == [[True], [False], [False, False]]
