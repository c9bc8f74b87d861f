"""Which of the tasks that could run together do, so that those with little time left are in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fallback_server.batching.costs import RunCosts
from fallback_server.batching.filling import HEADROOM, Want, chosen
from fallback_server.batching.tasks import Task

_FAR = 10
"""Times what a run takes on average: whoever has more time left needs no closer look."""


class Timely:
    """Looks at deadlines beside what runs have taken of late.

    Args:
        costs: What they have taken.
        run_rows: How many rows a batch of so many is run with.
    """

    def __init__(self, costs: RunCosts, run_rows: Callable[[int], int]) -> None:
        self._costs = costs
        self._run_rows = run_rows
        self._gave_way = False

    def is_tight(self, left_s: float, rows: int, now_s: float, *, behind: bool = False) -> bool:
        """Whether a run of so many rows could take longer than is left.

        Args:
            left_s: To one of those who wait; inf for as long as it likes.
            rows: Of the run.
            now_s: The instant.
            behind: Whether that one would run by itself afterwards.
        """
        if left_s == math.inf:
            return False
        mean_s = self._costs.expected_s(self._run_rows(rows))
        if mean_s is None or mean_s * _FAR < left_s:
            return False
        likely_s = self._costs.likely_s(self._run_rows(rows), now_s)
        own_s = self._costs.likely_s(self._run_rows(1), now_s) if behind else 0.0
        return likely_s is not None and HEADROOM * likely_s + (own_s or 0.0) > left_s

    def is_late(self, task: Task, now_s: float) -> bool:
        """Whether a task that is about to run need not: too late even alone, and then `refused`, or not wanted."""
        if task.caller.cancelled or (task.deadline_s is not None and task.deadline_s <= now_s):
            return True
        return task.refuse_if_late(self._costs.recent_s(self._run_rows(task.rows), now_s), now_s)

    def chosen(self, able: Sequence[Task], now_s: float, *, room_rows: int) -> set[int]:
        """The indices of those who run together now; see `filling.chosen`.

        Args:
            able: Who could, whoever is to be served first in front. Somebody must.
            now_s: The instant.
            room_rows: The largest batch.
        """
        choice = chosen(
            [Want(each.rows, math.inf if each.deadline_s is None else each.deadline_s, each.priority) for each in able],
            now_s=now_s,
            room_rows=room_rows,
            cost_s=lambda rows: self._costs.likely_s(self._run_rows(rows), now_s) or 0.0,
            may_give_way=not self._gave_way,
        )
        self._gave_way = choice.gave_way
        return set(choice.indices)
