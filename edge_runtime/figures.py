"""Numbers as a person reads them at a glance, and histograms added and taken apart. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.telemetry import Histogram


def added(latencies: Iterable[Histogram]) -> Histogram:
    """Latencies added up."""
    counts = [0] * len(Histogram().counts)
    sum_s = 0.0
    for one in latencies:
        counts = [a + b for a, b in zip(counts, one.counts, strict=True)]
        sum_s += one.sum_s
    return Histogram(counts=tuple(counts), sum_s=sum_s)


def since(now: Histogram, before: Histogram | None) -> Histogram:
    """What has been added to a histogram; all of it where there was none."""
    if before is None:
        return now
    counts = tuple(max(a - b, 0) for a, b in zip(now.counts, before.counts, strict=True))
    return Histogram(counts=counts, sum_s=now.sum_s - before.sum_s)


def quantile_text(latency: Histogram, share: float) -> str:
    """The latency in milliseconds that this share kept to."""
    return number_text(latency.quantile_s(share) * 1e3) if latency.count else "-"


def known_text(value: float | None) -> str:
    """A number of milliseconds; a dash where it is not known."""
    return "-" if value is None else number_text(value)


def number_text(value: float) -> str:
    """A number with two or three digits that mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def count_text(value: float) -> str:
    """A number of things, in at most six letters."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= bound:
            return f"{value / (bound if letter != 'k' else 1e3):.1f}{letter}"
    if value >= 100 or float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.1f}"


def bytes_text(value: float) -> str:
    """A number of bytes."""
    for bound, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= bound:
            return f"{value / bound:.1f} {unit}"
    return f"{value:.0f} B"


def duration_text(seconds: float) -> str:
    """How long ago, in two units."""
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
