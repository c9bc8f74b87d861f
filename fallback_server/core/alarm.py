"""A thread that acts once an instant has come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Alarm:
    """Rings when it is woken, and again at the instant that the last ring asked for.

    Args:
        name: The thread's.
        ring: Does what is due, and returns the instant of what is due next; None for nothing.
        clock: Monotonic seconds.
    """

    def __init__(self, *, name: str, ring: Callable[[], float | None], clock: Callable[[], float]) -> None:
        self._ring = ring
        self._clock = clock
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Rings soon: what is due next may have changed."""
        self._woken.set()

    def stop(self, *, timeout_s: float) -> bool:
        """Ends the thread; False when it still runs after `timeout_s`."""
        self._stopped = True
        self._woken.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        next_s: float | None = None
        while True:
            self._woken.wait(None if next_s is None else max(0.0, min(next_s - self._clock(), threading.TIMEOUT_MAX)))
            self._woken.clear()
            if self._stopped:
                return
            try:
                next_s = self._ring()
            except Exception:  # noqa: BLE001  without this thread nothing would be tried again
                _log.exception("a ring failed in %s", threading.current_thread().name)
                next_s = self._clock() + 1.0
