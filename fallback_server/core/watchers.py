"""Who is told that something changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

MAX_WATCHERS = 1_000
"""The parts of one server are a handful; streams to devices share one of them."""

OnChange = Callable[[], None]


class Watchers:
    """Callbacks. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, OnChange] = {}

    def add(self, on_change: OnChange) -> Callable[[], None]:
        """Has it called from now on, in any thread; what it returns ends that, and may be called again.

        Raises:
            RuntimeError: there are `MAX_WATCHERS` already.
        """
        key = object()
        with self._lock:
            if len(self._callbacks) >= MAX_WATCHERS:
                raise RuntimeError(f"at most {MAX_WATCHERS} can watch")
            self._callbacks = self._callbacks | {key: on_change}

        def end() -> None:
            with self._lock:
                self._callbacks = {other: each for other, each in self._callbacks.items() if other is not key}

        return end

    def tell(self) -> None:
        """Calls all of them. What one raises is logged and keeps it from no other."""
        for on_change in self._callbacks.values():
            try:
                on_change()
            except Exception:  # noqa: BLE001  whoever watches must not end what is watched
                _log.exception("a watcher failed")
