"""How many rows are merged of a model that takes no less time for a row of more."""

import numpy as np
import pytest
from support.fallback_fakes import caller

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task


def queue_of(**options):
    return BatchQueue(name="m/1:s", run=dict, options=BatchingOptions(**options), merges=True)


def taken(queue, *rows):
    for count in rows:
        queue.put(Task(caller=caller(), inputs={"x": np.zeros((count, 1), np.float32)}, deadline_s=None, rows=count))
    batches = []
    while len(queue):
        batches.append([task.rows for task in queue.take(0.0)])
    return batches


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, [[1, 1, 3, 1]]),
        ({"worth_rows": 1}, [[1], [1], [3], [1]]),
        ({"worth_rows": 2}, [[1, 1], [3], [1]]),
        ({"worth_rows": 64}, [[1, 1, 3, 1]]),
        ({"worth_rows": 1, "max_batch_size_rows": 8, "allowed_batch_sizes": (4, 8)}, [[1, 1, 3, 1]]),
    ],
)
def test_no_more_rows_than_are_worth_it_are_merged(options, batches):
    """A request of more stays whole, and what the operator allows comes before what was measured."""
    assert taken(queue_of(**options), 1, 1, 3, 1) == batches


def test_as_many_rows_may_wait_as_ever():
    """The bound of the queue, and what a large request is, follow from what is allowed."""
    assert BatchingOptions(worth_rows=1).max_enqueued_rows == BatchingOptions().max_enqueued_rows
    queue = queue_of(worth_rows=1, max_batch_size_rows=4)
    assert [sum(batch) for batch in taken(queue, 6)] == [1] * 6
