import pytest

from fallback_server.batching.queue import BatchRun
from fallback_server.core.errors import InvalidInput, QueueFull
from fallback_server.core.servable import ServableId
from fallback_server.statistics import BOUNDS_S, MAX_KEPT, MAX_SIZES, KeptStatistics, VersionStatistics


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


def test_the_work_of_a_version_is_told_in_sums():
    """A run counts once for each request in it, and once for its size; refusals have a time of their own."""
    statistics = VersionStatistics(wall_clock=lambda: 1.7e9)
    assert statistics.work().last_run_s == 0
    statistics.ran(BatchRun(rows=5, padded_rows=8, queued_s=(0.25, 0.5), run_s=2.0))
    statistics.ran(BatchRun(rows=5, padded_rows=8, queued_s=(1.0,), run_s=1.0))
    statistics.settled(None, 3.0)
    statistics.settled(QueueFull("x"), 0.5)
    work = statistics.work()
    assert (work.runs, work.rows, work.requests, work.queued_s, work.run_s) == (2, 10, 3, 1.75, 5.0)
    assert (work.answered, work.answered_s, work.failed, work.failed_s) == (1, 3.0, 1, 0.5)
    assert work.sizes == {5: (2, 3.0)}
    assert work.last_run_s == 1.7e9


def test_the_sizes_that_are_told_apart_are_bounded():
    """What comes beyond them is in the totals alone, and those that are known go on being counted."""
    statistics = VersionStatistics()
    for rows in (*range(1, MAX_SIZES + 10), 1):
        statistics.ran(BatchRun(rows=rows, padded_rows=rows, queued_s=(0.0,), run_s=1.0))
    work = statistics.work()
    assert (work.runs, len(work.sizes), work.sizes[1]) == (MAX_SIZES + 10, MAX_SIZES, (2, 2.0))


def test_the_versions_whose_statistics_are_kept_are_bounded():
    """Those that were loaded last are kept, each apart."""
    kept = KeptStatistics()
    first, second = kept.of(ServableId("m", 1)), kept.of(ServableId("m", 2))
    assert first is not second
    assert kept.of(ServableId("m", 1)) is first
    for number in range(MAX_KEPT - 1):
        kept.of(ServableId("other", number))
    assert kept.of(ServableId("m", 1)) is first
    assert kept.of(ServableId("m", 2)) is not second
