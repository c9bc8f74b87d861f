"""A latency target that is held by the size of batches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.adaptive import LatencyTarget


def saturated(target, row_s, *, base_s=0.001, runs=300, waited_s=None):
    """Full batches, one after another; the largest of the last hundred."""
    sizes = []
    for _ in range(runs):
        size = target.rows
        run_s = base_s + size * row_s
        target.ran(rows=size, oldest_s=(2 * run_s if waited_s is None else waited_s + run_s), run_s=run_s)
        sizes.append(size)
    return sizes


@pytest.mark.parametrize("waited_s", [None, 10.0])
def test_batches_grow_to_what_holds_the_target_and_no_further(waited_s):
    """Runs of about half of it, however long requests have waited: smaller ones would only be later still."""
    target = LatencyTarget(0.05, 64)
    sizes = saturated(target, 0.001, waited_s=waited_s)[100:]
    assert 24 <= max(sizes) <= 26
    assert min(sizes) >= 16


def test_a_fast_model_gets_full_batches_and_a_slow_one_single_rows():
    """Between 1 and the bound."""
    assert saturated(LatencyTarget(0.05, 32), 1e-5)[-1] == 32
    assert saturated(LatencyTarget(0.05, 32), 1.0)[-1] == 1


def test_small_batches_of_a_rest_let_nothing_grow():
    """What was smaller than it might have been tells nothing of larger ones."""
    target = LatencyTarget(0.05, 32)
    for _ in range(10):
        target.ran(rows=target.rows, oldest_s=0.001, run_s=0.001)
    before = target.rows
    for _ in range(100):
        target.ran(rows=1, oldest_s=0.001, run_s=0.001)
    assert target.rows == before


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1)), max_size=200), st.integers(1, 64))
def test_the_bound_is_kept(runs, max_rows):
    """Whatever is told, between 1 and the largest batch."""
    target = LatencyTarget(0.05, max_rows)
    for size, waited_s, run_s in runs:
        target.ran(rows=size, oldest_s=waited_s + run_s, run_s=run_s)
        assert 1 <= target.rows <= max_rows


def test_a_queue_takes_no_more_rows_than_its_target_lets():
    """A row more after each full batch that is in time; of allowed sizes none in between."""
    stand, executor = BatchStand(target_latency_ms=50.0, max_batch_size_rows=8), FakeExecutor()
    queue = stand.queue(executor)
    stand.submit(queue, *[rows(1)] * 15)
    stand.run()
    assert executor.batches == [1, 2, 3, 4, 5]
    sized = BatchStand(target_latency_ms=50.0, max_batch_size_rows=8, allowed_batch_sizes=(2, 8))
    executor = FakeExecutor()
    sized.submit(sized.queue(executor), *[rows(1)] * 16)
    sized.run()
    assert set(executor.batches) <= {2, 8}


@pytest.mark.parametrize("allowed", [(1, 4, 32), (4, 32), (1, 8, 32), (1, 2, 4, 8, 16, 32)])
def test_allowed_sizes_are_all_reached(allowed):
    """Where the largest holds the target; and where none but the smallest does, that."""
    assert saturated(LatencyTarget(0.05, 32, allowed), 1e-5)[-1] == 32
    assert saturated(LatencyTarget(0.05, 32, allowed), 1.0)[-1] == allowed[0]


def test_a_size_that_is_too_large_is_tried_again_after_many_that_are_not():
    """Of sizes four times apart: one batch in 25 or so is late."""
    sizes = saturated(LatencyTarget(0.05, 32, (1, 8, 32)), 0.001)
    assert set(sizes[100:]) == {8, 32}
    assert sizes.count(32) <= len(sizes) // 24


def test_requests_that_do_not_fill_a_batch_evenly_let_it_grow():
    """Of three rows each: another was left out for whom there was no room."""
    stand, executor = BatchStand(target_latency_ms=50.0, max_batch_size_rows=8), FakeExecutor()
    stand.submit(stand.queue(executor), *[rows(1, 3)] * 12)
    stand.run()
    assert max(executor.batches) == 6
