"""Answers that their callers have not taken: how many bytes of them there may be, shared among addresses.

gRPC keeps an answer until its caller takes it or is gone, and nobody can end a call that was answered.
"""

from __future__ import annotations

import functools
from collections import Counter

from fallback_server.core.errors import QueueFull
from fallback_server.transport.places import address_of, may_take
from fallback_server.transport.rpc import Caller

MAX_BYTES = 2**31
"""Of one address half of what is free, see `may_take`, and one answer more."""


class Untaken:
    """Counts answers, until gRPC is done with their calls. Lives in the event loop.

    Args:
        max_bytes: See `MAX_BYTES`.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._own: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many bytes there are."""
        return self._bytes

    def hold(self, size: int, caller: Caller) -> None:
        """Counts an answer.

        Args:
            size: Its bytes.
            caller: Of its call.

        Raises:
            QueueFull: its caller's address has too many that were not taken.
        """
        address = address_of(caller)
        own, free = self._own.get(address, 0), self._max_bytes - self._bytes
        if not may_take(own, free):
            raise QueueFull(
                f"{address} has {own} bytes of answers to take, and may have as many as are free: {max(free, 0)}"
            )
        self._own[address] += size
        self._bytes += size
        caller.add_done_callback(functools.partial(self._over, address, size))

    def _over(self, address: str, size: int, _call: object) -> None:
        self._bytes -= size
        self._own[address] -= size
        if not self._own[address]:
            del self._own[address]
