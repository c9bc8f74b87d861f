"""What waits and may run as one: in the order in which it came, those of a higher priority some way before others."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable

from fallback_server.batching import policy
from fallback_server.batching.tasks import Task


class Group:
    """Tasks whose inputs can be joined.

    Attributes:
        rows: How many rows of them wait.
    """

    __slots__ = ("_deadline_s", "_levels", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self._deadline_s: float | None = math.inf
        self._levels: dict[int, deque[Task]] = {}

    def put(self, task: Task) -> None:
        """Behind those of its priority."""
        level = self._levels.get(task.priority)
        if level is None:
            level = self._levels[task.priority] = deque()
        task.stands_s = task.enqueued_s
        level.append(task)
        self.rows += task.rows
        if task.deadline_s is not None and self._deadline_s is not None:
            self._deadline_s = min(self._deadline_s, task.deadline_s)

    def head(self) -> Task:
        """Which is next. Something must wait."""
        if len(self._levels) == 1:
            (level,) = self._levels.values()
            return level[0]
        return min((level[0] for level in self._levels.values()), key=precedence_s)

    def pop(self) -> Task:
        """Removes the head."""
        task = self.head()
        level = self._levels[task.priority]
        level.popleft()
        if not level:
            del self._levels[task.priority]
        self.rows -= task.rows
        self._deadline_s = None
        return task

    def put_back(self, task: Task) -> None:
        """In front of those of its priority, where it was taken from: whoever was taken last first."""
        self._levels.setdefault(task.priority, deque()).appendleft(task)
        self.rows += task.rows
        self._deadline_s = None

    def has_rest(self) -> bool:
        """Whether what is left of a request that was cut is in it: that stands in front of its level."""
        return any(level[0].whole is not None for level in self._levels.values())

    def rows_from(self, priority: int) -> int:
        """How many rows are of that priority or a higher one. Looks at each task."""
        return sum(task.rows for level, tasks in self._levels.items() if level >= priority for task in tasks)

    def nearest_s(self, count: int) -> float:
        """The earliest deadline of the first so many of each priority; inf for none."""
        first = (task.deadline_s for level in self._levels.values() for task in itertools.islice(level, count))
        return min((each for each in first if each is not None), default=math.inf)

    def oldest_s(self) -> float:
        """When the one came that has waited longest. Something must wait."""
        return min(level[0].enqueued_s for level in self._levels.values())

    def deadline_s(self) -> float:
        """The earliest deadline of all; inf for none. Looked for only when something was taken out since."""
        if self._deadline_s is None:
            deadlines_s = [task.deadline_s for level in self._levels.values() for task in level]
            self._deadline_s = min((each for each in deadlines_s if each is not None), default=math.inf)
        return self._deadline_s

    def tasks(self) -> list[Task]:
        """All of them."""
        return [task for level in self._levels.values() for task in level]

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Removes and returns the tasks that nobody wants any more, wherever they stand."""
        dropped: list[Task] = []
        for priority, level in list(self._levels.items()):
            # Asked once a task: a caller may go away between two looks.
            verdicts = [(task, unwanted(task)) for task in level]
            gone = [task for task, no in verdicts if no]
            if gone:
                self._levels[priority] = deque(task for task, no in verdicts if not no)
                if not self._levels[priority]:
                    del self._levels[priority]
                dropped += gone
        self.rows -= sum(task.rows for task in dropped)
        self._deadline_s = None
        return dropped

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))


def precedence_s(task: Task) -> float:
    """See `policy.precedence_s`."""
    return policy.precedence_s(stands_s=task.stands_s, priority=task.priority)
