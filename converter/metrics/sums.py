"""Running sums over batches, one class a group of metrics; each gives its metrics at the end."""

from __future__ import annotations

import math
import sys

import numpy as np
import numpy.typing as npt

from converter.findings import ClassFinding
from converter.metrics.formulas import (
    Array,
    among_largest,
    class_scores,
    relative,
    rounded,
    share,
    spread,
    sqnr_db,
)
from converter.metrics.kinds import MAX_ID_CLASSES
from converter.metrics.plan import Plan

Floats = npt.NDArray[np.float64]

MAX_CONFUSION_CLASSES = 100
"""A larger matrix is read by nobody."""

MAX_TABLE_CLASSES = 1_024
"""The usual thousand, and a background class."""

assert MAX_ID_CLASSES <= MAX_TABLE_CLASSES


class NumericError:
    """`rmse` and `sqnr_db`, and of regressions `relative_rmse`."""

    def __init__(self, *, with_relative: bool) -> None:
        self._with_relative = with_relative
        self._values = 0
        self._signal = self._noise = 0.0
        self._mean = self._squares = 0.0  # of the original, Chan's pairwise update: batches add without cancellation

    def add(self, original: Floats, difference: Floats) -> None:
        """Takes values that are finite, flat."""
        if not original.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            self._signal += float(np.dot(original, original))
            self._noise += float(np.dot(difference, difference))
            if self._with_relative:
                mean = float(original.mean())
                apart = mean - self._mean
                count = self._values + original.size
                self._squares += float(np.square(original - mean).sum())
                self._squares += apart * apart * self._values * original.size / count
                self._mean += apart * original.size / count
        self._values += original.size

    def result(self) -> dict[str, float]:
        """The metrics of all that was added."""
        # Squares of values beyond 1e154 overflow, and JSON has no infinity.
        signal, noise, squares = (_finite(one) for one in (self._signal, self._noise, self._squares))
        count = max(1, self._values)
        rmse = math.sqrt(noise / count)
        found = {"rmse": rmse, "sqnr_db": sqnr_db(signal or float(count), noise)}
        if self._with_relative:
            found["relative_rmse"] = relative(rmse, spread(math.sqrt(squares / count), math.sqrt(signal / count)))
        return found


def _finite(value: float) -> float:
    return min(value, sys.float_info.max) if not math.isnan(value) else sys.float_info.max


class Cosine:
    """`cosine`: the mean over the samples; of two zero vectors 1, of one 0."""

    def __init__(self) -> None:
        self._samples = 0
        self._sum = 0.0

    def add(self, original: Floats, difference: Floats) -> None:
        """Takes [samples, values]."""
        one, other = _scaled(original), _scaled(original + difference)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        both_zero = ~one.any(axis=1) & ~other.any(axis=1)
        cosines = np.divide((one * other).sum(axis=1), lengths, out=np.zeros(len(lengths)), where=lengths > 0)
        self._sum += float(np.where(both_zero, 1.0, np.clip(cosines, -1.0, 1.0)).sum())
        self._samples += len(original)

    def result(self) -> dict[str, float]:
        """The metric of all that was added."""
        return {"cosine": share(self._sum, self._samples)}


def _scaled(vectors: Floats) -> Floats:
    """Each with a largest value of 1, since squares of large values overflow."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    scaled: Floats = vectors / np.where(largest > 0, largest, 1.0)
    return scaled


class Cells:
    """`precision`, `recall` and `f1` of the cells above a threshold, and `iou` where it was asked for."""

    def __init__(self, threshold: float, *, with_iou: bool) -> None:
        self._threshold = threshold
        self._with_iou = with_iou
        self._both = self._lost = self._added = 0

    def add(self, original: Array, found: Array) -> None:
        """Takes two arrays of one shape."""
        truth, says = original > self._threshold, found > self._threshold
        both = int((truth & says).sum())
        self._both += both
        self._lost += int(truth.sum()) - both
        self._added += int(says.sum()) - both

    def result(self) -> dict[str, float]:
        """The metrics of all that was added."""
        both, lost, added = self._both, self._lost, self._added
        found = {
            "precision": share(both, both + added),
            "recall": share(both, both + lost),
            "f1": share(2 * both, 2 * both + added + lost),
        }
        if self._with_iou:
            found["iou"] = share(both, both + added + lost)
        return found


class Equality:
    """`equal`, and of integers `iou` where it was asked for."""

    def __init__(self, *, with_iou: bool) -> None:
        self._with_iou = with_iou
        self._values = self._same = 0
        self._classes: dict[int, list[int]] = {}

    def add(self, original: Array, found: Array) -> None:
        """Takes two arrays of one shape."""
        same = original == found
        self._values += same.size
        self._same += int(same.sum())
        if self._with_iou:
            for place, part in enumerate((original, found, original[same])):
                for value, count in zip(*np.unique(part, return_counts=True), strict=True):
                    self._classes.setdefault(int(value), [0, 0, 0])[place] += int(count)

    def result(self) -> dict[str, float]:
        """The metrics of all that was added."""
        found = {"equal": share(self._same, self._values)}
        if self._with_iou:
            ious = [both / (one + other - both) for one, other, both in self._classes.values()]
            found["iou"] = share(math.fsum(ious), len(ious))
        return found


class Ranking:
    """`top1_agreement`, `accuracy` and the like, of class scores, and how each class fares."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._samples = self._agreed = self._right = self._among = 0
        self._table = ClassTable(plan)

    def add(self, original: Array, found: Array, labels: Array | None) -> None:
        """Takes scores [samples, classes], or probabilities of one class, and the labels, int [samples]."""
        truth_scores, scores = class_scores(original), class_scores(found)
        theirs, ours = np.argmax(truth_scores, axis=1), np.argmax(scores, axis=1)
        self._samples += len(ours)
        self._agreed += int((ours == theirs).sum())
        if labels is not None:
            self._right += int(among_largest(scores, labels, 1).sum())
        if self._plan.top_k:
            wanted = theirs if labels is None else labels
            self._among += int(among_largest(scores, wanted, self._plan.top_k).sum())
        self._table.add(theirs, ours, labels)

    def result(self) -> dict[str, float]:
        """The metrics of all that was added."""
        found = {"top1_agreement": share(self._agreed, self._samples)}
        if self._plan.labelled:
            found["accuracy"] = share(self._right, self._samples)
        if self._plan.top_k:
            what = "accuracy" if self._plan.labelled else "agreement"
            found[f"top{self._plan.top_k}_{what}"] = share(self._among, self._samples)
        return found

    def table(self) -> ClassTable:
        """How each class fares."""
        return self._table


class ClassTable:
    """Counts by class, and the original's class against the variant's."""

    def __init__(self, plan: Plan) -> None:
        count = plan.classes if 2 <= plan.classes <= MAX_TABLE_CLASSES else 0
        self._labelled = plan.labelled
        self._samples, self._original, self._variant, self._agreed = np.zeros((4, count), dtype=np.int64)
        size = count if count <= MAX_CONFUSION_CLASSES else 0
        self._confusion = np.zeros((size, size), dtype=np.int64)

    def add(self, original: Array, variant: Array, labels: Array | None) -> None:
        """Takes class indices, int [samples] each."""
        count = len(self._samples)
        if not count:
            return
        if variant.min(initial=0) < 0 or variant.max(initial=0) >= count:
            # Ids that the original never gave: no table has a place for them.
            self._samples, self._confusion = self._samples[:0], self._confusion[:0, :0]
            return
        rows = original if labels is None else labels

        def counted(chosen: Array) -> npt.NDArray[np.int64]:
            return np.bincount(chosen, minlength=count)

        self._samples += counted(rows)
        self._agreed += counted(rows[original == variant])
        self._original += counted(rows[original == rows])
        self._variant += counted(rows[variant == rows])
        if self._confusion.size:
            np.add.at(self._confusion, (original, variant), 1)

    def classes(self) -> tuple[ClassFinding, ...]:
        """Those with samples, by label."""
        return tuple(
            ClassFinding(
                label=label,
                samples=int(samples),
                original=rounded(self._original[label] / samples) if self._labelled else None,
                variant=rounded(self._variant[label] / samples) if self._labelled else None,
                agreement=rounded(self._agreed[label] / samples),
            )
            for label, samples in enumerate(self._samples)
            if samples
        )

    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """[original's class][variant's class]; empty where there are too many."""
        return tuple(tuple(int(count) for count in row) for row in self._confusion)
