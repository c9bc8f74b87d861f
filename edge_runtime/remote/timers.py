"""Later: one thread that calls what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

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
    """A `Later` with a thread of its own, started by the first call. Thread-safe; `what` must be quick."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Timer]] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._sweep_at = _FEW
        self._closed = False
        self._thread: threading.Thread | None = None

    def call(self, delay_s: float, what: Callable[[], None]) -> Timer | None:
        """See `Later`."""
        timer = Timer(what)
        with self._changed:
            if len(self._due) >= self._sweep_at:
                self._sweep()
            if self._closed or len(self._due) >= MAX_TIMERS:
                return None
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), timer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edge-remote-timer", daemon=True)
                self._thread.start()
            elif self._due[0][2] is timer:  # Else the thread wakes early enough.
                self._changed.notify()
        return timer

    def close(self) -> None:
        """See `Later`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _sweep(self) -> None:
        """Throws out what was cancelled: far deadlines of requests that were answered long ago would fill it."""
        self._due = [entry for entry in self._due if entry[2].what is not None]
        heapq.heapify(self._due)
        self._sweep_at = min(max(2 * len(self._due), _FEW), MAX_TIMERS)

    def _run(self) -> None:
        while (what := self._next()) is not None:
            try:
                what()
            except Exception:  # noqa: BLE001  one request's trouble must not end the others' thread
                _log.exception("a timer's work failed")

    def _next(self) -> Callable[[], None] | None:
        """Waits for what is due next; None when all is done and closed."""
        with self._changed:
            while True:
                while self._due and self._due[0][2].what is None:
                    heapq.heappop(self._due)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if self._due and (self._closed or (wait_s is not None and wait_s <= 0)):
                    what = heapq.heappop(self._due)[2].what
                    if what is not None:  # Cancelled between the look above and here.
                        return what
                    continue
                if self._closed:
                    return None
                # A deadline may be further away than the system can wait.
                self._changed.wait(None if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
