"""Places for calls that last, shared among the addresses that they come from."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator

from fallback_server.core.errors import QueueFull
from fallback_server.transport.rpc import Caller, peer_of

UNKNOWN = "unix"
"""The address of all that come over a UNIX socket: callers of this machine, and whoever calls the native server, which
passes streams on without a word of whose they are. No call of theirs may keep the others' places for long."""


def may_take(own: int, free: int) -> bool:
    """Whether an address that has so many calls may have another: while it has fewer than there are free places.

    One alone gets half of them, the next half of the rest, and none can keep another from its first. (The dynamic
    thresholds of shared-memory switches, Choudhury and Hahne, 1998.)

    Args:
        own: Calls that it has.
        free: Places that no call has.
    """
    return own < free


class Places:
    """So many calls at a time, shared among the addresses that they come from.

    Args:
        method: What is called, for the refusal.
        places: How many.
    """

    def __init__(self, method: str, places: int) -> None:
        self._method = method
        self._places = places
        self._answered = 0
        self._strangers = 0
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(
        self, address: str, at_end: Callable[[Callable[[object], None]], None], *, stranger: bool = False
    ) -> Iterator[None]:
        """A place for as long as a call is answered.

        gRPC keeps a call, and what its caller has not taken of it, until the caller takes it or is gone: so long it
        counts against its address, though no more against the others.

        Args:
            address: Where the call comes from.
            at_end: Has a function called when gRPC is done with the call.
            stranger: Shows nothing where others do. All of these share half of the places: a machine may have any
                number of addresses.

        Raises:
            QueueFull: the address may have none; see `may_take`.
        """
        own, free = self._open.get(address, 0), self._places - self._answered
        if stranger:
            free = min(free, self._places // 2 - self._strangers)
        if not may_take(own, free):
            who = "who can't be told apart" if address == UNKNOWN else address
            raise QueueFull(f"{self._method}: {who} has {own} calls open, and may have as many as are free: {free}")
        self._open[address] += 1
        self._answered += 1
        self._strangers += stranger
        at_end(functools.partial(self._ended, address))
        try:
            yield
        finally:
            self._answered -= 1
            self._strangers -= stranger

    def _ended(self, address: str, _call: object) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


def place_of(caller: Caller) -> tuple[str, Callable[[Callable[[object], None]], None]]:
    """Where a call comes from, and what has a function called at its end; as `Places.taken` takes them."""
    return address_of(caller), caller.add_done_callback


def address_of(caller: Caller) -> str:
    """Without the port: `ipv4:10.0.0.7`."""
    return peer_of(caller).rpartition(":")[0]
