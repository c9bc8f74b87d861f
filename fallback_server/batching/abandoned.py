"""Runs for which nobody waits any more and that do not end: a model that loops on what one request holds.

Such a run keeps its thread and its model's, and two of them are all that a model has. Where the model has a process of
its own, the run is ended with that, and the version is loaded anew, as when the process crashes.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

from fallback_server.batching.company import Process
from fallback_server.batching.costs import RunCosts
from fallback_server.batching.tasks import Task
from fallback_server.core.alarm import Alarm

_log = logging.getLogger(__name__)

TIMES_USUAL = 10
"""Times as long as runs of as many rows take, see `RunCosts.usual_s`: what takes less may well be about to end."""

LOOKS = 10
"""As often the runs are looked at until one is given up."""

LEAST_LOOK_S = 0.05
"""Between two looks, however short the bound is: one of microseconds would take a core for them."""

_STOP_S = 1.0


@dataclass(eq=False, slots=True)
class Watched:
    """A run of a model in a process of its own.

    Attributes:
        tasks: Whom it is for.
        rows: As it is run.
        begun_s: Since when.
        left_s: When it was first seen that nobody waits for it; None while somebody does.
    """

    tasks: Sequence[Task]
    rows: int
    begun_s: float
    left_s: float | None = None

    def seen(self, now_s: float) -> float | None:
        """It is looked at. Since when nobody waits for it, as far as was seen; None where somebody does."""
        if not all(_has_left(task, now_s) for task in self.tasks):
            self.left_s = None
        elif self.left_s is None:
            self.left_s = now_s
        return self.left_s


class UnderWay:
    """The runs of a queue that are watched. Thread-safe."""

    __slots__ = ("_lock", "_runs")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[Watched, None] = {}

    def begin(self, tasks: Sequence[Task], rows: int, now_s: float) -> Watched:
        """A run begins. Whoever runs it says when it has ended, before it begins another."""
        run = Watched(tasks, rows, now_s)
        with self._lock:
            self._runs[run] = None
        return run

    def end(self, run: Watched) -> None:
        """It has ended, however it did."""
        with self._lock:
            del self._runs[run]

    def runs(self) -> list[Watched]:
        """Those that are under way now."""
        with self._lock:
            return list(self._runs)

    def end_hanging(self, run: Watched, process: Process, *, ran_s: float) -> None:
        """Ends what a run goes on in, unless it has ended meanwhile: it can't end, nor another begin, in between."""
        with self._lock:
            if run in self._runs:
                process.end_hanging(ran_s=ran_s)


class Watchable(Protocol):
    """A queue, as far as its runs are watched; see `BatchQueue`."""

    name: str
    in_process: bool
    process: Process | None
    under_way: UnderWay
    costs: RunCosts

    @property
    def batch_rows(self) -> int: ...  # noqa: D102  told above


class Watchdog:
    """Looks at what runs now and then, and ends what hangs.

    That is a run for which nobody has waited for `bound_s`, which goes on for as long and `TIMES_USUAL` times what runs
    of as many rows take, or would by what fewer took, or one as the model was loaded. Not while one beside it in its
    process has begun before it and is waited for: it may wait for that. Those that began later are told that their
    process has ended, and may ask again.

    What runs in the server's own process can't be ended: the log tells of it, once for each queue.

    Args:
        under_way: Gives the queues that have runs under way, each with the instant at which its oldest began, as far as
            that is known, and inf otherwise.
        bound_s: See above; 0: nothing is ever ended.
        clock: Monotonic seconds.
    """

    def __init__(
        self, under_way: Callable[[], Iterable[tuple[Watchable, float]]], *, bound_s: float, clock: Callable[[], float]
    ) -> None:
        self._under_way = under_way
        self._bound_s = bound_s
        self._clock = clock
        self._told: WeakSet[Watchable] = WeakSet()
        self._alarm: Alarm | None = None

    def start(self) -> None:
        """Looks from now on, in a thread of its own."""
        if self._bound_s:
            self._alarm = Alarm(name="watchdog", ring=self._ring, clock=self._clock)
            self._alarm.wake()

    def stop(self) -> None:
        """Looks no more. Again, or without a start: does nothing."""
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.stop(timeout_s=_STOP_S)

    def look(self) -> None:
        """Ends what is to be ended now, and tells of what can't be."""
        now_s = self._clock()
        beside: dict[Process, list[Watchable]] = {}
        for queue, oldest_s in self._under_way():
            if queue.process is not None:
                beside.setdefault(queue.process, []).append(queue)
            elif (
                queue.in_process and queue not in self._told and self._is_long(queue, queue.batch_rows, oldest_s, now_s)
            ):
                self._told.add(queue)
                _log.error(
                    "%s: a run has gone on for %.0f s, in the server's own process, where it can't be ended: "
                    "it is rid of it by a restart alone",
                    queue.name,
                    now_s - oldest_s,
                )
        for process, queues in beside.items():
            self._look_at(process, queues, now_s)

    def _ring(self) -> float:
        self.look()
        return self._clock() + max(self._bound_s / LOOKS, LEAST_LOOK_S)

    def _look_at(self, process: Process, queues: Sequence[Watchable], now_s: float) -> None:
        """At all runs of a process."""
        waited_for_s = math.inf
        left: list[tuple[Watchable, Watched, float]] = []
        for queue in queues:
            for run in queue.under_way.runs():
                left_s = run.seen(now_s)
                if left_s is None:
                    waited_for_s = min(waited_for_s, run.begun_s)
                else:
                    left.append((queue, run, left_s))
        for queue, run, left_s in left:
            if (
                now_s - left_s >= self._bound_s
                and run.begun_s <= waited_for_s
                and self._is_long(queue, run.rows, run.begun_s, now_s)
            ):
                queue.under_way.end_hanging(run, process, ran_s=now_s - run.begun_s)

    def _is_long(self, queue: Watchable, rows: int, begun_s: float, now_s: float) -> bool:
        """Whether a run has taken much longer than runs do."""
        return now_s - begun_s >= max(self._bound_s, TIMES_USUAL * queue.costs.usual_s(rows))


def _has_left(task: Task, now_s: float) -> bool:
    """Whether nobody waits for its answer any more."""
    return task.caller.cancelled or (task.deadline_s is not None and now_s >= task.deadline_s)
