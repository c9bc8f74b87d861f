"""The one thread that looks after the devices: tries again what was lost, when it is time or when it is seen again."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from edge_runtime.crew.device import place_of
from edge_runtime.engine.threads import begin

if TYPE_CHECKING:
    from devices import EdgeTpu

_log = logging.getLogger(__name__)

PRESENCE_S = 1.0
"""How often sysfs is read for Edge TPUs while a version wants one."""

GONE_LOOKS = 3
"""An Edge TPU on USB leaves the bus for about a second when its firmware is loaded: it is gone when it was missing at
so many looks in a row, or when a run failed meanwhile."""

AGAIN_S = 1.0
"""After what the supervisor's own thread could not do for want of memory, or of a thread, it is tried again."""


class Watcher(Protocol):
    """What wants to know of Edge TPUs that come and go."""

    def seen(self, present: tuple[EdgeTpu, ...], gone: frozenset[str], back: frozenset[str]) -> None:
        """Called at a change, in a thread of its own; not again before it has returned.

        Args:
            present: All that are attached.
            gone: The places, as `place_of` says them, of those that it was shown, and that are empty now.
            back: The places where there is one now that it was not shown.
        """
        ...


class Supervisor:
    """Timers, background jobs and looks at the bus. Thread-safe. Its thread starts with the first need of it.

    A job that no thread can be started for waits for one that has ended, or until one can be started. Nothing that is
    asked for here waits or fails because memory is short.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        edge_tpus: Callable[[], tuple[EdgeTpu, ...]],
        in_order: Callable[[], tuple[EdgeTpu, ...]] | None = None,
    ) -> None:
        """Starts nothing.

        Args:
            clock: Monotonic seconds.
            edge_tpus: The Edge TPUs that are attached now; asked once a second, and when a run has failed.
            in_order: The same in the library's order, which may take seconds; asked when it matters, and never on the
                supervisor's own thread.
        """
        self._clock = clock
        self._edge_tpus = edge_tpus
        self._in_order = in_order or edge_tpus
        self._condition = threading.Condition()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._watchers: dict[Watcher, frozenset[str]] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._jobs: set[threading.Thread] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._telling = False
        self._short = False
        self._missing: dict[str, int] = {}
        self._known: frozenset[str] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {len(self._timers)} timers, {len(self._jobs)} jobs, {len(self._watchers)} watchers>"

    def attend(self) -> None:
        """Has its thread run, if it does not: before it is needed, since later none may be had."""
        with self._condition:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
        self._begin(self._serve, "edge-crew")

    def at(self, instant_s: float, call: Callable[[], object]) -> None:
        """Calls it in a thread of its own at the instant, or soon after; not at all once this is closed."""
        with self._condition:
            if self._closed:
                return
            heapq.heappush(self._timers, (instant_s, next(self._order), call))
            self._condition.notify_all()
        self.attend()

    def start(self, call: Callable[[], object]) -> bool:
        """Calls it now, in a thread of its own; not at all once this is closed. Whether it does."""
        with self._condition:
            if self._closed:
                return False
            self._calls.append(call)
            # Its thread looks whether somebody has taken the call: who should may not have come to life.
            self._condition.notify_all()
        self._hire()
        return True

    def watch(self, watcher: Watcher) -> tuple[EdgeTpu, ...]:
        """From now on it is told of Edge TPUs that come and go; those that are attached now."""
        present = self._in_order()
        places = frozenset(map(place_of, self._edge_tpus()))
        with self._condition:
            # What only pycoral sees is never missed: it can't be looked for.
            self._watchers[watcher] = places.intersection(map(place_of, present))
            if self._known is None:
                self._known = places
            self._condition.notify_all()
        self.attend()
        return present

    def unwatch(self, watcher: Watcher) -> None:
        """It is told no more."""
        with self._condition:
            self._watchers.pop(watcher, None)

    def close(self, limit_s: float = 5.0) -> None:
        """Forgets the timers and waits for the jobs, but no longer than the limit for one that hangs."""
        with self._condition:
            self._closed = True
            self._timers.clear()
            self._calls.clear()
            self._watchers.clear()
            self._condition.notify_all()
            waited_for = [*self._jobs, *([self._thread] if self._thread else [])]
        until_s = self._clock() + limit_s
        for thread in waited_for:
            if thread is threading.current_thread():
                continue
            thread.join(max(until_s - self._clock(), 0.0))
            if thread.is_alive():
                _log.warning("a device did not come back within %g s of closing; its thread is left behind", limit_s)

    def _hire(self) -> None:
        """One more thread for the calls."""
        self._begin(self._work, "edge-crew-job")

    def _begin(self, target: Callable[[], None], name: str) -> None:
        try:
            begin(threading.Thread(target=target, name=name, daemon=True), self._not_begun)
        except MemoryError as error:
            self._not_begun(error)

    def _not_begun(self, error: Exception) -> None:
        """No thread could be started: calls wait for another one, and timers for the next need of the thread."""
        said, self._short = self._short, True
        if not said:
            with contextlib.suppress(MemoryError):
                _log.warning("no thread can be started to look after a device, which is tried again: %r", error)

    def _work(self) -> None:
        """A job's thread: takes the call that has waited longest, and those that came when no thread could be had."""
        me = threading.current_thread()
        self._short = False
        while True:
            with self._condition:
                self._jobs.discard(me)
                if not self._calls:
                    return
                call = self._calls.popleft()
                self._jobs.add(me)
            try:
                call()
            except Exception as error:  # noqa: BLE001  whatever it is, the other devices are looked after
                _log.error("looking after a device failed in a way that has no name", exc_info=error)

    def _serve(self) -> None:
        """The supervisor's thread. If there are two, for a moment, the later one leaves."""
        me = threading.current_thread()
        with self._condition:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = me
        look_s = self._clock() + PRESENCE_S
        while True:
            try:
                now_s = self._turn(look_s)
                if now_s is None:
                    return
                if look_s <= now_s:
                    look_s = now_s + PRESENCE_S
                    self._look()
            except Exception as error:  # noqa: BLE001  for want of memory, say: the devices are looked after all the same
                with contextlib.suppress(MemoryError):
                    _log.warning("the devices could not be looked after just now: %r", error)
                with self._condition:
                    self._condition.wait(AGAIN_S)

    def _turn(self, look_s: float) -> float | None:
        """Waits for the next thing that is due, starts what is; the instant, None once this is closed."""
        with self._condition:
            while True:
                if self._closed:
                    return None
                now_s = self._clock()
                if (self._timers and self._timers[0][0] <= now_s) or (self._watchers and look_s <= now_s):
                    break
                ends = [self._timers[0][0]] if self._timers else []
                ends += [look_s] if self._watchers else []
                waiting = len(self._calls)
                ends += [now_s + AGAIN_S] if waiting else []
                woken = self._condition.wait(min(ends) - now_s if ends else None)
                if not woken and waiting and self._calls:
                    break
            while self._timers and self._timers[0][0] <= now_s:
                self._calls.append(self._timers[0][2])
                heapq.heappop(self._timers)
            hired = len(self._calls)
        for _ in range(hired):
            self._hire()
        return now_s

    def _look(self) -> None:
        """Reads sysfs, and has the watchers told of what has changed since they were told last."""
        with self._condition:
            if not self._watchers:
                return
        try:
            places = frozenset(map(place_of, self._edge_tpus()))
        except Exception as error:  # noqa: BLE001  a bus that can't be read now is read at the next look
            _log.warning("the Edge TPUs can't be looked for: %s", error)
            return
        self.compare(places)
        with self._condition:
            # Meanwhile nothing is lost: it is told by what each was shown, whenever that was.
            if self._telling or not any(self._news(shown, places) for shown in self._watchers.values()):
                return
            self._telling = True
        if not self.start(partial(self._tell, places)):
            self._telling = False

    def _tell(self, places: frozenset[str]) -> None:
        try:
            present = self.present()
            # One that has left meanwhile is not told: the list lacks it, and nobody would be told when it is back.
            places &= frozenset(map(place_of, self._edge_tpus()))
            with self._condition:
                watchers = dict(self._watchers)
            for watcher, shown in watchers.items():
                self._tell_one(watcher, shown, places, present)
        finally:
            self._telling = False

    def _tell_one(
        self, watcher: Watcher, shown: frozenset[str], places: frozenset[str], present: tuple[EdgeTpu, ...]
    ) -> None:
        news = self._news(shown, places)
        if news is None:
            return
        gone, back = news
        try:
            watcher.seen(present, gone, back)
        except Exception as error:  # noqa: BLE001  it is told again at the next look, and the others now
            _log.warning("%r could not go by the Edge TPUs that came or went: %r", watcher, error)
            return
        with self._condition:
            if watcher in self._watchers:
                self._watchers[watcher] = (shown - gone) | back

    def _news(self, shown: frozenset[str], places: frozenset[str]) -> tuple[frozenset[str], frozenset[str]] | None:
        """The places that are empty for good, and those that are taken anew, for who was shown these; None if none."""
        gone, back = shown - (self._known or frozenset()), places - shown
        return (gone, back) if gone or back else None

    def compare(self, places: frozenset[str]) -> frozenset[str]:
        """Takes a look's result; the places that are taken now, or have not been empty for long."""
        known = self._known or frozenset()
        self._missing = {place: self._missing.get(place, 0) + 1 for place in known - places}
        gone = frozenset(place for place, looks in self._missing.items() if looks >= GONE_LOOKS)
        self._known = (known | places) - gone
        for place in gone:
            del self._missing[place]
        return self._known

    @property
    def closed(self) -> bool:
        """Whether nothing is started any more."""
        return self._closed

    def present(self) -> tuple[EdgeTpu, ...]:
        """The Edge TPUs that are attached now; none where nothing can be seen."""
        try:
            return self._in_order()
        except OSError:
            return ()

    def is_absent(self, place: str) -> bool:
        """Whether an Edge TPU is not at its place now: looked at when a run has failed."""
        try:
            # pycoral may list what sysfs hides: only what was seen there can be missing there.
            seen = self._known is None or place in self._known
            return bool(place) and seen and place not in map(place_of, self._edge_tpus())
        except OSError:
            return False
