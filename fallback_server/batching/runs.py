"""The batches that are under way, and who may begin another. No lock, no clock: the scheduler's."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

LONG_S = 0.25
"""A batch that has run so long keeps no place from other queues any more. It computes for long, and then the system
shares the processors between it and the others, or it hangs; either way the others have waited long enough."""


@dataclass(frozen=True, eq=False, slots=True)
class Runner:
    """What runs the batches of several queues, and only so many at a time: a further one would wait in it for another.

    Attributes:
        at_once: How many, at least 1.
    """

    at_once: int


@dataclass(eq=False, slots=True)
class Run:
    """A batch that is under way.

    Attributes:
        queue: Whose.
        begun_s: Since when.
        counts: Whether it takes a place from others.
        runner: What it keeps busy; None where that takes as many as come.
    """

    queue: Hashable
    begun_s: float
    counts: bool = True
    runner: Runner | None = None


class Runs:
    """Batches under way, in the order in which they began.

    `slots` batches run at a time; one more of a queue that has none under way, so that one queue can't hold all; and
    any that have run for `LONG_S` don't count. No queue has more than `slots` under way, whatever they do;
    but one whose runs wait for each other in the model has as many lanes as it is said to have, and none of those
    counts; and queues that have a runner together have no more than it takes.

    Args:
        slots: How many count at most.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._own: dict[Hashable, int] = {}
        self._busy: dict[Runner, int] = {}
        self._runs: deque[Run] = deque()

    def __len__(self) -> int:
        return sum(self._own.values())

    def oldest(self) -> dict[Hashable, float]:
        """Whose batches are under way -> since when the oldest of each, as far as those count; inf otherwise."""
        found = dict.fromkeys(self._own, math.inf)
        for run in reversed(self._runs):
            found[run.queue] = run.begun_s
        return found

    def begin(self, queue: Hashable, now_s: float, *, counts: bool = True, runner: Runner | None = None) -> Run:
        """A batch of the queue begins.

        Args:
            queue: Whose.
            now_s: The instant.
            counts: Not where the queue has lanes.
            runner: The queue's, where it has one.
        """
        run = Run(queue, now_s, counts, runner)
        self._own[queue] = self._own.get(queue, 0) + 1
        if runner is not None:
            self._busy[runner] = self._busy.get(runner, 0) + 1
        if counts:
            self._runs.append(run)
        return run

    def end(self, run: Run) -> None:
        """It has ended."""
        if run.counts:
            self._runs.remove(run)
        if left := self._own.pop(run.queue) - 1:
            self._own[run.queue] = left
        if run.runner is not None and (left := self._busy.pop(run.runner) - 1):
            self._busy[run.runner] = left

    def may_begin_s(
        self,
        queue: Hashable,
        now_s: float,
        *,
        lanes: int = 0,
        runner: Runner | None = None,
        room_until_s: float = -math.inf,
    ) -> float:
        """From when on the queue may begin a batch, if none ends before: -inf for now, inf if one must end.

        Args:
            queue: Whose.
            now_s: The instant.
            lanes: How many it may have under way whatever others do; 0: as those let it.
            runner: The queue's, where it has one.
            room_until_s: Until when it leaves one of the slots to others, where there are several.
        """
        if not self._own:
            return -math.inf
        if runner is not None and self._busy.get(runner, 0) >= runner.at_once:
            return math.inf
        own = self._own.get(queue, 0)
        if lanes:
            return -math.inf if own < lanes else math.inf
        all_taken = own >= self._slots
        if all_taken or (own and own == self._slots - 1 and room_until_s > now_s):
            return math.inf if all_taken else room_until_s
        bound = self._slots if own else self._slots + 1
        counted = self._counted(now_s)
        if counted < bound:
            return -math.inf
        # The oldest that counts is the first to do so no more; as many must as are over the bound.
        return self._runs[len(self._runs) - bound].begun_s + LONG_S

    def _counted(self, now_s: float) -> int:
        """How many have not run long yet."""
        counted = 0
        for run in reversed(self._runs):
            if now_s - run.begun_s >= LONG_S:
                break
            counted += 1
        return counted
