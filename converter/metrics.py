"""What a variant's outputs lost against the original's, sample by sample, in bounded memory.

- `rmse`: root of the mean squared difference, in the output's own unit.
- `sqnr_db`: 10 log10(sum of original^2 / sum of difference^2), within -200 to 200: JSON has no infinity, and beyond
  200 dB two float32 arrays are equal.
- `top1_agreement`: share of samples whose largest score is at the original's place. Outputs that look like scores.
- `accuracy`: share of samples whose largest score is at the label's place. Likewise, where there are labels.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.errors import VariantUnusable

Array = npt.NDArray[Any]

SQNR_LIMIT_DB = 200.0

SIGNIFICANT_DIGITS = 6
"""More than a measurement on some thousand samples means; fewer make manifests differ by a rounding."""


def looks_like_scores(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an output of all samples can be class scores: floats [samples, classes], two classes or more."""
    return len(shape) == 2 and shape[1] >= 2 and dtype.kind == "f"


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether values of the dtype can be subtracted."""
    return dtype.kind in "fiub"


def accuracy(scores: Array, labels: Array) -> float:
    """Share of rows of `scores`, [samples, classes], whose largest value is at the label, int [samples]."""
    return rounded(float((np.argmax(scores, axis=1) == labels).mean()))


class Comparison:
    """One output of a variant against the original's, fed batch after batch."""

    def __init__(self, *, scores: bool, labelled: bool) -> None:
        """Nothing compared yet.

        Args:
            scores: Whether the output is class scores.
            labelled: Whether each batch comes with labels.
        """
        self._scores = scores
        self._labelled = labelled
        self._values = self._samples = self._agreed = self._right = 0
        self._signal = self._noise = 0.0

    def add(self, name: str, original: Array, found: Array, labels: Array | None, start: int) -> None:
        """Compares one batch, samples along the first axis; `start` is its first sample's index.

        Raises:
            VariantUnusable: shapes differ, or a value is NaN or infinite where the original's is not.
        """
        if found.shape != original.shape:
            raise VariantUnusable(
                f"output {name!r} has the shape {list(found.shape)}, the original's {list(original.shape)}"
            )
        # Where the original itself has no finite value there is nothing to compare with.
        kept = np.isfinite(original)
        broken = kept & ~np.isfinite(found)
        if broken.any():
            first = int(np.argwhere(broken)[0][0])
            raise VariantUnusable(f"output {name!r} is {found[broken].flat[0]} for sample {start + first}")
        reference, difference = original[kept].astype(np.float64), found[kept].astype(np.float64)
        difference -= reference
        self._values += reference.size
        with np.errstate(over="ignore"):
            self._signal += float(np.dot(reference, reference))
            self._noise += float(np.dot(difference, difference))
        self._samples += len(original)
        if self._scores:
            best = np.argmax(found, axis=1)
            self._agreed += int((best == np.argmax(original, axis=1)).sum())
            if labels is not None:
                self._right += int((best == labels).sum())

    def result(self) -> dict[str, float]:
        """The metrics of all that was added."""
        # Squares of values beyond 1e154 overflow, and JSON has no infinity.
        signal, noise = min(self._signal, sys.float_info.max), min(self._noise, sys.float_info.max)
        found = {"rmse": math.sqrt(noise / max(1, self._values)), "sqnr_db": sqnr_db(signal, noise)}
        if self._scores:
            found["top1_agreement"] = self._agreed / max(1, self._samples)
            if self._labelled:
                found["accuracy"] = self._right / max(1, self._samples)
        return {name: rounded(value) for name, value in sorted(found.items())}


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise, both as sums of squares, in dB, within the limit."""
    if noise <= 0.0:
        return SQNR_LIMIT_DB
    if signal <= 0.0:
        return -SQNR_LIMIT_DB
    return max(-SQNR_LIMIT_DB, min(SQNR_LIMIT_DB, 10.0 * (math.log10(signal) - math.log10(noise))))


def rounded(value: float) -> float:
    """To `SIGNIFICANT_DIGITS`."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
