"""The event loop of a server: it takes what gRPC has to tell at one go, and says when nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import HasFileno

Given = TypeVarTuple("Given")

_POLLER = "PollerCompletionQueue"
"""What tells the event loop of gRPC's events: it writes a byte for each into a socket."""

_MANY = 2**16
"""Bytes that are read at a time: more events than ever wait."""


class Rested(Protocol):
    """Waits for a moment in which the loop has nothing else to do."""

    def patience_s(self) -> float:
        """How long it is to be waited for something to do before that is such a moment; 0 for not at all."""
        ...

    def waited(self, took_s: float) -> None:
        """So long it was waited, until something came."""
        ...

    def rest(self) -> None:
        """The moment has come, or does not come in time. Must neither raise nor block."""
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
        until_s: When the first of them is to be told at the latest, of the monotonic clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resting: list[Rested] = []
        self.until_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As of the system's."""
        resting = self.resting
        if not resting:
            return super().select(timeout)
        if timeout is not None and timeout <= 0:
            events = super().select(0)
            if time.monotonic() >= self.until_s:  # Without rest it is looked at the clock: a turn may take long.
                self._tell()
            return events
        patience_s = resting[0].patience_s() if len(resting) == 1 else max(one.patience_s() for one in resting)
        if timeout is not None and timeout < patience_s:
            return super().select(timeout)  # What is due then comes first.
        begin_s = time.monotonic()
        events = super().select(patience_s)
        now_s = time.monotonic()
        for one in resting:
            one.waited(now_s - begin_s)
        if not events or now_s >= self.until_s:
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

    def at_rest(self, told: Rested, *, within_s: float) -> None:
        """Tells somebody, once, when nothing is left to do.

        Args:
            told: Whom.
            within_s: After so long at the latest, in the first turn that ends then.
        """
        rests = self._rests
        until_s = time.monotonic() + within_s
        rests.until_s = min(rests.until_s, until_s) if rests.resting else until_s
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
