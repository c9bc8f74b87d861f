"""The event loop of a server: it takes what gRPC has to tell at one go, and says when nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import HasFileno

Given = TypeVarTuple("Given")

MOST_TURNS = 100
"""Turns of a loop that has no rest after which who waits for one is told that it has come all the same."""

_POLLER = "PollerCompletionQueue"
"""What tells the event loop of gRPC's events: it writes a byte for each into a socket."""

_MANY = 2**16
"""Bytes that are read at a time: more events than ever wait."""


class Rested(Protocol):
    """Waits for a moment in which the loop has nothing else to do."""

    def patience_s(self) -> float:
        """How long it is to be waited for something to do before that is such a moment; 0 for not at all."""
        ...

    def rest(self) -> None:
        """The moment has come. Must neither raise nor block."""
        ...


class _AtOnce(socket.socket):
    """A socket of gRPC's poller, of which all bytes are read at a time."""

    __slots__ = ()

    def recv(self, _bufsize: int, flags: int = 0, /) -> bytes:
        """All that is there, whatever is asked for."""
        return super().recv(_MANY, flags)


class _Selector(selectors.DefaultSelector):
    """As the system's, but for those who are told before it waits.

    Attributes:
        resting: Who is to be told.
        turns: How often it was asked since there have been such.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resting: list[Rested] = []
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As of the system's."""
        if not self.resting:
            return super().select(timeout)
        self.turns += 1
        if timeout is not None and timeout <= 0:
            if self.turns >= MOST_TURNS:
                self._tell()
            return super().select(0)
        events = super().select(0)
        if not events and (patience_s := max(one.patience_s() for one in self.resting)):
            events = super().select(patience_s if timeout is None else min(patience_s, timeout))
        if not events or self.turns >= MOST_TURNS:
            self._tell()
        return events

    def _tell(self) -> None:
        told, self.resting = self.resting, []
        for one in told:
            one.rest()


class ServingLoop(asyncio.SelectorEventLoop):
    """As asyncio's own, but for the bytes by which gRPC wakes it up, and for those who wait for its rest.

    gRPC reads one byte at each wake-up, and then takes all events that wait; so of a burst of events all but the first
    wake-up find nothing, and each takes about as long as an event. A byte is written after its event was queued, so
    that those which are read together belong to events that are taken at that very wake-up.
    """

    def __init__(self) -> None:
        self._rests = _Selector()
        super().__init__(self._rests)

    def at_rest(self, told: Rested) -> None:
        """Tells somebody, once, when nothing is left to do; at the latest after some turns."""
        rests = self._rests
        if not rests.resting:
            rests.turns = 0
        rests.resting.append(told)

    def not_at_rest(self, told: Rested) -> None:
        """Somebody who waits to be told needs not any more."""
        self._rests.resting.remove(told)

    def add_reader(self, fd: int | HasFileno, callback: Callable[[*Given], Any], *args: *Given) -> None:
        """As of asyncio's."""
        asker = getattr(getattr(callback, "func", callback), "__self__", None)
        # Exactly that type: what has the layout of another can't become ours. Versions that read all have none.
        if type(asker).__name__ == _POLLER and type(fd) is socket.socket:
            fd.__class__ = _AtOnce
        super().add_reader(fd, callback, *args)
