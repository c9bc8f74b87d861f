"""Threads that receive: one leads, and where it is held up another takes its place."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

Receive = Callable[[], list[Any] | None]
"""Waits for events; None when no more come."""

Take = Callable[[list[Any], bool], None]
"""Works off events; whether that may take long, since others would go on receiving meanwhile."""

HELD_UP_S = 0.01
"""So long a leader may be at one list of events; short runs of a model and the parsing of a list take less. It is twice
as long at most until another leads."""

MAX_THREADS = 16
"""That are held up at a time. The last of them runs nothing itself, so that somebody receives at any time."""

_IDLE_LOOKS = 100
"""After so many looks without an event the watch rests until one comes."""


class Receivers:
    """Works off events, of which all that came while one list was worked off make the next.

    One thread at a time receives: several would share what comes between them, in shorter lists. It works off what it
    received by itself, as a hop to another thread costs more than most lists do. A second thread only watches.

    Args:
        receive: See `Receive`. Called by one thread at a time.
        take: See `Take`. Several may be in it, where one is held up.
        held_up_s: How long one list may take before another thread leads.
    """

    def __init__(self, receive: Receive, take: Take, *, held_up_s: float = HELD_UP_S) -> None:
        self._receive = receive
        self._take = take
        self._held_up_s = held_up_s
        self._lock = threading.Lock()
        self._turn = 0
        self._threads = 0
        self._begun = 0
        self._ended = 0
        self._wake = threading.Event()
        self._watching = False
        self._closed = False

    def start(self) -> None:
        """Begins to receive."""
        self._add()
        threading.Thread(target=self._watch, name="receivers-watch", daemon=True).start()

    def close(self) -> None:
        """Ends the watch; the leader ends when `receive` says so, and who is held up when it is done."""
        self._closed = True
        self._wake.set()

    def _add(self) -> None:
        """Another thread leads from now on."""
        self._turn += 1
        self._threads += 1
        threading.Thread(target=self._lead, args=(self._turn,), name=f"receiver-{self._turn}", daemon=True).start()

    def _lead(self, turn: int) -> None:
        leads = True
        while leads and (events := self._receive()) is not None:
            self._begun += 1
            if not self._watching:
                self._wake.set()
            try:
                self._take(events, self._threads < MAX_THREADS)
            except Exception:  # noqa: BLE001  the next list must find a receiver
                _log.exception("a list of calls could not be worked off")
            events = None  # Large messages live as long as somebody holds them.
            with self._lock:
                leads = turn == self._turn
                if leads:
                    self._ended = self._begun
        with self._lock:
            self._threads -= 1

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            self._watching = True
            seen, idle = -1, 0
            while idle < _IDLE_LOOKS and not self._closed:
                time.sleep(self._held_up_s)
                idle = idle + 1 if seen == self._begun == self._ended else 0
                if seen == self._begun:
                    self._replace(seen)
                seen = self._begun
            # In this order: the leader counts first and looks then, so one of the two sees the other.
            self._watching = False
            if self._begun != seen:
                self._wake.set()

    def _replace(self, begun: int) -> None:
        """Has another thread lead, if the leader is at the same list of events still."""
        with self._lock:
            if self._ended == self._begun or self._begun != begun or self._threads >= MAX_THREADS:
                return
            self._ended = self._begun
            self._add()
        _log.debug("a receiver is held up: another one goes on")
