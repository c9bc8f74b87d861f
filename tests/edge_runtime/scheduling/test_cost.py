import pytest
from support.clock import FakeClock

from edge_runtime.scheduling.cost import CostTable, Pace, SlowestPace, measure, paying_sizes


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        ({1: 1.0}, [1]),
        ({1: 1.0, 2: 1.2, 4: 1.5}, [1, 2, 4]),
        ({1: 1.0, 2: 2.0, 4: 4.0}, [1]),
        ({1: 1.0, 2: 1.95, 4: 2.0}, [1, 4]),
        ({1: 1.0, 2: 1.0, 4: 2.5}, [1, 2]),
    ],
)
def test_only_sizes_that_save_are_used(seconds, sizes):
    """A batch size is used where a row in it is cheaper by more than noise, and left out where it isn't."""
    assert paying_sizes(seconds) == sizes


def test_predictions_follow_the_measurements():
    """New measurements move the figure towards them, for their own size only."""
    costs = CostTable({1: 0.010, 4: 0.020}, FakeClock())
    assert costs.seconds(1) == pytest.approx(0.010)
    for _ in range(200):
        costs.record(1, 0.030)
    assert costs.seconds(1) == pytest.approx(0.030, rel=0.01)
    assert costs.seconds(4) == pytest.approx(0.020)


def test_measure_stops_at_its_budget():
    """A slow model is measured at batch 1 and then loads without trying the rest."""
    clock = FakeClock()
    ran = []

    def run(rows):
        ran.append(rows)
        clock.advance(0.4 * rows)

    assert measure(run, (1, 2, 4), clock, 0.5) == {1: pytest.approx(0.4)}
    assert set(ran) == {1}


def test_one_hiccup_does_not_poison_the_estimate():
    """A run that takes a hundred times as long moves the estimate by a quarter, not by a hundred."""
    costs = CostTable({1: 0.010}, FakeClock())
    costs.record(1, 1.0)
    assert costs.seconds(1) == pytest.approx(0.0125)


def test_a_device_that_was_too_slow_is_tried_again():
    """Where an estimate keeps all requests away, one a second may try, if the device was fast enough once."""
    clock = FakeClock()
    costs = CostTable({1: 0.010}, clock)
    for _ in range(50):
        costs.record(1, 0.5)
    assert costs.seconds(1) > 0.4
    assert not costs.probe(1, 0.050)
    clock.advance(1.1)
    assert not costs.probe(1, 0.005)
    assert costs.probe(1, 0.050)
    assert not costs.probe(1, 0.050)


def test_large_requests_are_learnt_apart():
    """Requests beyond the largest batch teach their own cost, and do not make small batches look free."""
    costs = CostTable({1: 0.010, 4: 0.020}, FakeClock())
    assert costs.seconds(8) == pytest.approx(0.040)
    for _ in range(100):
        costs.record(8, 0.160)
    assert costs.seconds(8) == pytest.approx(0.160, rel=0.01)
    assert costs.row_seconds(8) == pytest.approx(0.020, rel=0.01)
    assert costs.seconds(4) == pytest.approx(0.020)
    assert costs.row_seconds(1) == pytest.approx(0.005)


def test_sure_time_follows_the_spread():
    """A device whose runs differ is trusted for the mean and four mean deviations; a steady one for its mean."""
    costs = CostTable({1: 0.010}, FakeClock())
    for _ in range(50):
        costs.record(1, 0.010)
    assert costs.sure_seconds(1) == pytest.approx(costs.seconds(1))
    for _ in range(50):
        costs.record(1, 0.008)
        costs.record(1, 0.012)
    assert costs.sure_seconds(1) - costs.seconds(1) == pytest.approx(4 * 0.002, rel=0.3)
    assert costs.sure_seconds(3) == pytest.approx(3 * costs.sure_seconds(1), rel=0.5)


def test_throttling_lengthens_every_figure_at_once():
    """Mean, sure time, time a row, and that of large requests: by the factor, and back when it ends."""
    pace, clock = Pace(), FakeClock()
    costs = CostTable({1: 0.010, 4: 0.020}, clock, pace)
    for seconds in (0.009, 0.011):
        costs.record(1, seconds)

    def figures():
        sure = [costs.sure_seconds(rows) for rows in (1, 3, 8)]
        return [*sure, *(costs.seconds(rows) for rows in (1, 3, 8)), costs.row_seconds(1), costs.row_seconds(8)]

    before = figures()
    pace.factor = 3.0
    assert figures() == pytest.approx([3 * value for value in before])
    pace.factor = 1.0
    assert figures() == before


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_runs_of_a_throttled_device_teach_what_it_takes_at_full_clock(rows):
    """Three times as long at a third of the clock is nothing new, and after it has cooled the table is right."""
    pace = Pace()
    costs = CostTable({1: 0.010, 4: 0.020}, FakeClock(), pace)
    full_s = costs.seconds(rows)
    pace.factor = 3.0
    for _ in range(50):
        costs.record(rows, 3 * full_s)
    pace.factor = 1.0
    assert costs.seconds(rows) == pytest.approx(full_s)


def test_what_is_slowed_less_than_the_clock_says_is_learnt():
    """A model that waits for memory takes twice as long at a third of the clock: its runs say so."""
    pace = Pace(3.0)
    costs = CostTable({1: 0.010}, FakeClock(), pace)
    for _ in range(50):
        costs.record(1, 0.020)
    assert costs.seconds(1) == pytest.approx(0.020, rel=0.01)


def test_where_throttling_explains_it_a_try_is_rare():
    """A request in 10 s, not one in each: most would be late."""
    pace, clock = Pace(3.0), FakeClock()
    costs = CostTable({1: 0.010}, clock, pace)
    clock.advance(1.1)
    assert not costs.probe(1, 0.020)
    assert costs.probe(1, 0.035)
    clock.advance(10.1)
    assert costs.probe(1, 0.020)
    assert not costs.probe(1, 0.020)
    clock.advance(100)
    assert not costs.probe(1, 0.005)


def test_a_pipeline_goes_at_its_slowest_stage():
    """Its stages wait for each other."""
    first, second = Pace(2.0), Pace()
    costs = CostTable({1: 0.010}, FakeClock(), SlowestPace([first, second]))
    assert costs.seconds(1) == pytest.approx(0.020)
    second.factor = 4.0
    assert costs.seconds(1) == pytest.approx(0.040)
