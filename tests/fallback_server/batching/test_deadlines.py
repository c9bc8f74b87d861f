"""What can't be answered in time is refused before it runs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.costs import RECENT_S, RunCosts
from fallback_server.core.errors import DeadlineExceeded, QueueFull


def test_costs_are_of_runs_alike_in_size():
    """Mean and last by powers of two; the nearest where none was measured, for what only estimates."""
    costs = RunCosts()
    assert costs.expected_s(1) is None
    costs.record(2, 0.010, 0.0)
    costs.record(3, 0.020, 0.0)
    costs.record(32, 0.100, 0.0)
    assert costs.expected_s(2) == pytest.approx(0.012)
    assert costs.expected_s(1) == pytest.approx(0.012)
    assert costs.expected_s(1000) == pytest.approx(0.100)
    assert costs.recent_s(2, 0.0) == pytest.approx(0.012)
    assert costs.recent_s(1, 0.0) is None


def test_an_estimate_falls_at_once_rises_slowly_and_grows_old():
    """One quick run is believed, one slow one not yet; after a second without a run nothing is known."""
    costs = RunCosts()
    costs.record(1, 1.0, 0.0)
    costs.record(1, 0.01, 0.0)
    assert costs.recent_s(1, 0.0) == pytest.approx(0.01)
    quick = RunCosts()
    for _ in range(50):
        quick.record(1, 0.01, 0.0)
    quick.record(1, 1.0, 0.0)
    assert quick.recent_s(1, 0.0) == pytest.approx(0.208)
    assert quick.recent_s(1, RECENT_S + 0.01) is None


def measured(stand, executor, took_s, **options):
    queue = stand.queue(executor, **options)
    queue.costs.record(1, took_s, stand.clock())
    return queue


def test_a_request_that_can_not_be_in_time_any_more_is_not_run():
    """20 ms are left when its turn comes, and a run takes 50: refused as such; who has more time runs."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = measured(stand, executor, 0.05)
    queue.costs.record(2, 0.05, stand.clock())
    (late,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.03)
    (fine,), _ = stand.submit(queue, rows(2), deadline_s=stand.clock() + 0.3)
    stand.clock.advance(0.01)
    outcomes = stand.run()
    assert isinstance(outcomes[late], DeadlineExceeded)
    assert "not run: 20.0 ms are left after 10 ms in the queue, and a run takes 50.0 ms" in str(outcomes[late])
    assert "y" in outcomes[fine]
    assert executor.batches == [1]


def test_a_measurement_that_refuses_everybody_is_not_believed_for_long():
    """A second after the last run one is tried: the next measurement comes of it."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = measured(stand, executor, 5.0)
    (refused,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.1)
    assert isinstance(stand.run()[refused], DeadlineExceeded)
    stand.clock.advance(RECENT_S + 0.01)
    (tried,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.1)
    (next_one,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.1)
    outcomes = stand.run()
    assert "y" in outcomes[tried]
    assert "y" in outcomes[next_one]


def test_a_request_that_would_wait_for_far_too_long_is_refused_at_the_door():
    """More than twice its time in work before it: it may go elsewhere at once. Without a deadline it may wait."""
    stand, executor = BatchStand(max_batch_size_rows=1, num_batch_threads=1), FakeExecutor()
    queue = measured(stand, executor, 0.05)
    stand.submit(queue, *[rows(1)] * 20)
    (refusal,) = stand.submit(queue, rows(2), deadline_s=stand.clock() + 0.5)[1]
    assert isinstance(refusal, QueueFull)
    assert "is too full to answer in time: 20 rows wait, and 500 ms are left" in str(refusal)
    assert stand.submit(queue, rows(2), deadline_s=stand.clock() + 0.6)[1] == [None]
    assert stand.submit(queue, rows(2))[1] == [None]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.05)), max_size=30), st.floats(0.001, 0.2))
def test_none_is_refused_whose_run_would_have_been_in_time(steps, run_s):
    """Where runs always take as long, what is refused at its turn would have been late, and what ran was in time."""
    stand = BatchStand(max_batch_size_rows=1, max_enqueued_batches=1000)
    finished = {}

    def run(inputs):
        stand.clock.advance(run_s)
        finished[inputs["x"][0, 0]] = stand.clock()
        return {"y": inputs["x"]}

    queue = measured(stand, run, run_s)
    tasks = []
    for number, (left_s, pause_s) in enumerate(steps):
        task = make(rows(number), deadline_s=stand.clock() + left_s)
        if stand.scheduler.submit([(queue, task)]) == [None]:
            tasks.append((number, task))
        stand.clock.advance(pause_s)
    outcomes = stand.run()
    for number, task in tasks:
        if number in finished:
            assert finished[number] <= task.deadline_s + 1e-6 or run_s > RECENT_S
        else:
            assert isinstance(outcomes[task], DeadlineExceeded)
