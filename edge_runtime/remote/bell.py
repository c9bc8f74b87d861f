"""Wakes a thread in one step, so that who is interrupted has rung, or has not."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue


class Bell:
    """One thread sleeps, any may wake it; also a signal's handler may raise in whoever rings.

    `threading.Event` and `Condition` enter their lock in Python code: the main thread that is interrupted in there
    leaves it taken for good, and all others wait for it.
    """

    def __init__(self) -> None:
        """Nobody has rung."""
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wakes it, or keeps it from falling asleep next time."""
        if self._rung.empty():
            self._rung.put(None)

    def wait(self, timeout_s: float | None) -> bool:
        """Sleeps until somebody rings, or has since the last time; whether that was so.

        Args:
            timeout_s: For how long at most; None for ever.
        """
        try:
            # A deadline may be further away than the system can wait.
            self._rung.get(timeout=None if timeout_s is None else min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
        except Empty:
            return False
        while not self._rung.empty():
            self._rung.get_nowait()
        return True
