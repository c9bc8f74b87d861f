import pytest

from fallback_server.core.errors import InvalidInput, QueueFull
from fallback_server.statistics import BOUNDS_S, VersionStatistics


def test_a_version_counts_what_it_settled():
    """Errors are told apart by name, and are no part of the latency."""
    statistics = VersionStatistics()
    for _ in range(98):
        statistics.settled(None, 0.01)
    statistics.settled(None, 1.0)
    statistics.settled(None, 1.0)
    statistics.settled(InvalidInput("x"), 9.0)
    statistics.settled(QueueFull("x"), 9.0)
    statistics.settled(QueueFull("x"), 9.0)
    figures = statistics.figures()
    assert (figures.requests, figures.errors) == (103, {"InvalidInput": 1, "QueueFull": 2})
    assert figures.mean_ms == pytest.approx(29.8)
    assert figures.p50_ms == pytest.approx(10, rel=0.13)
    assert figures.p95_ms == pytest.approx(10, rel=0.13)
    assert figures.p99_ms == pytest.approx(1000, rel=0.13)


def test_nothing_is_settled_yet():
    """Figures of a version that nobody asked are zeros."""
    figures = VersionStatistics().figures()
    assert (figures.requests, figures.p99_ms, figures.mean_ms, figures.mean_divergence) == (0, 0, 0, 0)


def test_what_took_longer_than_all_buckets_is_in_the_last():
    """A latency beyond the table is counted at its end."""
    statistics = VersionStatistics()
    statistics.settled(None, 1e6)
    assert statistics.figures().p50_ms == BOUNDS_S[-1] * 1e3


def test_comparisons_are_counted_apart():
    """A shadow's divergence is a mean over what was compared."""
    statistics = VersionStatistics()
    statistics.compared(diverged=True, difference=0.5)
    statistics.compared(diverged=False, difference=0.0)
    figures = statistics.figures()
    assert (figures.compared, figures.diverged, figures.mean_divergence) == (2, 1, 0.25)
