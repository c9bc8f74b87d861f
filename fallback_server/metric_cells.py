"""What is counted of a model and of its versions, in Prometheus' terms. Guards no threads: `Metrics` has the lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from fallback_server.counts import HistogramCounts, ModelCounts, VersionCounts, add_buckets, add_counts, add_values

REQUEST_US = tuple(10 * 1.8**step for step in range(33))
"""TensorFlow Serving's buckets of request and run latency: from 10 us on, each 1.8 times the one before."""

QUEUE_US = tuple(100 * 1.2**step for step in range(52))
"""Likewise of the time in a queue."""

SIZES = tuple(float(2**step) for step in range(15))
"""Of batches, in rows."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Values by buckets.

    Args:
        bounds: The buckets' upper ends.

    Attributes:
        bounds: See above.
        counts: How many values lie in each; the last has no end.
        total: Of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """One more, or so many."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add_all(self, values: Sequence[float], unit: float = 1.0) -> None:
        """Many more, each in another unit than the histogram's: so many times as large there."""
        scaled = values if unit == 1.0 else [value * unit for value in values]
        add_values(self.counts, self.bounds, scaled)
        self.total += sum(scaled)

    def taken(self) -> HistogramCounts:
        """All of it, for `join` elsewhere; likewise below."""
        return HistogramCounts(self.counts if any(self.counts) else [], self.total)

    def join(self, counts: HistogramCounts) -> None:
        """Adds what was taken elsewhere; likewise below."""
        add_buckets(self.counts, counts.counts)
        self.total += counts.total


class ModelCell:
    """Of one model, in TensorFlow Serving's terms.

    Args:
        latest: Versions that were told of before, the latest last; also by cells that went before this one.
    """

    __slots__ = ("codes", "latency", "latest", "loads", "runs", "unversioned", "versions")

    def __init__(self, latest: dict[int, None] | None = None) -> None:
        self.latest: dict[int, None] = {} if latest is None else latest
        self.codes: Counter[str] = Counter()
        self.unversioned: Counter[tuple[str, str]] = Counter()
        self.latency: dict[tuple[str, str], Histogram] = {}
        self.runs = Histogram(REQUEST_US)
        self.loads: Counter[str] = Counter()
        self.versions: dict[int, VersionCell] = {}

    def version(self, number: int, *, most: int) -> tuple[VersionCell, int | None]:
        """A version's cell, and which version has gone for that: whose last news is the oldest.

        Args:
            number: Which version, of which there is news.
            most: So many are kept.
        """
        self.latest.pop(number, None)
        self.latest[number] = None
        gone = next(iter(self.latest)) if len(self.latest) > most else None
        if gone is not None:
            del self.latest[gone]
            self.versions.pop(gone, None)
        found = self.versions.get(number)
        if found is None:
            found = self.versions[number] = VersionCell()
        return found, gone

    def taken(self) -> ModelCounts:
        """All but its loads."""
        latency = {key: each.taken() for key, each in self.latency.items()}
        versions = {number: each.taken() for number, each in self.versions.items()}
        return ModelCounts(dict(self.codes), dict(self.unversioned), latency, self.runs.taken(), versions)

    def join(self, counts: ModelCounts) -> None:
        """Adds it, but for the versions: how many are kept is for whoever has them."""
        add_counts(self.codes, counts.codes)
        add_counts(self.unversioned, counts.unversioned)
        for key, each in counts.latency.items():
            self.latency.setdefault(key, Histogram(REQUEST_US)).join(each)
        self.runs.join(counts.runs)


class VersionCell:
    """Of one version."""

    __slots__ = ("codes", "latency", "load_s", "rows", "runs")

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, str]] = Counter()
        self.latency = Histogram(SECONDS)
        self.rows = Histogram(SIZES)
        self.runs = Histogram(SECONDS)
        self.load_s = 0.0

    def taken(self) -> VersionCounts:
        """All but how long its load took."""
        return VersionCounts(dict(self.codes), self.latency.taken(), self.rows.taken(), self.runs.taken())

    def join(self, counts: VersionCounts) -> None:
        """Adds it."""
        add_counts(self.codes, counts.codes)
        for mine, theirs in ((self.latency, counts.latency), (self.rows, counts.rows), (self.runs, counts.runs)):
            mine.join(theirs)
