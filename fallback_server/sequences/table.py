"""The sequences that are live, and the bounds that hold for all of them. No clock, no lock: the driver's."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from fallback_server.core.errors import QueueFull
from fallback_server.sequences.options import SequenceOptions

E = TypeVar("E")


class SequenceTable(Generic[E]):
    """Counts sequences and the bytes of their states, and knows which have been idle for too long.

    A sequence rests while its caller is awaited, and does not while one of its steps is under way.

    Args:
        options: The bounds.
    """

    def __init__(self, options: SequenceOptions) -> None:
        self._options = options
        self._bytes: dict[E, int] = {}
        self._resting: dict[E, float] = {}  # In the order in which they began to: the first is the first to expire.
        self._total_bytes = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def __contains__(self, entry: E) -> bool:
        return entry in self._bytes

    @property
    def total_bytes(self) -> int:
        """What all states take."""
        return self._total_bytes

    def open(self, entry: E, now_s: float) -> None:
        """One more, which rests.

        Raises:
            QueueFull: there are as many as may be.
        """
        most = self._options.max_sequences
        if len(self._bytes) >= most:
            raise QueueFull(f"{len(self._bytes)} sequences are live, at most max_sequences = {most} may be")
        self._bytes[entry] = 0
        self._resting[entry] = now_s

    def close(self, entry: E) -> None:
        """One fewer; nothing where it is none."""
        self._total_bytes -= self._bytes.pop(entry, 0)
        self._resting.pop(entry, None)

    def resize(self, entry: E, size_bytes: int) -> None:
        """Its state takes so many bytes from now on. Where that is too much it keeps what it had.

        Raises:
            QueueFull: all together would take more than they may.
        """
        before_bytes = self._bytes[entry]
        if size_bytes == before_bytes:
            return
        most = self._options.max_sequence_bytes
        total_bytes = self._total_bytes - before_bytes + size_bytes
        if total_bytes > most and size_bytes > before_bytes:
            raise QueueFull(
                f"the sequences' states take {self._total_bytes} bytes, {size_bytes - before_bytes} more would pass "
                f"max_sequence_bytes = {most}"
            )
        self._bytes[entry] = size_bytes
        self._total_bytes = total_bytes

    def begin_step(self, entry: E) -> None:
        """It rests no more."""
        self._resting.pop(entry, None)

    def rest(self, entry: E, now_s: float) -> None:
        """It rests from now on."""
        self._resting.pop(entry, None)
        self._resting[entry] = now_s

    def rested_s(self, entry: E, now_s: float) -> float:
        """For how long it has rested; 0 where it does not."""
        return now_s - self._resting.get(entry, now_s)

    def idle(self, now_s: float) -> list[E]:
        """Those that have rested for too long, the longest first."""
        found: list[E] = []
        for entry, since_s in self._resting.items():
            if since_s + self._options.sequence_idle_s > now_s:
                break
            found.append(entry)
        return found

    def next_idle_s(self) -> float:
        """The instant at which the next has rested for too long; inf where none rests."""
        return next(iter(self._resting.values()), math.inf) + self._options.sequence_idle_s
