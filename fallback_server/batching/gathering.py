"""When a batch is worth waiting for others, though there is room for it. No lock, no clock.

A run costs something beside its rows: threads and a process wake up for it, and a model does some things once a run.
Where requests come one by one, as gRPC brings them, and a run is over before the next ones are here, each pays for all
of that, and takes the time from whoever reads the next ones. Then a model counts as busy for a while after its run.
"""

from __future__ import annotations

import math

PACE = 20
"""Times what a run costs beside its rows: so long after it began the next one begins at the latest."""

ENGAGED = 0.75
"""Of the time, that runs would cost beside their rows if each row ran alone: below that, nobody waits."""

ENOUGH = 0.03
"""Of the time, that this may take up: as many rows as get it so low are worth no further wait."""

OUTLASTS = 4
"""Times the wait: of those who are in a run that takes longer hardly any are back by then."""

_RATE_S = 0.1
"""The rate of rows is that of so long."""

_FORGOTTEN = 0.1
"""Of what was here at a time and is not now, a batch forgets so much."""


class Gathering:
    """Whether rows that wait should wait for more.

    They do while fewer wait than were here at a time of late, since whoever was answered asks again: so one who asks
    alone never waits, nor does anybody once all are here. And not for longer than is worth it: until there are enough,
    or `PACE` has passed since the last batch began.

    Args:
        most_s: The longest that this may be.

    Attributes:
        peak_rows: How many were here at a time, waiting or running, of late.
        enough_rows: How many are worth no further wait.
    """

    __slots__ = ("_came_rows", "_last_s", "_most_s", "_until_s", "enough_rows", "peak_rows")

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._came_rows = 0.0
        self._last_s = -math.inf
        self._until_s = -math.inf
        self.peak_rows = 0.0
        self.enough_rows = 0.0

    def here(self, rows: int) -> None:
        """So many rows wait or run, now that others have come."""
        self.peak_rows = max(self.peak_rows, rows)

    def took(
        self, rows: int, *, here_rows: int, now_s: float, fixed_s: float | None, run_s: float | None = None
    ) -> None:
        """A batch begins.

        Args:
            rows: It has.
            here_rows: That wait or run, its own among them.
            now_s: The instant.
            fixed_s: What a run costs beside its rows; None where that is not known.
            run_s: How long it takes; None where that is not known. See `OUTLASTS`.
        """
        missing = self.peak_rows - here_rows
        self.peak_rows = max(here_rows, self.peak_rows - _FORGOTTEN * max(missing, 1.0))
        self._came_rows = self._came_rows * math.exp((self._last_s - now_s) / _RATE_S) + rows
        self._last_s = now_s
        share = self._came_rows / _RATE_S * (fixed_s or 0.0)
        self.enough_rows = share / ENOUGH
        self._until_s = -math.inf
        if fixed_s is not None and share >= ENGAGED:
            wait_s = min(PACE * fixed_s, self._most_s)
            if run_s is None or run_s < OUTLASTS * wait_s:
                self._until_s = now_s + wait_s

    def until_s(self, rows: int, *, running: bool) -> float:
        """The instant until which so many rows wait for others; -inf where they don't.

        Args:
            rows: That wait.
            running: Whether others run: whoever waits for those is not here.
        """
        if rows >= self.enough_rows or (not running and rows >= self.peak_rows - 0.5):
            return -math.inf
        return self._until_s

    def __repr__(self) -> str:
        return f"Gathering({self.enough_rows:.1f} of {self.peak_rows:.1f} rows are enough)"
