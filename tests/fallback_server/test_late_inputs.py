import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor, caller

from fallback_server.batching.execution import execute
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.late_inputs import LateInputs, made, size_bytes

LATE = LateInputs({"x": np.broadcast_to(np.float32(0), (2, 2))}, {"x": lambda: np.float32([[1, 2], [3, 4]])})


def strings(*values):
    return np.array(values, object)


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ({}, 0),
        ({"x": np.zeros((2, 3), np.float32), "n": np.int8(1)}, 25),
        ({"x": np.broadcast_to(np.float32(1), (1000, 1000))}, 4_000_000),
        ({"x": strings(b"ab", b"", b"c")}, 3 * 8 + 3),
        ({"x": np.broadcast_to(strings(b"abcd"), (10, 100))}, 1000 * (8 + 4)),
        ({"x": strings()}, 0),
        (LateInputs({"x": strings(b"ab")}, {"x": lambda: strings(b"cccab")}, more_bytes=3), 8 + 5),
    ],
)
def test_inputs_count_with_what_they_take_once_they_are_made(inputs, size):
    """Numbers by their array; strings by their own bytes and a pointer, repeated ones as often as they are.

    What waits counts as a byte for each row at least.
    """
    assert size_bytes(inputs) == size
    assert Task(caller=caller(), inputs=inputs, deadline_s=None).bytes == max(size, 1)
    assert Task(caller=caller(), inputs=inputs, deadline_s=None, rows=100).bytes == max(size, 100)


def test_what_is_made():
    """Inputs that stand in for others are replaced, the others and whole inputs stay as they are."""
    there = np.float32([5])
    assert made({"x": there})["x"] is there
    whole = made(LateInputs({"x": np.broadcast_to(np.float32(0), 3), "y": there}, {"x": lambda: np.float32([1, 2, 2])}))
    assert whole["y"] is there
    assert whole["x"].tolist() == [1, 2, 2]


@pytest.mark.parametrize("merges", [True, False])
def test_they_are_made_when_they_run(merges):
    """Alone, and as rows of a batch of several requests."""
    executor = FakeExecutor(factor=2)
    options = BatchingOptions(max_batch_size_rows=8)
    queue = BatchQueue(
        name="m", run=lambda inputs: executor.run("serving_default", inputs), options=options, merges=merges
    )
    other = {"x": np.float32([[5, 6]])}
    tasks = [Task(caller=caller(), inputs=inputs, deadline_s=None, rows=len(inputs["x"])) for inputs in (LATE, other)]
    batches = [tasks] if merges else [[task] for task in tasks]
    outcomes = [outcome for batch in batches for _, outcome in execute(queue, batch, clock=lambda: 0.0)]
    assert [outcome["y"].tolist() for outcome in outcomes] == [[[2, 4], [6, 8]], [[10, 12]]]
