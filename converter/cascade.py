"""From what confidence on a variant's answer can stand, so that device and server together lose nothing. Pure.

Every sample whose confidence is below the threshold is answered by the original (on the server), all others by the
variant (on the device). The lowest threshold is taken with which both together are at most `MAX_LOSS` less accurate
than the original alone: that escalates the fewest samples. Where servers have another model than the one that is
converted, its answers are in the original's place (`server_model`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from converter.artifact import Cascade
from converter.metrics.formulas import Array, rounded
from converter.metrics.kinds import is_probabilities

MAX_LOSS = 0.001
"""A tenth of a percentage point."""

Confidence = Literal["max", "softmax"]

_CHUNK_ROWS = 4_096


def confidences(scores: Array, kind: Confidence) -> npt.NDArray[np.float64]:
    """How sure each sample's answer is, of scores [samples, classes]: as of `artifact.Cascade.confidence`."""
    values = scores.astype(np.float64)
    largest: npt.NDArray[np.float64] = values.max(axis=1)
    if kind == "max":
        return largest
    # The largest value's own term is exp(0) = 1.
    sure: npt.NDArray[np.float64] = 1.0 / np.exp(values - largest[:, np.newaxis]).sum(axis=1)
    return sure


class Evidence:
    """What a threshold is found from, gathered batch by batch: ten bytes a sample are kept."""

    def __init__(self, kind: Confidence) -> None:
        """Nothing gathered yet."""
        self._kind: Confidence = kind
        self._confidences: list[npt.NDArray[np.float64]] = []
        self._original: list[npt.NDArray[np.bool_]] = []
        self._variant: list[npt.NDArray[np.bool_]] = []

    def add(self, original: Array, variant: Array, labels: Array) -> None:
        """Takes one batch: scores [samples, classes] of both, and the labels, int [samples]."""
        self._confidences.append(confidences(variant, self._kind))
        self._original.append(np.argmax(original, axis=1) == labels)
        self._variant.append(np.argmax(variant, axis=1) == labels)

    def result(self, output: str) -> Cascade:
        """The threshold for the output of that name, from at least one sample.

        Where only the original by itself is accurate enough, the threshold is above every confidence that was seen
        and the escalation rate is 1.
        """
        sure = np.concatenate(self._confidences)
        original, variant = np.concatenate(self._original), np.concatenate(self._variant)
        count = len(sure)
        order = np.argsort(sure, kind="stable")
        steps = np.concatenate([[0], np.flatnonzero(np.diff(sure[order])) + 1, [count]])
        # Right answers if the first k samples in order of confidence are escalated, for every k where that is a cut.
        escalated = np.concatenate([[0], np.cumsum(original[order])])
        local = np.concatenate([[0], np.cumsum(variant[order])])
        right = (escalated + local[-1] - local)[steps]
        enough = right >= escalated[-1] - MAX_LOSS * count
        cut = int(steps[np.argmax(enough)])
        return Cascade(
            output=output,
            confidence=self._kind,
            threshold=_between(sure[order], cut),
            escalation_rate=rounded(cut / count),
            accuracy=rounded(float(escalated[cut] + local[-1] - local[cut]) / count),
            source_accuracy=rounded(float(escalated[-1]) / count),
        )


def _between(ordered: npt.NDArray[np.float64], cut: int) -> float:
    """A threshold below which the first `cut` of the confidences lie, and no other.

    Half-way between two, since a device's softmax may differ in the last bit.
    """
    if cut == 0:
        return 0.0
    if cut == len(ordered):
        return float(np.nextafter(ordered[-1], np.inf))
    below, above = float(ordered[cut - 1]), float(ordered[cut])
    middle = below + (above - below) / 2
    return middle if middle > below else above


def confidence_kind(original: Array) -> Confidence:
    """How confidence is read off scores like these, [samples, classes]; the first few thousand tell."""
    return "max" if is_probabilities(np.asarray(original[:_CHUNK_ROWS])) else "softmax"


def threshold(original: Array, variant: Array, labels: Array | None, output: str) -> Cascade | None:
    """The cascade for one output of a variant.

    Args:
        original: The original's scores, [samples, classes].
        variant: The variant's.
        labels: Int [samples]; None where there are none.
        output: The output's name.

    Returns:
        None without labels or samples, or where the output is no scores of two classes or more.
    """
    if labels is None or not len(labels) or original.ndim != 2 or original.shape[1] < 2:
        return None
    evidence = Evidence(confidence_kind(original))
    for start in range(0, len(labels), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        evidence.add(original[part], variant[part], labels[part])
    return evidence.result(output)
