"""Whether who comes now would be answered in time, by how fast a queue empties and by what runs take. No clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fallback_server.batching.backlog import Backlog
from fallback_server.batching.costs import RunCosts
from fallback_server.batching.filling import HEADROOM
from fallback_server.batching.tasks import Task

_KEPT = 16
"""Batches whose beginnings say how fast rows leave. A hiccup is forgotten after so many."""

_ENOUGH = 4
"""How many must have begun: the first few begin at once, on places that were free."""


class Room(NamedTuple):
    """What a queue runs.

    Attributes:
        batch_rows: At a time, in a batch.
        slots: How many batches.
        passed_rows: How many of those that can wait for longer one with less time may overtake.
        busy: Whether a batch is under way.
    """

    batch_rows: int
    slots: int
    passed_rows: int
    busy: bool


class Drain:
    """What a queue has done of late. The later of two forecasts counts.

    One is the pace at which batches began while others waited behind them: that has in it whatever slows a queue down,
    as other models' turns and a machine that is busy otherwise. Where a batch takes all that waits there is no such
    pace, and what runs have taken must do. Not thread-safe.

    Args:
        costs: What runs have taken.
        run_rows: How many rows a batch of so many is run with.
    """

    def __init__(self, costs: RunCosts, run_rows: Callable[[int], int]) -> None:
        self._costs = costs
        self._run_rows = run_rows
        self._began: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def begins(self, rows: int, now_s: float) -> None:
        """A batch of so many rows begins to run."""
        self._began.append((now_s, rows))

    def rested(self) -> None:
        """Nothing waited: how long it was until the next batch began says nothing."""
        if self._began:
            self._began.clear()

    def is_too_slow(self, backlog: Backlog, task: Task, now_s: float, room: Room) -> bool:
        """Whether who comes now would be answered late, or nearly so; not where nothing was measured of late.

        Args:
            backlog: What waits: something.
            task: Which comes, with a deadline.
            now_s: The instant.
            room: What runs at a time.
        """
        assert task.deadline_s is not None
        left_s = task.deadline_s - now_s
        _, rows = backlog.before(task.priority)
        if HEADROOM * self._expected_s(rows, task.rows, now_s, room) <= left_s:
            return False
        passed_rows = min(backlog.rows_after(task.deadline_s), room.passed_rows)
        if not passed_rows:
            return True
        return HEADROOM * self._expected_s(max(0, rows - passed_rows), task.rows, now_s, room) > left_s

    def _expected_s(self, rows: int, own_rows: int, now_s: float, room: Room) -> float:
        """How long it takes to the answer of so many rows behind so many others; 0 where nothing is known."""
        # Those that are late together are run in smaller batches, on all places.
        share_rows = -(-(rows + own_rows) // room.slots)
        batches, rest_rows = divmod(share_rows, room.batch_rows)
        by_runs_s = self._likely_s(rest_rows, now_s) if rest_rows else 0.0
        if batches:
            by_runs_s += batches * self._likely_s(room.batch_rows, now_s)
        if room.busy:  # Half of a run is over on average.
            by_runs_s += self._likely_s(min(share_rows, room.batch_rows), now_s) / 2 / room.slots
        return max(by_runs_s, self._paced_s(rows, now_s) + self._likely_s(own_rows, now_s))

    def _paced_s(self, rows: int, now_s: float) -> float:
        """How long it takes until so many rows have begun, at the pace of those before; 0 where there is none."""
        if len(self._began) < _ENOUGH:
            return 0.0
        first_s, first_rows = self._began[0]
        last_s, last_rows = self._began[-1]
        left_rows = sum([rows for _, rows in self._began]) - first_rows
        # The next batch would have begun by now, or else it is slower than those before.
        row_s = max((last_s - first_s) / left_rows, (now_s - first_s) / (left_rows + last_rows))
        return rows * row_s

    def _likely_s(self, rows: int, now_s: float) -> float:
        return self._costs.likely_s(self._run_rows(rows), now_s) or 0.0

    def __repr__(self) -> str:
        return f"Drain({len(self._began)} batches)"
