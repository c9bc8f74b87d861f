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

MAX_TIMERS = 1024
"""Requests that wait for their next try; past this a request fails instead of waiting."""


class Later(Protocol):
    """Calls back after a while."""

    def call(self, delay_s: float, what: Callable[[], None]) -> bool:
        """Calls `what` once after the delay, or when it is closed; False if it takes no more, and never will call."""
        ...

    def close(self) -> None:
        """Calls what still waits, now, and takes no more."""
        ...


class Timers:
    """A `Later` with a thread of its own, started by the first call. Thread-safe; `what` must be quick."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def call(self, delay_s: float, what: Callable[[], None]) -> bool:
        """See `Later`."""
        with self._changed:
            if self._closed or len(self._due) >= MAX_TIMERS:
                return False
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), what))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edge-remote-retry", daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def close(self) -> None:
        """See `Later`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while (what := self._next()) is not None:
            try:
                what()
            except Exception:  # noqa: BLE001  one request's trouble must not end the others' thread
                _log.exception("a retry failed")

    def _next(self) -> Callable[[], None] | None:
        """Waits for what is due next; None when all is done and closed."""
        with self._changed:
            while True:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if self._due and (self._closed or (wait_s is not None and wait_s <= 0)):
                    return heapq.heappop(self._due)[2]
                if self._closed:
                    return None
                self._changed.wait(wait_s)
