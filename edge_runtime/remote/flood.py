"""Bounds what comes by mDNS before it costs anything: by sender, and over all.

A packet is weighed by the records that it says it holds, of which no more are read. What is too much is dropped unread.
Where nothing else comes the sockets are left alone for moments, and the kernel drops what has no room meanwhile: to
read ten thousand packets a second to no end would take a slow board's core.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

SENDER_RECORDS_S = 100.0
"""Of one sender in a second, and five times that at once: a server needs six a minute."""

ALL_RECORDS_S = 1000.0
"""Of all together, likewise. A sender's address can be forged."""

_BURST_S = 5.0

MAX_SENDERS = 256
"""That are told apart; the one not heard for longest gives way."""

REST_EVERY = 128
"""Packets dropped in a row..."""

REST_S = 0.02
"""...after which the sockets are left alone for so long: 6,400 a second are looked at."""

_HEADER_BYTES = 12


class Bucket:
    """So many a second, and those of some seconds at once."""

    __slots__ = ("_at_s", "_left", "_most", "_rate")

    def __init__(self, rate: float, now_s: float) -> None:
        """Takes the rate; is full."""
        self._rate = rate
        self._most = rate * _BURST_S
        self._left = self._most
        self._at_s = now_s

    def take(self, count: float, now_s: float) -> bool:
        """Takes so many if they are there; whether they were."""
        self._left = min(self._left + (now_s - self._at_s) * self._rate, self._most)
        self._at_s = now_s
        if count > self._left:
            return False
        self._left -= count
        return True


class Flood:
    """Decides what is read. For one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._all = Bucket(ALL_RECORDS_S, clock())
        self._senders: dict[str, Bucket] = {}

    def heard(self, sender: str) -> bool:
        """Whether anything came from there of late."""
        return sender in self._senders

    def admits(self, data: bytes, sender: str) -> bool:
        """Whether a packet is read."""
        now_s = self._clock()
        bucket = self._senders.pop(sender, None) or Bucket(SENDER_RECORDS_S, now_s)
        while len(self._senders) >= MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
        self._senders[sender] = bucket  # Now the one that was heard last.
        count = weight(data)
        return bucket.take(count, now_s) and self._all.take(count, now_s)


def weight(data: bytes) -> int:
    """The records and questions that a packet says it holds (RFC 1035, 4.1.1); at least one."""
    return max(sum(int.from_bytes(data[at : at + 2], "big") for at in range(4, _HEADER_BYTES, 2)), 1)


class FloodGate(asyncio.DatagramProtocol):
    """Stands before a socket's protocol. In the event loop's thread, which serves mDNS alone.

    Args:
        behind: Gets what is admitted.
        flood: Decides; one for all sockets.
        dropped: Called with each packet that is not read.
        rest: Waits so many seconds.
    """

    def __init__(
        self,
        behind: asyncio.DatagramProtocol,
        flood: Flood,
        dropped: Callable[[], None],
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._behind = behind
        self._flood = flood
        self._dropped = dropped
        self._rest = rest
        self._row = 0

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """A packet has come."""
        if self._flood.admits(data, addr[0]):
            self._row = 0
            self._behind.datagram_received(data, addr)
            return
        self._dropped()
        self._row += 1
        if self._row >= REST_EVERY:
            self._row = 0
            self._rest(REST_S)

    def error_received(self, exc: Exception) -> None:
        """The socket's."""
        self._behind.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket has been closed."""
        self._behind.connection_lost(exc)
