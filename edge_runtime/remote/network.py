"""What the way to one server is like: its round trip, and how many bytes a second it carries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

LARGE_BYTES = 2**14
"""A call of fewer bytes says nothing of the bandwidth: they fit into a dozen packets, which leave at once."""

WINDOW_S = 10.0
"""For how long the shortest round trip and the largest bandwidth count: what is measured besides is delayed by other
work, but a device that moves gets another network."""

HALF_LIFE_S = 10.0
"""What is held against the bandwidth is halved at this pace while nothing large is sent, else it would never be."""

_LEAST_BYTE_S = 1e-10
"""No network that a device has carries more than 80 Gbit/s: what is measured as more is the clock's error."""

_KEPT = 16
"""Measurements that are looked at."""


class Link:
    """The estimate for one server. Not thread-safe: the endpoint holds its lock; single attributes may be read without.

    A small call's time is a round trip, and the shortest of late is what the way itself takes. What a large call took
    beyond that and beyond the server's own time its bytes took; the largest bandwidth of late is what the way can
    carry, as in BBR (https://queue.acm.org/detail.cfm?id=3022184). A call that did not come through in its time shows
    what the way can not carry.

    Attributes:
        round_trip_s: Seconds; 0 while it is not known.
        byte_s: Seconds that one byte takes; 0 while it is not known.
        free_s: The instant at which what was sent so far should have gone through.
    """

    __slots__ = ("_carried", "_clock", "_late", "_measured", "_trips", "byte_s", "free_s", "round_trip_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """It is another way than before."""
        self._trips: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._carried: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._measured = False
        self._late: tuple[int, float] | None = None
        self.round_trip_s = 0.0
        self.byte_s = 0.0
        self.free_s = 0.0

    @property
    def trips(self) -> int:
        """Round trips that were measured, up to a few."""
        return len(self._trips)

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """Bytes a second; None while it is not known."""
        return 1 / self.byte_s if self.byte_s else None

    def transfer_s(self, nbytes: int) -> float:
        """Seconds until so many bytes, sent now, have gone through, behind those that were sent before."""
        return nbytes * self.byte_s + max(self.free_s - self._clock(), 0.0)

    def sent(self, nbytes: int) -> None:
        """Bytes are handed to the network."""
        self.free_s = max(self.free_s, self._clock()) + nbytes * self.byte_s

    def empty(self) -> None:
        """Nothing is under way any more."""
        self.free_s = 0.0

    def small(self, took_s: float) -> None:
        """A call of a few bytes, which costs the server next to nothing, was answered."""
        now_s = self._clock()
        self._trips.append((now_s, took_s))
        self.round_trip_s = min(trip_s for when_s, trip_s in self._trips if now_s - when_s <= WINDOW_S)
        if self._late is not None:
            # What was given up lay in the buffers before this call, which came through behind it.
            nbytes, waited_s = self._late
            self._late = None
            self._carried[-1] = (self._carried[-1][0], nbytes / (waited_s + took_s))
        self._estimate()

    def large(self, nbytes: int, took_s: float, own_s: float | None) -> None:
        """A call was answered.

        Args:
            nbytes: There and back.
            took_s: Seconds that it took.
            own_s: Seconds of these that the server says were its own. None where it doesn't say: then the way is not
                measured, since all of the time may have been the server's; but it is no slower than that.
        """
        if nbytes < LARGE_BYTES:
            return
        spent_s = max(took_s - (own_s or 0.0) - self.round_trip_s, nbytes * _LEAST_BYTE_S)
        if own_s is not None:
            if not self._measured:
                self._carried.clear()
            self._measured, self._late = True, None
            self._carried.append((self._clock(), nbytes / spent_s))
        elif self.byte_s and nbytes / spent_s > 1 / self.byte_s:
            self._measured, self._late = False, None
            self._carried.clear()
            self._carried.append((self._clock(), nbytes / spent_s))
        self._estimate()

    def late(self, nbytes: int, took_s: float) -> bool:
        """A call's time ended without an answer: whether that is held against the way, and not against the server.

        It is where the bytes are many, and no other call has shown of late that they go through in half of that.
        """
        if nbytes < LARGE_BYTES or took_s <= 0 or self._bears(nbytes, took_s / 2):
            return False
        self._measured = False
        self._late = (nbytes, took_s)
        self._carried.clear()
        self._carried.append((self._clock(), nbytes / took_s))
        self._estimate()
        return True

    def _bears(self, nbytes: int, within_s: float) -> bool:
        fresh = bool(self._carried) and self._clock() - self._carried[-1][0] <= WINDOW_S
        return self._measured and fresh and nbytes * self.byte_s <= within_s

    def _estimate(self) -> None:
        if not self._carried:
            return
        now_s, newest_s = self._clock(), self._carried[-1][0]
        best = max(bytes_s for when_s, bytes_s in self._carried if newest_s - when_s <= WINDOW_S)
        halved: float = 0.5 ** (max(now_s - newest_s, 0.0) / HALF_LIFE_S)
        self.byte_s = halved / best
