"""How fast requests come, and how long a batch waits for more of them. Not thread-safe: the desk locks."""

from __future__ import annotations

import math

from edge_runtime.scheduling.policy import window_s
from edge_runtime.scheduling.queue import RequestQueue
from edge_runtime.scheduling.slot import Slot

_SMOOTHING = 0.2
"""Weight of the newest gap in the mean between arrivals: some ten requests tell of a change."""


class Arrivals:
    """The rate of arrivals in the queue.

    Attributes:
        wanted_rows: The rows that a batch waits for at present; 0 if none does.
    """

    def __init__(self) -> None:
        self.wanted_rows = 0
        self._last_s = -math.inf
        self._row_every_s = math.inf

    def count(self, now_s: float, rows: int) -> None:
        """A request has come."""
        gap_s = (now_s - self._last_s) / rows
        self._last_s = now_s
        if math.isinf(self._row_every_s):
            self._row_every_s = gap_s
        else:
            self._row_every_s += _SMOOTHING * (gap_s - self._row_every_s)

    def window_s(self, slot: Slot, queue: RequestQueue, now_s: float) -> float:
        """How long the batch that could run now on a slot waits for company."""
        self.wanted_rows = 0  # What was napped for before counts no more.
        costs, first = slot.costs, queue.first()
        if costs.largest == 1 or first is None or first.waiting.key is None or queue.rows >= costs.largest:
            return 0.0
        wait_s = window_s(
            rows=queue.rows,
            sizes=costs.sizes,
            seconds=costs.seconds,
            row_every_s=self._row_every_s,
            waited_s=now_s - first.queued_s,
            left_s=first.waiting.deadline_s - now_s,
        )
        if wait_s:
            self.wanted_rows = next(size for size in costs.sizes if size > queue.rows)
        return wait_s
