"""Which variant is the one to run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.artifact import Metrics

MAX_ACCURACY_DROP = 0.01
"""One percentage point: what is commonly given for a quarter of the size."""

MIN_TOP1_AGREEMENT = 0.99
"""Without labels: the original's answer in 99 of 100 samples, so that accuracy can't drop by more than one point."""

MIN_SQNR_DB = 20.0
"""Without scores: an error of at most 1 % of the output's power."""

BASELINE = "float32"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A variant that works.

    Attributes:
        name: Its name.
        size_bytes: The size of its file.
        metrics: What was measured of it.
    """

    name: str
    size_bytes: int
    metrics: Metrics


def choose(candidates: Sequence[Candidate], original: Metrics, *, measured: bool) -> str:
    """The smallest candidate that is good enough in every output; else float32; else the one that lost least.

    Good enough is, by what the output has: accuracy at most one percentage point below the original's; without
    labels, 99 % top-1 agreement and 20 dB SQNR; where it is no class scores, 20 dB SQNR. Where nothing was measured
    on evaluation data, nothing but float32 is good enough.

    Args:
        candidates: At least one, the most faithful first: of two that are equally small the former is taken.
        original: The original's own metrics.
        measured: Whether the metrics come from evaluation data.
    """
    good = [one for one in candidates if measured and _good(one.metrics, original)]
    if good:
        return min(good, key=lambda one: one.size_bytes).name
    names = [one.name for one in candidates]
    if BASELINE in names:
        return BASELINE
    return max(candidates, key=lambda one: _worst_sqnr_db(one.metrics)).name


def _good(metrics: Metrics, original: Metrics) -> bool:
    return bool(metrics) and all(_output_good(found, original.get(name, {})) for name, found in metrics.items())


def _output_good(found: Mapping[str, float], original: Mapping[str, float]) -> bool:
    if "accuracy" in found and "accuracy" in original:
        # A thousandth of a point, so that a drop of just one point is not refused for a rounding.
        return original["accuracy"] - found["accuracy"] <= MAX_ACCURACY_DROP + 1e-5
    return found["sqnr_db"] >= MIN_SQNR_DB and found.get("top1_agreement", 1.0) >= MIN_TOP1_AGREEMENT


def _worst_sqnr_db(metrics: Metrics) -> float:
    return min((found["sqnr_db"] for found in metrics.values()), default=0.0)
