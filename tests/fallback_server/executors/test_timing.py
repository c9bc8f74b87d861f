"""How runs are timed, with a clock of the test's own."""

from support.clock import FakeClock

from fallback_server.executors import timing
from fallback_server.executors.timing import least_s


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
