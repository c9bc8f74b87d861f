"""Holds a latency target by the number of rows that go into a batch. No clock, no lock."""

from __future__ import annotations

from collections.abc import Sequence

from fallback_server.batching import policy

_MORE_ROWS = 1
_LESS = 0.75


class LatencyTarget:
    """Additive increase, multiplicative decrease of the most rows of a batch, as Clipper has it (Crankshaw 2017).

    A request that comes waits for the run that is under way, and then for its own: so runs of half the target hold it.
    A batch whose oldest request took longer makes the next ones smaller only if its own run is to blame. What waited
    too long behind short runs waits in a queue that is too full: smaller batches would drain it slower, and never end
    being too late. A full batch whose run takes no longer than half of the target makes the next ones larger, whatever
    its requests took.

    Args:
        target_s: How long a request may take, from when it came to the end of its run.
        max_rows: The largest batch.
        allowed: The sizes that are run; empty for any.

    Attributes:
        rows: The most that go into the next batch.
    """

    def __init__(self, target_s: float, max_rows: int, allowed: Sequence[int] = ()) -> None:
        self._target_s = target_s
        self._max_rows = max_rows
        self._allowed = allowed
        self._limit = 1.0

    @property
    def rows(self) -> int:
        """The most that go into the next batch."""
        return policy.limit_rows(max_rows=self._max_rows, wanted_rows=int(self._limit), allowed=self._allowed)

    def ran(self, *, rows: int, oldest_s: float, run_s: float, full: bool = False) -> None:
        """A batch has run.

        Args:
            rows: That were in it. One that was smaller than it might have been tells nothing of larger ones.
            oldest_s: How long its oldest request took with it.
            run_s: How long it ran.
            full: Whether somebody was left out, for whom there was no room in it.
        """
        if oldest_s > self._target_s and run_s > self._target_s / 2:
            below = max((size for size in self._allowed if size < rows), default=rows)
            self._limit = max(1.0, min(below, min(self._limit, rows) * _LESS))
        elif (full or rows >= self.rows) and run_s <= self._target_s / 2:
            self._limit = min(float(self._max_rows), self._limit + _MORE_ROWS)

    def __repr__(self) -> str:
        return f"LatencyTarget({self._target_s * 1e3:g} ms, {self.rows} of {self._max_rows} rows)"
