"""Requests that are larger than a batch: run in pieces, and put together again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.tasks import Task
from fallback_server.core.errors import DeadlineExceeded, ExecutionFailed, RequestCancelled
from fallback_server.late_inputs import LateInputs


def test_a_large_request_runs_in_pieces_and_comes_back_whole():
    """9 rows in batches of 4 at most; the last piece runs with what waits behind it."""
    stand, executor = BatchStand(max_batch_size_rows=4), FakeExecutor(factor=10)
    large = np.arange(18, dtype=np.float32).reshape(9, 2)
    tasks, refusals = stand.submit(stand.queue(executor), rows(1, 3), large, rows(2), rows(3, 2))
    assert refusals == [None] * 4
    outcomes = stand.run()
    assert executor.batches == [3, 4, 4, 4]
    np.testing.assert_array_equal(outcomes[tasks[1]]["y"], large * 10)
    assert outcomes[tasks[3]]["y"].tolist() == [[30, 30]] * 2
    assert stand.idle()


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    max_rows=st.integers(1, 8),
    priorities=st.lists(st.integers(-1, 1), min_size=8, max_size=8),
    bulk=st.sampled_from([0, 20]),
)
def test_nothing_is_lost_or_doubled_and_bounds_are_kept(counts, max_rows, priorities, bulk):
    """Each request gets its own rows, once and in order; batches and pieces keep their bounds; counts come to 0."""
    stand = BatchStand(max_batch_size_rows=max_rows, max_enqueued_batches=1000, bulk_rows=bulk)
    executor = FakeExecutor(factor=2)
    queue = stand.queue(executor)
    begin, tasks = 0, []
    for count, priority in zip(counts, priorities, strict=False):
        values = np.arange(begin, begin + 2 * count, dtype=np.float32).reshape(count, 2)
        task = make(values, priority=priority)
        tasks.append((task, values))
        assert stand.scheduler.submit([(queue, task)]) == [None]
        begin += 2 * count
    outcomes = stand.run()
    assert len(stand.done) == len(tasks)
    for task, values in tasks:
        np.testing.assert_array_equal(outcomes[task]["y"], values * 2)
    assert max(executor.batches) <= max(max_rows, bulk)
    assert sum(executor.batches) == sum(counts)
    assert stand.idle()


def test_the_first_piece_that_fails_settles_the_request_and_the_rest_never_runs():
    """One outcome, the failure's; the pieces that wait are dropped, and what waits behind is answered."""
    stand, executor = BatchStand(max_batch_size_rows=2), FakeExecutor(poison=13)
    queue = stand.queue(executor)
    large = rows(1, 8)
    large[2] = 13
    (failing, fine), _ = stand.submit(queue, large, rows(2))
    outcomes = stand.run()
    assert isinstance(outcomes[failing], ExecutionFailed)
    assert "y" in outcomes[fine]
    assert executor.batches == [2, 2, 1]
    assert len(stand.done) == 2
    assert stand.idle()


def test_a_caller_that_leaves_has_no_further_piece_run():
    """The pieces that wait when it goes cost nothing."""
    stand, executor = BatchStand(max_batch_size_rows=2), FakeExecutor()
    (task,), _ = stand.submit(stand.queue(executor), rows(1, 8))
    stand.scheduler.step()
    task.caller.cancelled = True
    outcomes = stand.run()
    assert isinstance(outcomes[task], RequestCancelled)
    assert executor.batches == [2]
    assert stand.idle()


def test_a_deadline_that_passes_between_pieces_ends_the_request():
    """Once, and nothing of it runs afterwards."""
    stand, executor = BatchStand(max_batch_size_rows=2), FakeExecutor()
    (task,), _ = stand.submit(stand.queue(executor), rows(1, 8), deadline_s=stand.clock.now_s + 1)
    stand.scheduler.step()
    stand.clock.advance(2)
    assert isinstance(stand.run()[task], DeadlineExceeded)
    assert executor.batches == [2]
    assert stand.idle()


def test_a_model_that_does_not_keep_rows_gets_the_request_in_one_piece(caplog):
    """Pieces whose answers can't be put together: all of it is run again, alone."""
    sizes = []

    def total(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(axis=0, keepdims=True)}

    stand = BatchStand(max_batch_size_rows=4)
    queue = stand.queue(total)
    (task,), _ = stand.submit(queue, rows(1, 9))
    assert stand.run()[task]["y"].tolist() == [[9, 9]]
    assert sizes == [4, 9]
    assert "run one by one from now on" in caplog.text
    assert stand.idle()


def test_inputs_that_are_made_late_are_made_once_for_all_pieces():
    """Each piece gets its own rows of them."""
    makes = []

    def make_all():
        makes.append(1)
        return np.arange(10, dtype=np.float32).reshape(5, 2)

    stand, executor = BatchStand(max_batch_size_rows=2), FakeExecutor()
    stand_in = np.broadcast_to(np.float32(0), (5, 2))
    inputs = LateInputs({"x": stand_in}, {"x": make_all}, more_bytes=7)
    task = Task(caller=make(rows(1)).caller, inputs=inputs, deadline_s=None, rows=5)
    stand.scheduler.submit([(stand.queue(executor), task)])
    np.testing.assert_array_equal(stand.run()[task]["y"], np.arange(10).reshape(5, 2))
    assert (makes, executor.batches) == ([1], [2, 2, 1])
    assert stand.idle()


@pytest.mark.parametrize("allowed", [(), (4,)])
def test_larger_pieces_are_run_where_they_pay(allowed):
    """Of rows that take 0.1 ms, as many as run for 50 ms; where sizes are given, none but those."""
    stand, executor = BatchStand(max_batch_size_rows=4, allowed_batch_sizes=allowed, bulk_rows=1024), FakeExecutor()
    queue = stand.queue(executor)
    queue.costs.record(4, 0.0004, stand.clock())
    stand.submit(queue, rows(1, 1003))
    stand.run()
    assert executor.batches == ([500, 500, 3] if not allowed else [4] * 251)


def mask(inputs):
    """As wide as the largest value of the run: what a mask, a ragged output or a search gives."""
    return {"y": (np.arange(int(inputs["x"].max()))[None] < inputs["x"][:, :1]).astype(np.float32)}


def test_pieces_whose_outputs_differ_in_width_fail_their_request_alone():
    """It is told why; who runs beside it is answered, and nothing stays taken."""
    stand = BatchStand(max_batch_size_rows=4)
    queue = stand.queue(mask)
    (large, mate), _ = stand.submit(queue, np.concatenate([rows(1, 4, 1), rows(3, 1, 1)]), rows(2, 1, 1))
    outcomes = stand.run()
    assert isinstance(outcomes[large], ExecutionFailed)
    assert "its 5 rows ran in 2 pieces, whose outputs can't be put together: y is [4, 1] and [1, 3]" in str(
        outcomes[large]
    )
    assert outcomes[mate]["y"].tolist() == [[1, 1, 0]]
    assert stand.idle()
    assert not len(stand.scheduler._runs)
    (later,), _ = stand.submit(queue, rows(2, 1, 1))
    assert stand.run()[later]["y"].tolist() == [[1, 1]]


def test_a_last_piece_that_others_made_wider_runs_again_by_itself():
    """No request fails for whom it ran beside."""
    stand, sizes = BatchStand(max_batch_size_rows=4), []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return mask(inputs)

    (large, mate), _ = stand.submit(stand.queue(run), rows(2, 5, 1), rows(3, 1, 1))
    outcomes = stand.run()
    assert outcomes[large]["y"].tolist() == [[1, 1]] * 5
    assert outcomes[mate]["y"].tolist() == [[1, 1, 1]]
    assert sizes == [4, 2, 1]
    assert stand.idle()


@pytest.mark.parametrize("names", [("y", "z"), ("y", "y")])
def test_whatever_pieces_give_costs_no_thread_and_no_place(names):
    """Other names, or what is no array."""
    stand, given = BatchStand(max_batch_size_rows=4), []

    def run(inputs):
        given.append(None)
        return {names[len(given) % 2]: inputs["x"] if names[0] != names[1] else None}

    (large,), _ = stand.submit(stand.queue(run), rows(2, 6))
    assert isinstance(stand.run()[large], ExecutionFailed)
    assert stand.idle()
    assert not len(stand.scheduler._runs)
