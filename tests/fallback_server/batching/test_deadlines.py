"""What can't be answered in time is refused before it runs."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.costs import RECENT_S, RunCosts
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import DeadlineExceeded, QueueFull, RequestCancelled


def test_costs_are_of_runs_alike_in_size():
    """Mean and least by powers of two; the nearest where none was measured, for what only estimates."""
    costs = RunCosts()
    assert costs.expected_s(1) is None
    costs.record(2, 0.010, 0.0)
    costs.record(3, 0.020, 0.0)
    costs.record(32, 0.100, 0.0)
    assert costs.expected_s(2) == pytest.approx(0.012)
    assert costs.expected_s(1) == pytest.approx(0.012)
    assert costs.expected_s(1000) == pytest.approx(0.100)
    assert costs.recent_s(2, 0.0) == pytest.approx(0.010)
    assert costs.recent_s(1, 0.0) is None


def costs_of(*took_s):
    costs = RunCosts()
    for each in took_s:
        costs.record(1, each, 0.0)
    return costs


@pytest.mark.parametrize(
    ("took_s", "least_s"),
    [
        ([1.0], None),
        ([1.0, 0.01], 0.01),
        ([0.01] * 50 + [1.0], 0.01),
        ([0.01] * 50 + [1.0] * 4, 0.01),
        ([0.01] * 50 + [1.0] * 5, 1.0),
        ([1.0] * 50 + [0.01], 0.01),
    ],
)
def test_only_what_several_runs_have_taken_refuses_anybody(took_s, least_s):
    """One quick run is believed, four slow ones are exceptions; of one run alone nothing is known."""
    assert costs_of(*took_s).recent_s(1, 0.0) == least_s


def test_a_hiccup_leaves_the_mean_where_it_is_and_slowness_gets_there():
    """A run of a second among those of 2 ms counts as 10 ms; ten of them as nearly all of a second."""
    assert costs_of(*[0.002] * 50, 1.0).expected_s(1) == pytest.approx(0.0036)
    assert costs_of(*[0.002] * 50, *[1.0] * 16).expected_s(1) > 0.5


@pytest.mark.parametrize(("took_s", "known_s"), [(0.01, 0.1), (0.1, 0.3), (5.0, RECENT_S)])
def test_what_refuses_is_tried_again_soon(took_s, known_s):
    """After a tenth of a second, three times as long as a run takes, or a second; and two runs tell again."""
    costs = costs_of(took_s, took_s)
    assert costs.recent_s(1, known_s - 0.01) == took_s
    assert costs.recent_s(1, known_s + 0.01) is None
    costs.record(1, took_s, 100.0)
    assert costs.recent_s(1, 100.0) is None
    costs.record(1, took_s, 100.0 + took_s)
    assert costs.recent_s(1, 100.0 + took_s) == took_s


@pytest.mark.parametrize(("rows", "likely_s"), [(1, 0.010), (8, 0.010), (12, 0.015), (16, 0.020), (64, 0.080)])
def test_between_sizes_that_were_measured_runs_are_as_long_as_a_line_says(rows, likely_s):
    """No shorter than the smallest, and beyond the largest as much longer as there are more rows."""
    costs = RunCosts()
    assert costs.likely_s(1, 0.0) is None
    for size, took_s in ((8, 0.010), (8, 9.0), (8, 0.010), (16, 0.020)):
        costs.record(size, took_s, 0.0)
    assert costs.likely_s(rows, 0.5) == pytest.approx(likely_s)
    assert costs.likely_s(rows, RECENT_S + 0.1) is None


def measured(stand, executor, took_s, **options):
    queue = stand.queue(executor, **options)
    measure(stand, queue, took_s)
    return queue


def measure(stand, queue, took_s, sizes=(1,)):
    """Of each size as many runs as it takes to be believed."""
    for size in sizes:
        queue.costs.record(size, took_s, stand.clock())
        queue.costs.record(size, took_s, stand.clock())


def test_a_request_that_can_not_be_in_time_any_more_is_not_run():
    """20 ms are left when its turn comes, and a run takes 50: refused as such; who has more time runs."""
    stand, executor = BatchStand(), FakeExecutor()
    queue = measured(stand, executor, 0.05)
    (late,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.03)
    (fine,), _ = stand.submit(queue, rows(2), deadline_s=stand.clock() + 0.3)
    stand.clock.advance(0.01)
    outcomes = stand.run()
    assert isinstance(outcomes[late], DeadlineExceeded)
    assert "not run: 20.0 ms are left after 10 ms in the queue, and a run takes 50.0 ms" in str(outcomes[late])
    assert "y" in outcomes[fine]
    assert executor.batches == [1]


@pytest.mark.parametrize("merges", [True, False])
def test_one_whose_deadline_has_passed_is_told_so_at_its_turn(merges):
    """Not that less than nothing is left."""
    stand = BatchStand()
    queue = measured(stand, FakeExecutor(), 0.05, merges=merges)
    (late,), _ = stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.02)
    stand.clock.advance(0.05)
    assert str(stand.run()[late]) == "the deadline passed after 50 ms in the queue"


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


def test_a_request_that_would_wait_for_too_long_is_refused_at_the_door():
    """Four fifths of its time in work before it: it may go elsewhere at once. Without a deadline it may wait."""
    stand, executor = BatchStand(max_batch_size_rows=1, num_batch_threads=1), FakeExecutor()
    queue = measured(stand, executor, 0.05)
    stand.submit(queue, *[rows(1)] * 20)
    (refusal,) = stand.submit(queue, rows(2), deadline_s=stand.clock() + 1.1)[1]
    assert isinstance(refusal, QueueFull)
    assert "is too full to answer in time: 20 rows wait, and 1100 ms are left" in str(refusal)
    assert stand.submit(queue, rows(2), deadline_s=stand.clock() + 1.2)[1] == [None]
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
    measure(stand, queue, run_s)
    outcomes = stand.run()
    for number, task in tasks:
        if number in finished:
            assert finished[number] <= task.deadline_s + 1e-6
        else:
            assert isinstance(outcomes[task], DeadlineExceeded)


@pytest.mark.parametrize("known", [True, False])
def test_a_deadline_ends_the_wait_for_company(known):
    """A batch timeout of half a second, 200 ms left and nothing else to do: it is answered in time."""
    stand, executor = BatchStand(batch_timeout_us=500_000), FakeExecutor()
    queue = measured(stand, executor, 0.02) if known else stand.queue(executor)
    begin_s = stand.clock()
    (company,), _ = stand.submit(queue, rows(1))
    (task,), _ = stand.submit(queue, rows(1), deadline_s=begin_s + 0.2)
    assert not stand.scheduler.step()
    while task not in dict(stand.done):
        stand.clock.advance(0.01)
        stand.scheduler.step()
    answered_s = stand.clock()
    assert "y" in dict(stand.done)[task]
    stand.clock.advance(0.5)
    assert "y" in stand.run()[company]
    assert answered_s - begin_s == pytest.approx(0.16 if known else 0.1, abs=0.011)


def test_whose_caller_leaves_waits_for_company_no_longer():
    """It is settled by itself, and the others wait on."""
    stand, executor = BatchStand(batch_timeout_us=10_000_000), FakeExecutor()
    queue = stand.queue(executor)
    (left, stays), _ = stand.submit(queue, rows(1), rows(2))
    assert not stand.scheduler.step()
    left.caller.cancelled = True
    assert stand.scheduler.step()
    assert [(task, type(outcome)) for task, outcome in stand.done] == [(left, RequestCancelled)]
    assert not stand.scheduler.step()
    stand.clock.advance(10)
    assert "y" in stand.run()[stays]
    assert executor.batches == [1]
    assert stand.idle()


def test_threads_see_that_a_caller_has_left():
    """Long before anything else is due."""
    settled = threading.Event()
    options = BatchingOptions(batch_timeout_us=3_000_000_000)
    scheduler = BatchScheduler(options=options, on_done=lambda outcomes: settled.set())
    queue = BatchQueue(name="m", run=lambda inputs: {"y": inputs["x"]}, options=options, merges=True)
    scheduler.start()
    task = make(rows(1))
    scheduler.submit([(queue, task)])
    task.caller.cancelled = True
    assert settled.wait(30)
    assert scheduler.stop(timeout_s=30)
