"""What waits in a queue: groups that take turns with large requests, and how much of it stands before whom."""

from __future__ import annotations

import math
from collections.abc import Callable

from fallback_server.batching import policy
from fallback_server.batching.filling import MAX_LOOKED_AT
from fallback_server.batching.groups import Group
from fallback_server.batching.lengths import Shapes
from fallback_server.batching.order import Order
from fallback_server.batching.tasks import Task


class Backlog:
    """Tasks by what they have in common, and beside them those so large that they let others pass.

    Args:
        due_at_s: When a group is due; None where each is as soon as it is there.

    Attributes:
        groups: All but the large ones.
        large: Requests that are larger than half of all places, of whatever shape. Each runs by itself.
    """

    __slots__ = ("_latest_s", "_levels", "_others_wait", "groups", "large")

    def __init__(self, due_at_s: Callable[[Group], float] | None = None) -> None:
        self.groups = Order(due_at_s)
        self.large = Group()
        self._others_wait = False
        self._latest_s = -math.inf  # Of those that wait, the last deadline, or a later one.
        self._levels: dict[int, list[int]] = {}  # Of each priority, of which there are three, tasks and rows.

    def put(self, task: Task, key: Shapes | None) -> None:
        """One more waits, behind those of its priority.

        Args:
            task: Which.
            key: What it has in common with those it may run with; None for a large one.
        """
        (self.large if key is None else self.groups.group(key)).put(task)
        level = self._levels.get(task.priority)
        if level is None:
            level = self._levels[task.priority] = [0, 0]
        level[0] += 1
        level[1] += task.rows
        deadline_s = math.inf if task.deadline_s is None else task.deadline_s
        self._latest_s = deadline_s if len(self) == 1 else max(self._latest_s, deadline_s)

    def gone(self, task: Task) -> None:
        """It was taken out."""
        level = self._levels[task.priority]
        level[0] -= 1
        level[1] -= task.rows

    def cut(self, task: Task, rows: int) -> None:
        """So many rows of it were taken out."""
        self._levels[task.priority][1] -= rows

    def next(self, now_s: float) -> Shapes | None:
        """Which group is next; None for a piece of a large request. Something must wait.

        Of groups that are due the one whose head comes first; or if none is, and no large one waits, any.
        """
        key = self.groups.first(now_s)
        if self.large.rows and self._is_large_turn(key):
            self._others_wait = True
            return None
        self._others_wait = False
        return self.groups.soonest() if key is None else key

    def _is_large_turn(self, key: Shapes | None) -> bool:
        if key is None:
            return True
        large, other = self.large.head(), self.groups[key].head()
        return policy.is_large_turn(
            others_wait=self._others_wait,
            begun=large.whole is not None,
            stands_s=large.stands_s,
            priority=large.priority,
            other_s=other.stands_s,
            other_priority=other.priority,
        )

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Removes and returns the tasks that nobody wants any more, wherever they stand."""
        dropped = self.large.drop(unwanted)
        for key, group in self.groups.items():
            gone = group.drop(unwanted)
            if gone:
                self.groups.changed(key)
                dropped += gone
        for task in dropped:
            self.gone(task)
        return dropped

    def tasks(self) -> list[Task]:
        """All that wait, in no particular order."""
        return [task for group in (self.large, *self.groups) for task in group.tasks()]

    def before(self, priority: int) -> tuple[int, int]:
        """How many tasks of that priority or a higher one wait, and how many rows: they stand before who comes now.

        So do those of a lower one that came some seconds before; see `policy.precedence_s`. They are left out.
        """
        tasks = rows = 0
        for level, counts in self._levels.items():
            if level >= priority:
                tasks += counts[0]
                rows += counts[1]
        return tasks, rows

    def rows_after(self, deadline_s: float) -> int:
        """How many rows wait whose answers have a worth for longer; none where the newest has it longest.

        Where too many wait to be looked at, all rows.
        """
        if deadline_s >= self._latest_s:
            return 0
        if len(self) > MAX_LOOKED_AT:
            return sum([rows for _, rows in self._levels.values()])
        return sum([each.rows for each in self.tasks() if each.deadline_s is None or each.deadline_s > deadline_s])

    def __len__(self) -> int:
        return sum([tasks for tasks, _ in self._levels.values()])
