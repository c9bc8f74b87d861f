"""Compares what two versions answer to one request, off the request's way."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fallback_server.executors.base import Array

Floats = npt.NDArray[np.float64]

MAX_OPEN = 64
"""Comparisons that wait for their second answer, with the first one in memory. More are not begun."""

MAX_BYTES = 2**22
"""Of one answer that is kept for its comparison. Larger ones are not compared."""

LIMIT_S = 60.0
"""A shadow's deadline, where its caller has none, or a later one: a run that never ends is known as such by it."""

TOLERANCE = 0.05
"""Relative to the outputs' own scale: more than two retrained versions of a regression differ by where they agree."""


class Statistics(Protocol):
    """Counts what a version's answers had in common with another's; see `ServedModel.statistics`."""

    def compared(self, *, diverged: bool, difference: float) -> None:
        """One more request was answered by both."""

    def uncompared(self) -> None:
        """One more was not answered by the shadow, which failed or could not take it."""


class Shadowed(Protocol):
    """A version whose answers are compared."""

    @property
    def statistics(self) -> Statistics: ...  # noqa: D102  told above


class Comparison:
    """Two answers to come, in any order and any thread."""

    def __init__(self, owner: Shadowing, shadow: Shadowed) -> None:
        self._owner = owner
        self._shadow = shadow
        self._lock = threading.Lock()
        self._answers: list[Mapping[str, Array] | None] = []
        self._primary_first = True

    def primary(self, outputs: Mapping[str, Array] | None) -> None:
        """What was answered; None if nothing was."""
        self._add(outputs, primary=True)

    def shadow(self, outputs: Mapping[str, Array] | None) -> None:
        """What the second version gave; None if it failed."""
        if outputs is None:
            self._shadow.statistics.uncompared()
        self._add(outputs, primary=False)

    def _add(self, outputs: Mapping[str, Array] | None, *, primary: bool) -> None:
        if outputs is not None and sum(array.nbytes for array in outputs.values()) > MAX_BYTES:
            outputs = None
        with self._lock:
            if not self._answers:
                self._primary_first = primary
            self._answers.append(outputs)
            if len(self._answers) < 2:
                return
            first, second = self._answers
        self._owner.ended()
        if first is None or second is None:
            return
        one, other = (first, second) if self._primary_first else (second, first)
        # What was answered may have been filtered: only what both have is compared.
        difference = max((divergence(one[name], other[name]) for name in one.keys() & other.keys()), default=0.0)
        self._shadow.statistics.compared(diverged=difference > TOLERANCE, difference=difference)


class Shadowing:
    """The comparisons that are open. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0

    def begin(self, primary: Shadowed, shadow: Shadowed) -> Comparison | None:
        """A new comparison, or None where too many are open, or both are one and the same."""
        if primary is shadow:
            return None
        with self._lock:
            if self._open >= MAX_OPEN:
                return None
            self._open += 1
        return Comparison(self, shadow)

    def ended(self) -> None:
        """A comparison has both answers."""
        with self._lock:
            self._open -= 1


def divergence(one: Array, other: Array) -> float:
    """How far two outputs are apart: 0 for equal, 1 for nothing in common; what it means depends on what they are.

    For scores of classes (floats with a last axis of two to 10,000, each row adding up to one) the share of rows with
    another best class; for other floats the root of the mean squared difference, over the first one's root mean square;
    for anything else the share of elements that differ.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return 1.0
    if one.size == 0:
        return 0.0
    if one.dtype.kind != "f":
        return float(np.mean(one != other))
    left, right = one.astype(np.float64), other.astype(np.float64)
    if _are_scores(left) and _are_scores(right):
        return float(np.mean(left.argmax(axis=-1) != right.argmax(axis=-1)))
    return _distance(left, right)


def _distance(one: Floats, other: Floats) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0 if np.array_equal(one, other, equal_nan=True) else 1.0
    scale = float(np.sqrt(np.mean(one**2)))
    apart = float(np.sqrt(np.mean((one - other) ** 2)))
    if scale:
        return min(apart / scale, 1.0)
    return 1.0 if apart else 0.0


def _are_scores(array: Floats) -> bool:
    """Whether each row adds up to one, as a softmax gives it."""
    if array.ndim < 2 or not 2 <= array.shape[-1] <= 10_000:
        return False
    return bool((array >= 0).all() and np.allclose(array.sum(axis=-1), 1.0, atol=1e-2))
