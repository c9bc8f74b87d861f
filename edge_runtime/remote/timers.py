"""Later: one thread that calls what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from edge_runtime.remote.bell import Bell

_log = logging.getLogger(__name__)

MAX_TIMERS = 16384
"""Requests that wait for their next try, their deadline or their copy; past this a request fails instead of waiting."""

_FEW = 64
"""So many timers are not worth sweeping."""


class Timer:
    """What waits to be called. Truthy, as what `Later.call` gives for a wait that was taken."""

    __slots__ = ("what",)

    def __init__(self, what: Callable[[], None] | None) -> None:
        self.what = what

    def cancel(self) -> None:
        """It is not called any more, unless it is being called now; what it held is let go."""
        self.what = None


class Later(Protocol):
    """Calls back after a while."""

    def call(self, delay_s: float, what: Callable[[], None]) -> Timer | None:
        """Calls `what` once after the delay, or when it is closed; None if it takes no more, and never will call."""
        ...

    def close(self) -> None:
        """Calls what still waits, now, and takes no more."""
        ...


class Timers:
    """A `Later` with a thread of its own. Thread-safe; `what` must be quick.

    Whoever calls may be interrupted by a signal's handler at any point: then its wait has been taken, or it hasn't.
    """

    def __init__(self) -> None:
        """Starts the thread, so that nobody is interrupted while starting it."""
        self._due: list[tuple[float, int, Timer]] = []
        self._lock = threading.Lock()
        self._bell = Bell()
        self._numbers = itertools.count()
        self._sweep_at = _FEW
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="edge-remote-timer", daemon=True)
        self._thread.start()

    def call(self, delay_s: float, what: Callable[[], None]) -> Timer | None:
        """See `Later`."""
        timer = Timer(what)
        due_s = time.monotonic() + delay_s
        with self._lock:
            if len(self._due) >= self._sweep_at:
                self._sweep()
            if self._closed or len(self._due) >= MAX_TIMERS:
                return None
            if not self._due or due_s < self._due[0][0]:  # Else the thread wakes early enough.
                self._bell.ring()  # It waits for the lock: rung after, an interrupt between would leave it asleep.
            heapq.heappush(self._due, (due_s, next(self._numbers), timer))
        return timer

    def close(self) -> None:
        """See `Later`."""
        self._closed = True
        self._bell.ring()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _sweep(self) -> None:
        """Throws out what was cancelled: far deadlines of requests that were answered long ago would fill it."""
        left = [entry for entry in self._due if entry[2].what is not None]
        heapq.heapify(left)
        self._due = left
        self._sweep_at = min(max(2 * len(self._due), _FEW), MAX_TIMERS)

    def _run(self) -> None:
        while (what := self._next()) is not None:
            try:
                what()
            except Exception:  # noqa: BLE001  one request's trouble must not end the others' thread
                _log.exception("a timer's work failed")

    def _next(self) -> Callable[[], None] | None:
        """Waits for what is due next; None when all is done and closed."""
        while True:
            with self._lock:
                closed = self._closed
                while self._due and self._due[0][2].what is None:
                    heapq.heappop(self._due)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if self._due and (closed or (wait_s is not None and wait_s <= 0)):
                    what = heapq.heappop(self._due)[2].what
                    if what is not None:  # Cancelled between the look above and here.
                        return what
                    continue
                if closed:
                    return None
            self._bell.wait(wait_s)
