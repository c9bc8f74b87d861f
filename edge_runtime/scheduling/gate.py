"""The permits of one device, shared fairly by the versions that run on it."""

from __future__ import annotations

from _thread import allocate_lock
from itertools import count

from edge_runtime.scheduling.fairness import Share


class _Waiter:
    """A thread that waits for permits."""

    __slots__ = ("granted", "order", "permits", "share")

    def __init__(self, share: Share, permits: int, order: int) -> None:
        self.share = share
        self.permits = permits
        self.order = order
        self.granted = allocate_lock()
        self.granted.acquire()

    @property
    def place(self) -> tuple[float, int]:
        """What the waiting ones are ordered by."""
        return (self.share.tag_s, self.order)


class Gate:
    """So many runs at once on one device. Thread-safe.

    Between versions only weights count, not the priorities of their requests: a model that calls all of its requests
    urgent would starve its neighbours.

    Attributes:
        name: The device, for `repr`.
        capacity: Permits in all: one a core on a CPU, one on an accelerator.
    """

    def __init__(self, capacity: int, name: str = "") -> None:
        """Takes at least one permit."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.name = name
        self.capacity = capacity
        self._free = capacity
        self._virtual_s = 0.0
        self._waiting: list[_Waiter] = []
        self._order = count()
        self._lock = allocate_lock()

    def __repr__(self) -> str:
        return f"<Gate {self.name} {self._free} of {self.capacity} permits free, {len(self._waiting)} wait>"

    def join(self, weight: float = 1.0, name: str = "") -> Share:
        """A new user's share. It needs no leaving: one that never enters costs nothing."""
        return Share(weight, name)

    def try_enter(self, share: Share, permits: int = 1) -> bool:
        """Takes the permits if they are free and nobody waits; whether it did. Never blocks."""
        with self._lock:
            if self._waiting or self._free < permits:
                return False
            self._free -= permits
            self._virtual_s = share.start(self._virtual_s)
            return True

    def enter(self, share: Share, permits: int = 1) -> None:
        """Takes the permits; waits for its turn."""
        with self._lock:
            share.start(self._virtual_s)
            if not self._waiting and self._free >= permits:
                self._free -= permits
                self._virtual_s = share.start(self._virtual_s)
                return
            waiter = _Waiter(share, min(permits, self.capacity), next(self._order))
            self._waiting.append(waiter)
        waiter.granted.acquire()

    def leave(self, share: Share, run_s: float, permits: int = 1) -> None:
        """Gives the permits back, and lets in whose turn it is.

        Args:
            share: As in `enter`.
            run_s: What the run took: seconds, 0 if nothing ran.
            permits: As in `enter`.
        """
        with self._lock:
            share.end(run_s * permits)
            self._free += permits
            granted = self._grant() if self._waiting else ()
        for waiter in granted:
            waiter.granted.release()

    def _grant(self) -> list[_Waiter]:
        """Those that may go in, in turn. Who needs more than is free holds up those behind it, or would starve."""
        granted = []
        while self._waiting:
            first = min(self._waiting, key=lambda one: one.place)
            if first.permits > self._free:
                break
            self._waiting.remove(first)
            self._free -= first.permits
            self._virtual_s = first.share.start(self._virtual_s)
            granted.append(first)
        return granted
