"""The samples on which a variant is farthest off."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from converter.findings import WorstSample
from converter.metrics.formulas import Array, class_scores, rounded
from converter.metrics.plan import Plan

MAX_WORST = 10

_SHOWN_VALUES = 4


class Worst:
    """Keeps the samples with the largest errors; of equal ones the first. Those without any error are left out."""

    def __init__(self, plan: Plan) -> None:
        """None yet."""
        self._says = _teller(plan)
        self._heap: list[tuple[float, int, str, str]] = []

    def add(self, start: int, errors: npt.NDArray[np.float64], original: Array, found: Array) -> None:
        """Looks at one batch: `errors` [samples], the outputs with the samples along the first axis."""
        for index in np.argsort(-errors, kind="stable")[:MAX_WORST]:
            error, sample = float(errors[index]), start + int(index)
            full = len(self._heap) == MAX_WORST
            if error <= 0.0 or (full and (error, -sample) <= self._heap[0][:2]):
                return
            item = (error, -sample, self._says(original[index]), self._says(found[index]))
            (heapq.heappushpop if full else heapq.heappush)(self._heap, item)

    def result(self) -> tuple[WorstSample, ...]:
        """The worst first."""
        return tuple(
            WorstSample(sample=-sample, error=rounded(error), original=original, variant=variant)
            for error, sample, original, variant in sorted(self._heap, reverse=True)
        )


def _teller(plan: Plan) -> Callable[[Array], str]:
    """What says an output of one sample in few words."""
    if plan.kind == "scores":
        return _best
    if plan.kind == "map":
        threshold = plan.threshold
        return lambda sample: f"{int((sample > threshold).sum())} above {threshold:g}"
    return _values


def _best(sample: Array) -> str:
    scores = class_scores(sample[np.newaxis])[0]
    best = int(np.argmax(scores))
    return f"class {best} ({float(scores[best]):.3g})"


def _values(sample: Array) -> str:
    flat = sample.ravel()
    shown = [f"{value:.4g}" if sample.dtype.kind == "f" else str(value) for value in flat[:_SHOWN_VALUES].tolist()]
    return ", ".join(shown) + (", ..." if flat.size > _SHOWN_VALUES else "")
