"""Whose end is a loss: of a version's processes the one that serves."""

from __future__ import annotations

import threading
from collections.abc import Callable


class HeldLoss:
    """Tells of a process that ended, once it is the one that serves: another's end is nobody's loss. Thread-safe.

    Args:
        on_lost: Called once, in any thread, with how it ended.
    """

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._serves = False
        self._how: str | None = None

    @property
    def how(self) -> str | None:
        """How it ended; None where it has not, or was ended on purpose."""
        with self._lock:
            return self._how

    def tell(self, how: str) -> None:
        """Its process has ended."""
        with self._lock:
            self._how = how
            serves = self._serves
        if serves:
            self._on_lost(how)

    def serves(self) -> None:
        """It was chosen; tells at once what has come before."""
        with self._lock:
            self._serves = True
            how = self._how
        if how is not None:
            self._on_lost(how)
