"""Counts on their way from one process to another: what was counted since the last time, to be added elsewhere."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import MutableMapping, Sequence
from typing import TypeVar

import msgspec

K = TypeVar("K")


class Gauge(msgspec.Struct, frozen=True, array_like=True):
    """Of a version in one process, as it stands; see `ServedModel`.

    Attributes:
        queued_rows: That wait there.
        expected_wait_ms: Of a request that comes there.
        runs_here: Since it was loaded there.
    """

    queued_rows: int = 0
    expected_wait_ms: float = 0.0
    runs_here: int = 0


class HistogramCounts(msgspec.Struct, array_like=True):
    """Of a histogram.

    Attributes:
        counts: By bucket; empty for none.
        total: Of all values.
    """

    counts: list[int] = []
    total: float = 0.0


class VersionCounts(msgspec.Struct, array_like=True):
    """What the metrics tell of a version, see there. `codes` is by verb and code."""

    codes: dict[tuple[str, str], int]
    latency: HistogramCounts
    rows: HistogramCounts
    runs: HistogramCounts


class ModelCounts(msgspec.Struct, array_like=True):
    """Likewise of a model. `latency` is by API and entrypoint, `unversioned` by verb and code."""

    codes: dict[str, int]
    unversioned: dict[tuple[str, str], int]
    latency: dict[tuple[str, str], HistogramCounts]
    runs: HistogramCounts
    versions: dict[int, VersionCounts]


class MetricCounts(msgspec.Struct, array_like=True):
    """Likewise of all models, and of all batches together."""

    models: dict[str, ModelCounts]
    queued: HistogramCounts
    sizes: dict[str, HistogramCounts]
    batches: int


class StatisticCounts(msgspec.Struct, array_like=True):
    """What the statistics tell of a version, see there: the same sums, since the last time. Durations in seconds.

    Attributes:
        requests: That were settled.
        errors: By the error's name.
        buckets: Of the answers' latency.
        answers: That were not refused.
        answered_s: That they took.
        failed_s: That the others took.
        runs: Of the model.
        rows: In them.
        run_requests: In them.
        queued_s: That those waited.
        run_s: That they took, once for each request.
        sizes: Rows of a run -> runs, and how long these took.
        last_run_s: When the last has ended.
    """

    requests: int
    errors: dict[str, int]
    buckets: list[int]
    answers: int
    answered_s: float
    failed_s: float
    runs: int
    rows: int
    run_requests: int
    queued_s: float
    run_s: float
    sizes: dict[int, tuple[int, float]]
    last_run_s: float


def add_counts(into: MutableMapping[K, int], counts: dict[K, int]) -> None:
    """Adds each count to the one of the same key."""
    for key, count in counts.items():
        into[key] = into.get(key, 0) + count


def add_buckets(into: list[int], counts: list[int]) -> None:
    """Adds bucket by bucket; of another number of buckets nothing."""
    if len(counts) == len(into):
        for index, count in enumerate(counts):
            into[index] += count


def add_values(into: list[int], bounds: Sequence[float], values: Sequence[float]) -> None:
    """Counts each value in its bucket: the first whose upper end it does not pass; the last has no end.

    Values of one kind lie in a few buckets: these are looked for, and not a bucket for each value.

    Args:
        into: By bucket.
        bounds: Their upper ends, ascending, one fewer.
        values: In any order.
    """
    ordered = sorted(values)
    at, count = 0, len(ordered)
    while at < count:
        bucket = bisect_left(bounds, ordered[at])
        end = bisect_right(ordered, bounds[bucket], at) if bucket < len(bounds) else count
        into[bucket] += end - at
        at = end
