"""The permits of one device, shared fairly by the versions that run on it."""

from __future__ import annotations

from _thread import allocate_lock
from itertools import count

from edge_runtime.scheduling.fairness import Share


class Waiter:
    """A thread that waits for permits.

    Attributes:
        share: Whose run it is.
        permits: How many.
        given: Whether it has them.
    """

    __slots__ = ("awake", "given", "order", "permits", "share")

    def __init__(self, share: Share, permits: int, order: int) -> None:
        self.share = share
        self.permits = permits
        self.order = order
        self.given = False
        self.awake = allocate_lock()
        self.awake.acquire()

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
        self._floor_s = 0.0
        self._users: dict[Share, None] = {}
        self._waiting: list[Waiter] = []
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
            self._come(share)
            share.start(permits)
            self._free -= permits
            return True

    def enter(self, share: Share, permits: int = 1) -> None:
        """Takes the permits; waits for its turn."""
        with self._lock:
            self._come(share)
            if not self._waiting and self._free >= permits:
                share.start(permits)
                self._free -= permits
                return
            waiter = self._queue(share, permits)
        self.wait(waiter)

    def turn(self, share: Share, run_s: float, permits: int = 1) -> Waiter | None:
        """Ends a run and asks for the next one: None if it may begin, else what to `wait` for.

        Whoever runs on and on competes with those that wait for its permits, as if it had waited with them: its weight
        would count for nothing if they were given away before it asks again.

        Args:
            share: As in `enter`.
            run_s: What the run took: seconds, 0 if nothing ran.
            permits: As in `enter`.
        """
        with self._lock:
            share.end(run_s, permits)
            if not self._waiting:
                share.start(permits)
                return None
            self._free += permits
            waiter = self._queue(share, permits)
            granted = self._grant()
        for one in granted:
            if one is not waiter:
                one.awake.release()
        return None if waiter.given else waiter

    def wait(self, waiter: Waiter) -> None:
        """Waits until its turn has come. An interrupted caller leaves its place, and what it was given."""
        try:
            waiter.awake.acquire()
        except BaseException:
            with self._lock:
                if waiter.given:
                    self._free += waiter.permits
                    waiter.share.end(0.0, waiter.permits)
                else:
                    self._waiting.remove(waiter)
                self._go(waiter.share)
                granted = self._grant()
            for one in granted:
                one.awake.release()
            raise

    def leave(self, share: Share, run_s: float, permits: int = 1) -> None:
        """Gives the permits back, and lets in whose turn it is; the arguments are as in `turn`."""
        with self._lock:
            share.end(run_s, permits)
            self._go(share)
            self._free += permits
            granted = self._grant() if self._waiting else ()
        for waiter in granted:
            waiter.awake.release()

    def _come(self, share: Share) -> None:
        if not share.active:
            share.come(min([one.began_s for one in self._users], default=self._floor_s))
            self._users[share] = None
        else:
            share.active += 1

    def _go(self, share: Share) -> None:
        share.go()
        if not share.active:
            del self._users[share]
            # Who comes when nobody is left starts where the last one stopped.
            self._floor_s = max(self._floor_s, share.tag_s)

    def _queue(self, share: Share, permits: int) -> Waiter:
        waiter = Waiter(share, min(permits, self.capacity), next(self._order))
        self._waiting.append(waiter)
        return waiter

    def _grant(self) -> list[Waiter]:
        """Those that may go in, in turn. One that needs more than is free holds up those behind it: it would starve."""
        granted = []
        while self._waiting:
            first = min(self._waiting, key=lambda one: one.place)
            if first.permits > self._free:
                break
            self._waiting.remove(first)
            self._free -= first.permits
            first.share.start(first.permits)
            first.given = True
            granted.append(first)
        return granted
