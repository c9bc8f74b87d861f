"""The formulas of the metrics, on sums and on arrays of samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SQNR_LIMIT_DB = 200.0

RELATIVE_LIMIT = 1e6

CONSTANT_SHARE = 1e-3
"""About what rounding to float16 leaves (half a step is 2.4e-4 to 4.9e-4 of a value)."""

SIGNIFICANT_DIGITS = 6
"""More than a measurement on some thousand samples means; fewer make manifests differ by a rounding."""

_CHUNK_ROWS = 4_096


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise, both as sums of squares, in dB, within the limit."""
    if noise <= 0.0:
        return SQNR_LIMIT_DB
    if signal <= 0.0:
        return -SQNR_LIMIT_DB
    return max(-SQNR_LIMIT_DB, min(SQNR_LIMIT_DB, 10.0 * (math.log10(signal) - math.log10(noise))))


def relative(rmse: float, deviation: float) -> float:
    """An error in units of the spread, within the limit."""
    if rmse <= 0.0:
        return 0.0
    return min(RELATIVE_LIMIT, rmse / deviation) if deviation > 0.0 else RELATIVE_LIMIT


def spread(deviation: float, rms: float) -> float:
    """What an error is held against: the standard deviation of the original's values.

    Of values that (nearly) never change, by less than `CONSTANT_SHARE` of their root mean square, it is the latter:
    their deviation is rounding, and says nothing of what an error means. Of zeros throughout it is 1.
    """
    if deviation >= CONSTANT_SHARE * rms > 0.0:
        return deviation
    return rms if rms > 0.0 else 1.0


def share(part: float, whole: float, otherwise: float = 1.0) -> float:
    """Part / whole, or `otherwise` of nothing."""
    return part / whole if whole else otherwise


def rounded(value: float) -> float:
    """To `SIGNIFICANT_DIGITS`."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def class_scores(values: Array) -> Array:
    """Scores [samples, classes] of an output; the probability of one class becomes that of two, 1 - p and p."""
    if values.ndim == 2 and values.shape[1] >= 2:
        return values
    column = values.reshape(len(values), 1)
    return np.concatenate([1 - column, column], axis=1)


def among_largest(scores: Array, places: Array, count: int) -> npt.NDArray[np.bool_]:
    """Whether the score at each sample's place, int [samples], is among the sample's `count` largest.

    Of equal scores the first is the larger one, as of `argmax`. NaN is among none.
    """
    at = np.take_along_axis(scores, places[:, np.newaxis], axis=1)
    before = (scores > at).sum(axis=1)
    tied = ((scores == at) & (np.arange(scores.shape[1]) < places[:, np.newaxis])).sum(axis=1)
    found: npt.NDArray[np.bool_] = (before + tied < count) & ~np.isnan(at[:, 0])
    return found


def accuracy(values: Array, labels: Array, top_k: int = 1) -> float:
    """Share of samples whose label, int [samples], is among the `top_k` largest scores of an output, maybe mapped."""
    right = 0
    for start in range(0, len(labels), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        right += int(among_largest(class_scores(np.asarray(values[part])), labels[part], top_k).sum())
    return rounded(share(right, len(labels)))
