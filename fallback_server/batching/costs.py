"""What runs of a queue have taken of late, and what the next may take. No clock, no lock."""

from __future__ import annotations

import math
from typing import NamedTuple

_WEIGHT = 0.2
"""Of the newest run in the mean."""

_HICCUP = 5
"""Times the mean: what took longer counts as so long in it. What has become slower gets there within a few runs."""

_LAST = 5
"""How many of the last runs say what the next takes at least."""

_ENOUGH = 2
"""How many runs of late it takes for a request to be refused by them: one may have been an exception."""

RECENT_S = 1.0
"""How long a measurement says what can't be done in time. Where it keeps every request away, nothing new is measured:
so one a second is tried all the same."""

_KNOWN_S = 10.0
"""How long a measurement says what rows cost, and what runs do: so often larger batches than come are tried."""

_TRY_S = 0.1
"""How long at least; what takes a third of that or more is tried after three times as long."""


class _Class(NamedTuple):
    """Runs whose numbers of rows have as many binary digits.

    Attributes:
        mean_s: How long they took on average, hiccups cut short.
        last: How long the last of them took, and of how many rows each was; the newest first.
        measured_s: When that ended.
    """

    mean_s: float
    last: tuple[tuple[float, int], ...]
    measured_s: float

    @property
    def median(self) -> tuple[float, int]:
        """Of the last the one in the middle."""
        return sorted(self.last)[len(self.last) // 2]


class RunCosts:
    """How long runs took, by their rows in powers of two: sums of one class differ by a factor of two at most.

    Any thread may record; of two that record the same class at once one may be lost, which does no harm.

    Args:
        tried_s: How long a row took as the model was loaded; 0 where nobody knows.
    """

    def __init__(self, tried_s: float = 0.0) -> None:
        self._tried_s = tried_s
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
        if before is None:
            self._classes[key] = _Class(took_s, ((took_s, rows),), now_s)
            return
        mean_s = took_s
        if took_s <= believed_s:
            mean_s = before.mean_s + _WEIGHT * (min(took_s, max(_HICCUP * before.mean_s, _TRY_S / 100)) - before.mean_s)
        # Of a class that has rested nothing is known any more.
        rested_s = now_s - took_s - before.measured_s
        last = before.last[: _LAST - 1] if rested_s <= RECENT_S else ()
        self._classes[key] = _Class(mean_s, ((took_s, rows), *last), now_s)

    def expected_s(self, rows: int) -> float | None:
        """How long a run of so many rows takes on average; of those alike in size, or else next to it. None: no run."""
        found = self._classes.get(rows.bit_length()) or self._nearest(rows)
        return None if found is None else found.mean_s

    def usual_s(self, rows: int) -> float:
        """How long a run of so many rows may well take: as `expected_s`, but of more rows than have run row by row.

        Before the first run that has ended as the load's trial says; 0 where nobody knows.
        """
        key = rows.bit_length()
        found = self._classes.get(key) or self._nearest(rows)
        if found is None:
            return self._tried_s * rows
        return found.mean_s * 2.0 ** max(0, key - found.last[0][1].bit_length())

    def shown_s(self, rows: int) -> float | None:
        """As `expected_s`, or what the last of them took where that was less: one shows that a hiccup was one.

        What is run in a thread beside others takes longer than it would by itself, and so can't show how short it is.
        """
        found = self._classes.get(rows.bit_length()) or self._nearest(rows)
        return None if found is None else min(found.mean_s, found.last[0][0])

    def recent_s(self, rows: int, now_s: float) -> float | None:
        """How long a run of so many rows takes at least, as it seems; None where that was not measured of late.

        The quickest of the last five: so no hiccup refuses anybody. What keeps requests away is tried again soon.
        """
        found = self._classes.get(rows.bit_length())
        if found is None or len(found.last) < _ENOUGH:
            return None
        least_s, _ = min(found.last)
        return least_s if now_s - found.measured_s <= min(RECENT_S, max(_TRY_S, 3 * least_s)) else None

    def likely_s(self, rows: int, now_s: float) -> float | None:
        """How long a run of so many rows takes, as was measured of late; None where nothing was.

        The median of the last five of a class, in between on a straight line; beyond the largest, row by row.
        """
        recent = [each.median for each in tuple(self._classes.values()) if now_s - each.measured_s <= RECENT_S]
        below: tuple[float, int] | None = None
        for took_s, of in sorted(recent, key=_rows_of):
            if of >= rows:
                if below is None:
                    return took_s
                return below[0] + (took_s - below[0]) * (rows - below[1]) / (of - below[1])
            below = took_s, of
        return None if below is None else below[0] * rows / max(below[1], 1)

    def fixed_s(self, now_s: float) -> float | None:
        """What a run costs beside its rows, by the line through the smallest and the largest of the last seconds.

        By the quickest of each size: rows wait where a run is slow, so large batches meet a busy machine more often.
        All of it where runs of one size were measured: larger ones are then tried, which tells. None where none were.
        """
        recent = [each for each in tuple(self._classes.values()) if now_s - each.measured_s <= _KNOWN_S]
        sure = [min(each.last) for each in recent if len(each.last) >= _ENOUGH]
        if not sure:
            return None
        (low_s, low_rows), (high_s, high_rows) = min(sure, key=_rows_of), max(sure, key=_rows_of)
        row_s = max(0.0, (high_s - low_s) / max(high_rows - low_rows, 1))
        return max(0.0, low_s - row_s * low_rows)

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


def _rows_of(run: tuple[float, int]) -> int:
    return run[1]
