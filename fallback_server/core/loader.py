"""What the core asks of a backend: to load one version, and of what it loaded: to be closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from fallback_server.core.servable import ServableId


class Servable(Protocol):
    """A loaded version. The core only closes it."""

    def close(self) -> None:
        """Frees its memory, when nobody holds the version any more; then it may be called again, and does nothing.

        Where a version is held longer than it may be, it is called before: what runs of it ends with an error.
        """


S = TypeVar("S", bound=Servable)
S_co = TypeVar("S_co", bound=Servable, covariant=True)


class Loader(Protocol[S_co]):
    """Loads one version, in a thread of the manager's own.

    Attributes:
        retriable: Whether a load that failed may succeed with the same files; asked after it failed. A load that did
            not begin, for want of memory, is no failure of its: that is tried again whenever memory may be free.
    """

    @property
    def retriable(self) -> bool: ...  # noqa: D102  told above

    def estimated_bytes(self) -> int:
        """The memory that the load will take at most; 0 where it can't be told. Asked before `load`."""
        ...

    def load(self) -> S_co:
        """Reads the version into memory, so that it can answer at once. May take minutes.

        Raises:
            Exception: any means that the load failed; its text becomes the version's error.
        """
        ...

    def stop(self) -> None:
        """Has a load end soon, whatever it does, by an exception; in any thread, also before it begins or after it.

        Returns at once. What was loaded before stays.
        """


OnLost = Callable[[S, str], None]
"""Told, in any thread, that what was loaded is dead, and why. It must not be told before `load` begins."""

MakeLoader = Callable[[ServableId, Path, OnLost[S]], Loader[S]]
"""Makes the loader of a version that stands at a path; does no work yet."""


class LoadStop:
    """Carries the word that a load is to end to what it runs in. Thread-safe.

    Attributes:
        asked: Whether that was asked for before it was over.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked = False
        self._over = False
        self._ends: list[Callable[[], None]] = []

    def ask(self) -> None:
        """Calls what is to be called then. Again: does nothing."""
        with self._lock:
            if self.asked or self._over:
                return
            self.asked, ends = True, self._ends
            self._ends = []
        for end in ends:
            end()

    def calls(self, end: Callable[[], None]) -> None:
        """Has a function called once the load is to end; at once where it already is. It must not block."""
        with self._lock:
            if not self.asked:
                self._ends.append(end)
                return
        end()

    def over(self) -> None:
        """The load has ended by itself: what was loaded is not ended any more."""
        with self._lock:
            self._over = True
            self._ends = []
