"""The one thread that looks after the devices: tries again what was lost, when it is time or when it is seen again."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edge_runtime.crew.device import place_of

if TYPE_CHECKING:
    from devices import EdgeTpu

_log = logging.getLogger(__name__)

PRESENCE_S = 1.0
"""How often sysfs is read for Edge TPUs while a version wants one."""

GONE_LOOKS = 3
"""An Edge TPU on USB leaves the bus for about a second when its firmware is loaded: it is gone when it was missing at
so many looks in a row, or when a run failed meanwhile."""


class Watcher(Protocol):
    """What wants to know of Edge TPUs that come and go."""

    def seen(self, present: tuple[EdgeTpu, ...], gone: frozenset[str], back: frozenset[str]) -> None:
        """Called at a change, on the supervisor's thread; must not take long.

        Args:
            present: All that are attached.
            gone: The places, as `place_of` says them, that are empty now.
            back: The places where there is one now, and there was none.
        """
        ...


class Supervisor:
    """Timers, background jobs and looks at the bus. Thread-safe. Its thread starts with the first need of it."""

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
            in_order: The same in the library's order, which may take a second; asked when it matters.
        """
        self._clock = clock
        self._edge_tpus = edge_tpus
        self._in_order = in_order or edge_tpus
        self._condition = threading.Condition()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._watchers: set[Watcher] = set()
        self._jobs: set[threading.Thread] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._missing: dict[str, int] = {}
        self._known: frozenset[str] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {len(self._timers)} timers, {len(self._jobs)} jobs, {len(self._watchers)} watchers>"

    def at(self, instant_s: float, call: Callable[[], object]) -> None:
        """Calls it in a thread of its own at the instant, or soon after; not at all once this is closed."""
        with self._condition:
            if self._closed:
                return
            heapq.heappush(self._timers, (instant_s, next(self._order), call))
            self._need_thread()
            self._condition.notify()

    def start(self, call: Callable[[], object]) -> bool:
        """Calls it now, in a thread of its own; not at all once this is closed. Whether it does."""
        with self._condition:
            if self._closed:
                return False
            thread = threading.Thread(target=self._run, args=(call,), name="edge-crew-job", daemon=True)
            self._jobs.add(thread)
            thread.start()
            return True

    def watch(self, watcher: Watcher) -> tuple[EdgeTpu, ...]:
        """From now on it is told of Edge TPUs that come and go; those that are attached now."""
        present = self._in_order()
        with self._condition:
            self._watchers.add(watcher)
            if self._known is None:
                self._known = frozenset(map(place_of, self._edge_tpus()))
            if not self._closed:
                self._need_thread()
                self._condition.notify()
        return present

    def unwatch(self, watcher: Watcher) -> None:
        """It is told no more."""
        with self._condition:
            self._watchers.discard(watcher)

    def close(self, limit_s: float = 5.0) -> None:
        """Forgets the timers and waits for the jobs, but no longer than the limit for one that hangs."""
        with self._condition:
            self._closed = True
            self._timers.clear()
            self._watchers.clear()
            self._condition.notify()
            waited_for = [*self._jobs, *([self._thread] if self._thread else [])]
        until_s = self._clock() + limit_s
        for thread in waited_for:
            if thread is not threading.current_thread():
                thread.join(max(until_s - self._clock(), 0.0))
            if thread.is_alive() and thread is not threading.current_thread():
                _log.warning("a device did not come back within %g s of closing; its thread is left behind", limit_s)

    def _need_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="edge-crew", daemon=True)
            self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  whatever it is, the other devices are looked after
            _log.error("looking after a device failed in a way that has no name", exc_info=error)
        finally:
            with self._condition:
                self._jobs.discard(threading.current_thread())

    def _serve(self) -> None:
        look_s = self._clock() + PRESENCE_S
        while True:
            with self._condition:
                if self._closed:
                    return
                now_s = self._clock()
                due = []
                while self._timers and self._timers[0][0] <= now_s:
                    due.append(heapq.heappop(self._timers)[2])
                if not due:
                    ends = [self._timers[0][0]] if self._timers else []
                    ends += [look_s] if self._watchers else []
                    if not ends or min(ends) > now_s:
                        self._condition.wait(min(ends) - now_s if ends else None)
                        continue
            for call in due:
                self.start(call)
            if look_s <= self._clock():
                self._look()
                look_s = self._clock() + PRESENCE_S

    def _look(self) -> None:
        with self._condition:
            watchers = list(self._watchers)
        if not watchers:
            return
        try:
            places = frozenset(map(place_of, self._edge_tpus()))
        except Exception as error:  # noqa: BLE001  a bus that can't be read now is read at the next look
            _log.warning("the Edge TPUs can't be looked for: %s", error)
            return
        gone, back = self.compare(places)
        if gone or back:
            present = self.present()
            for watcher in watchers:
                watcher.seen(present, gone, back)

    def compare(self, places: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Takes a look's result; the places that are empty for good, and those that are taken anew."""
        known = self._known or frozenset()
        self._missing = {place: self._missing.get(place, 0) + 1 for place in known - places}
        gone = frozenset(place for place, looks in self._missing.items() if looks >= GONE_LOOKS)
        back = places - known
        self._known = (known | places) - gone
        for place in gone:
            del self._missing[place]
        return gone, back

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
