"""The event loop of a server: it takes what gRPC has to tell at one go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import HasFileno

Given = TypeVarTuple("Given")

_POLLER = "PollerCompletionQueue"
"""What tells the event loop of gRPC's events: it writes a byte for each into a socket."""

_MANY = 2**16
"""Bytes that are read at a time: more events than ever wait."""


class _AtOnce(socket.socket):
    """A socket of gRPC's poller, of which all bytes are read at a time."""

    __slots__ = ()

    def recv(self, _bufsize: int, flags: int = 0, /) -> bytes:
        """All that is there, whatever is asked for."""
        return super().recv(_MANY, flags)


class ServingLoop(asyncio.SelectorEventLoop):
    """As asyncio's own, but for the bytes by which gRPC wakes it up.

    gRPC reads one byte at each wake-up, and then takes all events that wait; so of a burst of events all but the first
    wake-up find nothing, and each takes about as long as an event. A byte is written after its event was queued, so
    that those which are read together belong to events that are taken at that very wake-up.
    """

    def add_reader(self, fd: int | HasFileno, callback: Callable[[*Given], Any], *args: *Given) -> None:
        """As of asyncio's."""
        asker = getattr(getattr(callback, "func", callback), "__self__", None)
        # Exactly that type: what has the layout of another can't become ours. Versions that read all have none.
        if type(asker).__name__ == _POLLER and type(fd) is socket.socket:
            fd.__class__ = _AtOnce
        super().add_reader(fd, callback, *args)
