"""How runs are timed, with a clock of the test's own."""

import pytest
from support.clock import FakeClock

from fallback_server.executors import timing
from fallback_server.executors.timing import Timed, least_s


def test_a_run_that_takes_long_is_timed_once(monkeypatch):
    """It tells enough; short ones are run until it can be told."""
    clock = FakeClock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    runs, steps = [], []

    def run():
        runs.append(None)
        clock.advance(0.5)

    assert least_s(run, progress=lambda: steps.append(None)) == 0.5
    assert (len(runs), len(steps)) == (1, 1)


def test_of_the_runs_of_a_trial_the_shortest_is_known(monkeypatch):
    """That has ended well; before there is one nothing is."""
    clock = FakeClock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)

    def run(inputs):
        clock.advance(inputs["s"])
        if inputs["s"] < 1:
            raise ValueError("refused")
        return inputs

    timed = Timed(run)
    assert timed.least_s == 0.0
    for took_s in (3.0, 2.0, 5.0):
        assert timed({"s": took_s}) == {"s": took_s}
    with pytest.raises(ValueError, match="refused"):
        timed({"s": 0.5})
    assert timed.least_s == 2.0
