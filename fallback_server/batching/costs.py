"""What runs of a queue have taken of late, and what the next may take. No clock, no lock."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WEIGHT = 0.2
"""Of the newest run in the mean."""

RECENT_S = 1.0
"""How long a measurement says what can't be done in time. Where it keeps every request away, nothing new is measured:
so one a second is tried all the same."""


@dataclass(frozen=True, slots=True)
class _Class:
    """Runs whose numbers of rows have as many binary digits."""

    mean_s: float
    last_s: float
    measured_s: float
    mean_rows: float


class RunCosts:
    """How long runs took, by their rows in powers of two: sums of one class differ by a factor of two at most.

    Any thread may record; of two that record the same class at once one may be lost, which does no harm.
    """

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def record(self, rows: int, took_s: float, now_s: float, *, believed_s: float = math.inf) -> None:
        """A run of so many rows took so long, and has ended now.

        Args:
            rows: That were run.
            took_s: How long.
            now_s: The instant.
            believed_s: What took longer is the mean from now on, until others say otherwise.
        """
        key = rows.bit_length()
        before = self._classes.get(key)
        mean_s, mean_rows = took_s, float(rows)
        if before is not None and took_s <= believed_s:
            mean_s = before.mean_s + _WEIGHT * (took_s - before.mean_s)
            mean_rows = before.mean_rows + _WEIGHT * (rows - before.mean_rows)
        self._classes[key] = _Class(mean_s, took_s, now_s, mean_rows)

    def expected_s(self, rows: int) -> float | None:
        """How long a run of so many rows takes on average; of those alike in size, or else next to it. None: no run."""
        found = self._classes.get(rows.bit_length()) or self._nearest(rows)
        return None if found is None else found.mean_s

    def likely_s(self, rows: int) -> float | None:
        """As `expected_s`, or what the last of them took where that was less: one shows that a hiccup was one.

        What is run in a thread beside others takes longer than it would by itself, and so can't show how short it is.
        """
        found = self._classes.get(rows.bit_length()) or self._nearest(rows)
        return None if found is None else min(found.mean_s, found.last_s)

    def recent_s(self, rows: int, now_s: float) -> float | None:
        """How long a run of so many rows takes at least, as it seems; None where none was measured of late.

        The last one where that was quicker than the mean: what has become quicker is believed at once, what has become
        slower by and by, so that one hiccup refuses nobody.
        """
        found = self._classes.get(rows.bit_length())
        if found is None or now_s - found.measured_s > RECENT_S:
            return None
        return min(found.mean_s, found.last_s)

    def fixed_s(self) -> float | None:
        """What a run costs beside its rows, by the line through the smallest and the largest that were measured.

        All of it where runs of one size were measured: larger ones are then tried, which tells. None before the first.
        """
        classes = tuple(self._classes.items())
        if not classes:
            return None
        (_, low), (_, high) = min(classes), max(classes)
        if low is high:
            return low.mean_s
        row_s = max(0.0, (high.mean_s - low.mean_s) / (high.mean_rows - low.mean_rows))
        return max(0.0, low.mean_s - row_s * low.mean_rows)

    def _nearest(self, rows: int) -> _Class | None:
        if not self._classes:
            return None
        key = rows.bit_length()
        found = self._classes.get(key)
        if found is None:
            found = self._classes[min(tuple(self._classes), key=lambda other: abs(other - key))]
        return found

    def __repr__(self) -> str:
        told = ", ".join(f"<{1 << key}: {each.mean_s * 1e3:.3g} ms" for key, each in sorted(self._classes.items()))
        return f"RunCosts({told})"
