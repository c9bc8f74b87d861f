"""Which of many groups is next: known without a look at all of them, since one lock is held meanwhile. No clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator

from fallback_server.batching.groups import Group, precedence_s
from fallback_server.batching.lengths import Shapes

_SLACK = 64
"""Entries more than twice as many as groups: so many may have become untrue before they are looked for."""

_AT_ONCE = 256
"""How many groups that have changed, or become due, are put in order at a time: the lock is held meanwhile."""

_Entry = tuple[float, int, Shapes]
"""An instant, the note that says whether it still holds, and whose it is."""


class Order:
    """Groups by what their tasks have in common, and the order in which they are due and served.

    What has changed is noted, and looked at when somebody asks, if there is more than one group. An entry that became
    untrue stays where it is until it comes up: so each change takes a step in a heap, and no search.

    Args:
        due_at_s: When a group is due; None where each is as soon as it is there.
    """

    def __init__(self, due_at_s: Callable[[Group], float] | None = None) -> None:
        self._due_at_s = due_at_s
        self._groups: dict[Shapes, Group] = {}
        self._notes: dict[Shapes, int] = {}
        self._changed: dict[Shapes, None] = {}
        self._later: list[_Entry] = []
        self._ready: list[_Entry] = []
        self._numbers = itertools.count()

    def group(self, key: Shapes) -> Group:
        """The group of these, into which something is about to be put; an empty one where there was none."""
        if len(self._changed) >= _AT_ONCE:
            self._note()
        self._changed[key] = None
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
        return group

    def changed(self, key: Shapes) -> None:
        """Something was put into a group or taken out of it; an empty one is forgotten."""
        if self._groups[key].rows:
            self._changed[key] = None
            return
        del self._groups[key]
        self._changed.pop(key, None)
        self._notes.pop(key, None)

    def first(self, now_s: float) -> Shapes | None:
        """Whose head comes first, of those that are due; None where none is.

        Of many that have become due since the last look those are due that were first.
        """
        if len(self._groups) <= 1:
            for key, group in self._groups.items():
                if self._due_at_s is None or self._due_at_s(group) <= now_s:
                    return key
            return None
        self._note()
        looks = 0
        while self._later and looks < _AT_ONCE and (not self._holds(self._later[0]) or self._later[0][0] <= now_s):
            looks += 1
            entry = heapq.heappop(self._later)
            if self._holds(entry):
                self._is_ready(entry[2], entry[1])
        return self._top(self._ready)

    def soonest(self) -> Shapes:
        """Which is due first, whether or not it is. There must be one."""
        if len(self._groups) == 1:
            return next(iter(self._groups))
        self._note()
        key = self._top(self._ready)
        if key is None:
            key = self._top(self._later)
        assert key is not None
        return key

    def due_at_s(self) -> float:
        """When the first is due; -inf for one that was seen to be, inf where there is none."""
        if not self._groups:
            return math.inf
        if self._due_at_s is None:
            return -math.inf
        if len(self._groups) == 1:
            return self._due_at_s(next(iter(self._groups.values())))
        self._note()
        if self._top(self._ready) is not None:
            return -math.inf
        return self._later[0][0] if self._top(self._later) is not None else math.inf

    def items(self) -> list[tuple[Shapes, Group]]:
        """All of them."""
        return list(self._groups.items())

    def __getitem__(self, key: Shapes) -> Group:
        return self._groups[key]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def _note(self) -> None:
        """Puts what has changed where it stands now."""
        for key in self._changed:
            number = self._notes[key] = next(self._numbers)
            if self._due_at_s is None:
                self._is_ready(key, number)
            else:
                heapq.heappush(self._later, (self._due_at_s(self._groups[key]), number, key))
        self._changed.clear()
        for heap in (self._later, self._ready):
            if len(heap) > 2 * len(self._groups) + _SLACK:
                heap[:] = filter(self._holds, heap)
                heapq.heapify(heap)

    def _is_ready(self, key: Shapes, number: int) -> None:
        heapq.heappush(self._ready, (precedence_s(self._groups[key].head()), number, key))

    def _holds(self, entry: _Entry) -> bool:
        return self._notes.get(entry[2]) == entry[1]

    def _top(self, heap: list[_Entry]) -> Shapes | None:
        while heap and not self._holds(heap[0]):
            heapq.heappop(heap)
        return heap[0][2] if heap else None
