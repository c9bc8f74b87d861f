"""Holding a version, so that it can't be unloaded under its user."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from fallback_server.core.harness import Harness, Loaded
from fallback_server.core.loader import Servable
from fallback_server.core.servable import ServableId

S = TypeVar("S", bound=Servable)


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


def _keep(harness: Harness[S], loaded: Loaded[S]) -> None:
    """Lets nothing go: whoever has lent it does."""
