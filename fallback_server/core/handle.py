"""Holding a version, so that it can't be unloaded under its user."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from fallback_server.core.harness import Harness, Loaded
from fallback_server.core.loader import Servable
from fallback_server.core.servable import ServableId

S = TypeVar("S", bound=Servable)


class Counting(Protocol):
    """Tells of changes.

    Attributes:
        moves: How many times any version's state has changed.
    """

    moves: int


class ServableHandle(Generic[S]):
    """Keeps a version loaded until it is closed. Closing again does nothing; any thread may close.

    Where the version is lost meanwhile (its process died), the handle keeps what was loaded, though dead.

    Attributes:
        servable: What was loaded.
    """

    __slots__ = ("_harness", "_loaded", "_release", "servable")

    def __init__(
        self, harness: Harness[S], loaded: Loaded[S], release: Callable[[Harness[S], Loaded[S]], None]
    ) -> None:
        self.servable = loaded.servable
        self._harness = harness
        self._loaded = loaded
        self._release: Callable[[Harness[S], Loaded[S]], None] | None = release

    @property
    def servable_id(self) -> ServableId:
        """Which version is held."""
        return self._harness.servable_id

    def lend(self) -> ServableHandle[S]:
        """The same version for somebody who lets it go before this handle is closed; costs no lock."""
        return ServableHandle(self._harness, self._loaded, _keep)

    def standing(
        self, *, lock: threading.Lock, changes: Counting, moves: int, steady: Callable[[], bool]
    ) -> Standing[S]:
        """The same version, for others who would get it too; see `Standing`."""
        release = self._release
        assert release is not None
        return Standing(self._harness, self._loaded, release, lock=lock, changes=changes, moves=moves, steady=steady)

    def close(self) -> None:
        """Lets the version go."""
        release, self._release = self._release, None
        if release is not None:
            release(self._harness, self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ServableHandle({self.servable_id}, {'closed' if self._release is None else 'held'})"


class Standing(Generic[S]):
    """A version that was found, to be held again without being looked for, as long as nothing has changed. Any thread.

    It keeps nothing of the version alive: whoever has one may have it for long after the version has gone. It does keep
    whoever manages it.

    Args:
        harness: Where it stands.
        loaded: What is loaded.
        release: As of a handle.
        lock: Guards what is counted.
        changes: Of the versions.
        moves: As many there were before it was looked for.
        steady: Whether whatever else led to it is still so.

    Attributes:
        servable_id: Which version.
    """

    __slots__ = ("_changes", "_harness", "_loaded", "_lock", "_moves", "_release", "_steady", "servable_id")

    def __init__(
        self,
        harness: Harness[S],
        loaded: Loaded[S],
        release: Callable[[Harness[S], Loaded[S]], None],
        *,
        lock: threading.Lock,
        changes: Counting,
        moves: int,
        steady: Callable[[], bool],
    ) -> None:
        self.servable_id = harness.servable_id
        self._harness = harness
        self._loaded = weakref.ref(loaded)
        self._release = release
        self._lock = lock
        self._changes = changes
        self._moves = moves
        self._steady = steady

    @property
    def servable(self) -> S | None:
        """What was loaded; None where it is there no longer."""
        loaded = self._loaded()
        return None if loaded is None else loaded.servable

    def hold(self) -> Loaded[S] | None:
        """Holds it, and gives what is loaded; None where something has changed since: it is to be looked for again."""
        if not self._steady():
            return None
        with self._lock:
            loaded = self._loaded()
            if loaded is None or self._changes.moves != self._moves:
                return None
            loaded.holders += 1
        return loaded

    def let_go(self, loaded: Loaded[S]) -> None:
        """Lets go what `hold` has given, once for each time."""
        with self._lock:
            if self._changes.moves == self._moves:  # So it answers still, and nobody waits for its last holder.
                loaded.release()
                return
        self._release(self._harness, loaded)


def _keep(harness: Harness[S], loaded: Loaded[S]) -> None:
    """Lets nothing go: whoever has lent it does."""
