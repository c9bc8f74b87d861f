"""The permits of one device, shared fairly by the versions that run on it.

A signal's handler may end a caller between any two steps here, also within the lock. So who has permits is written
down, and `recover` counts everything else anew from that. CPython looks for signals after calls and at the ends of
loops only: lines without either, one after the other, are one step.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections.abc import Collection
from itertools import count

from edge_runtime.scheduling.fairness import Share
from edge_runtime.scheduling.waking import wake


class Waiter:
    """Somebody who waits for permits.

    Attributes:
        share: Whose run it is.
        permits: How many.
        token: Who is to have them.
        awake: What is released when they are given.
        given: Whether they are.
    """

    __slots__ = ("awake", "given", "order", "permits", "share", "token")

    def __init__(self, share: Share, permits: int, order: int, token: object, awake: LockType) -> None:
        self.share = share
        self.permits = permits
        self.order = order
        self.token = token
        self.awake = awake
        self.given = False

    @property
    def place(self) -> tuple[float, int]:
        """What the waiting ones are ordered by."""
        return (self.share.tag_s, self.order)


class Gate:
    """So many runs at once on one device. Thread-safe; nothing here blocks.

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
        self._held: dict[object, tuple[Share, int]] = {}
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

    def try_enter(self, share: Share, permits: int = 1, token: object = None) -> bool:
        """Takes the permits if they are free and nobody waits; whether it did.

        Args:
            share: Whose run it is.
            permits: How many it needs.
            token: Who has them until it leaves: the slot, which is somebody's for so long; None for the share itself.
        """
        with self._lock:
            if self._waiting or self._free < permits:
                return False
            self._come(share)
            self._take(share, permits, share if token is None else token)
            return True

    def ask(self, share: Share, permits: int, token: object, awake: LockType) -> Waiter:
        """Takes the permits, or a place among those that wait: then `awake` is released when it is given them.

        Args:
            share: As in `try_enter`.
            permits: Likewise.
            token: Likewise.
            awake: A lock that is held while its owner sleeps.
        """
        with self._lock:
            self._come(share)
            waiter = Waiter(share, min(permits, self.capacity), next(self._order), token, awake)
            if not self._waiting and self._free >= permits:
                self._take(share, permits, token)
                waiter.given = True
            else:
                self._waiting.append(waiter)
            return waiter

    def withdraw(self, waiter: Waiter) -> bool:
        """Leaves the place of one that waits; whether it did: if not, the permits have been given."""
        with self._lock:
            if waiter.given:
                return False
            self._waiting.remove(waiter)
            self._go(waiter.share)
            self._grant()
            return True

    def wanted(self, share: Share) -> bool:
        """Whether another user waits. A look without the lock."""
        waiting = self._waiting
        return bool(waiting) and any(one.share is not share for one in list(waiting))

    def stays(self, share: Share, run_s: float, permits: int = 1, token: object = None) -> bool:
        """Ends a run and begins the next one of the same user, if it is its turn; else leaves. Whether it stays.

        Whoever runs on and on competes with those that wait for its permits, as if it had waited with them: its weight
        would count for nothing if they were given away before it asks again.

        Args:
            share: As in `try_enter`.
            run_s: What the run took: seconds, 0 if nothing ran.
            permits: As in `try_enter`.
            token: Likewise.
        """
        with self._lock:
            share.end(run_s, permits)
            if all(share.tag_s < one.share.tag_s for one in self._waiting if one.share is not share):
                share.start(permits)
                return True
            self._drop(permits, share if token is None else token)
            self._go(share)
            self._grant()
            return False

    def leave(self, share: Share, run_s: float, permits: int = 1, token: object = None) -> None:
        """Gives the permits back, and lets in whose turn it is; the arguments are as in `stays`."""
        with self._lock:
            share.end(run_s, permits)
            self._drop(permits, share if token is None else token)
            self._go(share)
            if self._waiting:
                self._grant()

    def recover(self, gone: Collection[object]) -> None:
        """After an interrupt: what these tokens have or wait for is free, and everything is counted anew.

        Args:
            gone: The tokens of the caller that was interrupted.
        """
        with self._lock:
            for token in gone:
                self._held.pop(token, None)
            for waiter in list(self._waiting):
                if waiter.token in gone:
                    self._waiting.remove(waiter)
                elif waiter.token in self._held:  # It was let in, and perhaps not told.
                    self._admit(waiter)
            self._free = self.capacity - sum(permits for _, permits in self._held.values())
            shares = [share for share, _ in self._held.values()] + [waiter.share for waiter in self._waiting]
            for share in dict.fromkeys([*self._users, *shares]):
                share.active = shares.count(share)
                if share.active:
                    self._users[share] = None
                else:
                    self._users.pop(share, None)
            self._grant()

    def _come(self, share: Share) -> None:
        if share.active:
            share.active += 1
            return
        users = self._users
        share.come(min([one.began_s for one in users]) if users else self._floor_s)
        users[share] = None

    def _go(self, share: Share) -> None:
        share.go()
        if not share.active:
            self._users.pop(share, None)
            # Who comes when nobody is left starts where the last one stopped.
            self._floor_s = max(self._floor_s, share.tag_s)

    def _take(self, share: Share, permits: int, token: object) -> None:
        share.start(permits)
        held = self._held
        self._free -= permits
        held[token] = (share, permits + held[token][1]) if token in held else (share, permits)

    def _drop(self, permits: int, token: object) -> None:
        share, held = self._held[token]
        if held == permits:
            del self._held[token]
        else:
            self._held[token] = (share, held - permits)
        self._free += permits

    def _admit(self, waiter: Waiter) -> None:
        waiter.given = True
        wake(waiter.awake)
        self._waiting.remove(waiter)

    def _grant(self) -> None:
        """Lets in who may, in turn. One that needs more than is free holds up those behind it: it would starve."""
        while self._waiting:
            first = min(self._waiting, key=lambda one: one.place)
            if first.permits > self._free:
                break
            self._take(first.share, first.permits, first.token)
            self._admit(first)
