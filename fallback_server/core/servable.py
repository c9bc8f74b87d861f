"""What is served: the identity of a version, and the states it passes through."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class ServableId:
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


class State(enum.Enum):
    """Where a version stands. It answers requests in AVAILABLE alone."""

    START = "START"
    """Wanted; its load has not begun."""
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    """Takes no new requests; those that hold it finish first, then its memory goes."""
    END = "END"
    """Unloaded, or its load failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServableState:
    """A version's state as others may see it.

    Attributes:
        servable_id: Which version.
        state: Where it stands.
        error: Why its load failed, in END alone; in START, what an incomplete version lacks; None otherwise.
        resource_exhausted: Whether its load failed for want of memory.
        note: What else an operator should know of it: that its files are not those that it was loaded from.
        successor: The state of what is to take its place, where the same version now stands elsewhere, or is wanted
            again while it is unloaded; END: it can't be loaded. None for none.
    """

    servable_id: ServableId
    state: State
    error: str | None = None
    resource_exhausted: bool = False
    note: str = ""
    successor: State | None = None
