"""What the core asks of a backend: to load one version, and of what it loaded: to be closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from fallback_server.core.servable import ServableId


class Servable(Protocol):
    """A loaded version. The core only closes it."""

    def close(self) -> None:
        """Frees its memory. Called once, when nobody holds the version any more."""


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


OnLost = Callable[[S, str], None]
"""Told, in any thread, that what was loaded is dead, and why. It must not be told before `load` begins."""

MakeLoader = Callable[[ServableId, Path, OnLost[S]], Loader[S]]
"""Makes the loader of a version that stands at a path; does no work yet."""
