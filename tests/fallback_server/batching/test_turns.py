"""Nobody starves beside a request that is larger than half of all that may wait: after each piece others are asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import caller

from fallback_server.batching import policy
from fallback_server.batching.tasks import Task
from fallback_server.core.errors import InvalidInput, QueueFull

LARGE_ROWS = 20_000
"""Over 600 pieces."""


class Beside:
    """A queue in which a large request runs, 10 ms a piece."""

    def __init__(self, *, priority=0, **options):
        self.stand = BatchStand(max_batch_size_rows=32, num_batch_threads=1, **options)
        self.queue = self.stand.queue(self.run, variable_axes={"x": frozenset({1})})
        (self.large,), _ = self.stand.submit(self.queue, rows(1, LARGE_ROWS), priority=priority)
        assert self.stand.scheduler.step()

    def run(self, inputs):
        self.stand.clock.advance(0.01)
        return {"y": inputs["x"]}

    def runs_until(self, task):
        runs = 0
        while not any(each is task for each, _ in self.stand.done):
            assert self.stand.scheduler.step()
            runs += 1
        return runs


@pytest.mark.parametrize(
    ("large", "width", "more"),
    [
        (0, 2, {}),
        (0, 3, {}),
        (0, 2, {"exact": True}),
        (0, 2, {"priority": 1}),
        (0, 3, {"priority": 1}),
        (0, 2, {"priority": -1}),
        (-1, 3, {}),
        (1, 3, {"priority": -1}),
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_whoever_comes_is_next_whatever_its_shape_and_priority(large, width, more, padded):
    """Also one that came long after the large one, and a step of a sequence."""
    beside = Beside(priority=large, pad_variable_length_inputs=padded)
    beside.stand.clock.advance(1.5)
    task = Task(caller=caller(), inputs={"x": rows(2, width=width)}, deadline_s=None, **more)
    assert beside.stand.scheduler.submit([(beside.queue, task)]) == [None]
    assert beside.runs_until(task) == 1


def test_the_large_one_has_every_other_turn():
    """However many wait beside it."""
    beside = Beside()
    small, _ = beside.stand.submit(beside.queue, *[rows(2, 32)] * 10)
    assert beside.runs_until(small[9]) == 19
    assert beside.queue.rows == LARGE_ROWS - 10 * 32


def test_a_flood_of_a_higher_priority_goes_before_it_but_for_a_piece_a_second():
    """100 runs of 10 ms a second, one of which is a piece; without the rule it would never run."""
    beside = Beside()
    left = beside.queue.rows
    for _ in range(500):
        beside.stand.submit(beside.queue, rows(2, 32), priority=1)
        assert beside.stand.scheduler.step()
    pieces = (left - (beside.queue.rows - 32 * sum(task.priority for task in beside.queue.tasks()))) // 32
    assert 4 <= pieces <= 6


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(-1, 1), st.booleans()), min_size=1, max_size=20
    ),
    st.lists(st.tuples(st.integers(1, 3), st.integers(-1, 1)), max_size=3),
    st.booleans(),
)
def test_nobody_waits_for_more_runs_than_there_are_others_twice(small, large, padded):
    """Whatever shapes, levels and large requests wait together: each batch of others lets one piece run before it."""
    stand = BatchStand(max_batch_size_rows=4, max_enqueued_batches=100, pad_variable_length_inputs=padded)
    queue = stand.queue(lambda inputs: {"y": inputs["x"][:, :1]}, variable_axes={"x": frozenset({1})})
    for width, priority in large:
        stand.submit(queue, rows(1, 1000, width), priority=priority)
        stand.scheduler.step()
    tasks = []
    for count, width, priority, exact in small:
        x = np.full((count, width), len(tasks), np.float32)
        task = Task(caller=caller(), inputs={"x": x}, deadline_s=None, rows=count, priority=priority, exact=exact)
        tasks.append(task)
        assert stand.scheduler.submit([(queue, task)]) == [None]
    batches = sum(-(-task.rows // 4) for task in tasks)
    for _ in range(2 * batches):
        stand.scheduler.step()
    answered = dict(stand.done)
    for number, task in enumerate(tasks):
        assert answered[task]["y"].tolist() == [[number]] * task.size
    stand.run()
    assert len(stand.done) == len(small) + len(large)
    assert stand.idle()


def test_what_is_too_late_counts_what_really_stands_before_it():
    """Neither the large one nor those of a lower priority; so nobody is refused who would be served next."""
    beside = Beside()
    for size in (1, 32):
        for _ in range(2):
            beside.queue.costs.record(size, 0.01, beside.stand.clock())
    deadline_s = beside.stand.clock() + 0.5
    assert beside.stand.submit(beside.queue, *[rows(2)] * 800, priority=-1)[1] == [None] * 800
    (high,), refusals = beside.stand.submit(beside.queue, rows(2), priority=1, deadline_s=deadline_s)
    assert refusals == [None]
    (normal,), refusals = beside.stand.submit(beside.queue, rows(2), deadline_s=deadline_s)
    assert refusals == [None]
    assert beside.queue.batches() == 0
    assert beside.queue.batches(-1) == 2 * (802 // 32)
    assert beside.runs_until(high) == 1
    assert any(task is normal for task, _ in beside.stand.done)


@pytest.mark.parametrize(
    ("others", "large", "own", "piece", "ahead"),
    [
        (100, 0, 0, 32, 3),
        (100, 20_000, 0, 32, 6),
        (100, 32, 0, 32, 4),
        (100, 20_000, 0, 320, 33),
        (31, 20_000, 0, 32, 0),
        (100, 0, 20_000, 32, 3),
        (20_000, 0, 640, 32, 20),
        (100, 640, 640, 32, 23),
    ],
)
def test_how_many_batches_stand_before_whom(others, large, own, piece, ahead):
    """Small and large ones take turns: of either so many as the other has."""
    assert policy.ahead(others_rows=others, large_rows=large, own_rows=own, piece_rows=piece, batch_rows=32) == ahead


def test_no_more_large_requests_wait_than_batches_may():
    """They take no places, and so are counted; small ones are let in beside them."""
    stand = BatchStand(max_batch_size_rows=4, max_enqueued_batches=3)
    queue = stand.queue(lambda inputs: {"y": inputs["x"]})
    refusals = stand.submit(queue, *[rows(1, 40)] * 4)[1]
    assert refusals[:3] == [None] * 3
    assert isinstance(refusals[3], QueueFull)
    assert "of more than 6 rows no more requests may than max_enqueued_batches = 3" in str(refusals[3])
    assert stand.submit(queue, rows(1))[1] == [None]
    assert len(stand.run()) == 4
    assert stand.idle()


def test_rows_without_a_value_are_bounded():
    """28 bytes that mean 20 million rows would be 600,000 runs; as many as may wait are run."""
    stand = BatchStand(max_batch_size_rows=4, max_enqueued_batches=3)
    queue = stand.queue(lambda inputs: {"y": inputs["x"]})
    (refusal,) = stand.submit(queue, np.empty((13, 0), np.float32))[1]
    assert isinstance(refusal, InvalidInput)
    assert "13 rows without a value are more than max_enqueued_batches * max_batch_size = 12" in str(refusal)
    (fine,), refusals = stand.submit(queue, np.empty((12, 0), np.float32))
    assert refusals == [None]
    assert queue.bytes == 12
    assert stand.run()[fine]["y"].shape == (12, 0)
    assert stand.idle()


@pytest.mark.parametrize("count", [9, 33])
def test_the_rest_of_a_large_request_waits_for_no_company(count):
    """It has waited for its other pieces, whatever the batch timeout."""
    stand = BatchStand(max_batch_size_rows=8, batch_timeout_us=10_000_000, max_enqueued_batches=8)
    (task,), _ = stand.submit(stand.queue(lambda inputs: {"y": inputs["x"]}), rows(1, count))
    assert len(stand.run()[task]["y"]) == count


def test_the_rest_behind_a_higher_priority_waits_for_no_company_either():
    """Both run at once."""
    stand = BatchStand(max_batch_size_rows=8, batch_timeout_us=10_000_000)
    queue = stand.queue(lambda inputs: {"y": inputs["x"]})
    stand.submit(queue, rows(1, 9))
    assert stand.scheduler.step()
    stand.scheduler.submit([(queue, make(rows(2), priority=1))])
    assert len(stand.run()) == 2
