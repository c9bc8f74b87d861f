"""Who makes room for the others: a process that is flooded, while others answer what little they are asked.

Turns are shared out batch by batch, but a batch that runs keeps all cores busy until it has ended, and beside two full
ones a single row of another model takes three times as long as alone. So a flooded process keeps off one core, and has
one batch less under way where it has several on the scheduler's threads; a queue with lanes keeps these. More than a
core and a place it never gives up, and neither for others that take less than a tenth of a core's time: to one that is
asked now and then half of a small machine would be left, which it does not use. No lock, no clock.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

FLOODED_S = 0.1
"""So long a model's batches have left full ones waiting, or so long those take that wait: what came in one burst is
over sooner."""

REMEMBERED_S = 1.0
"""So long after its last batch that left full ones waiting a process counts as flooded; and the time over which it is
seen how much the others run."""

WORTH_S = 0.1
"""So long all others that keep up have run within `REMEMBERED_S`, where room is made for them."""

WAITING_BATCHES = 2
"""So many full batches wait behind one that begins where a model is flooded."""


@runtime_checkable
class Process(Protocol):
    """What runs a model, where that is a process of its own. Hashed by itself, and known by weak references."""

    def leave_core(self, *, leave: bool) -> None:
        """Keeps all its threads off one of the cores that they may run on, if these are several; or no longer.

        Called before each of its batches, by any thread: does nothing where that is so already.
        """

    def end_hanging(self, *, ran_s: float) -> None:
        """Ends it, at once and without a wait, for a run that does not end: it is lost, as by a crash.

        Does nothing where it has ended, or is being closed.

        Args:
            ran_s: How long the run has gone on.
        """


class Account:
    """When a process began batches that left others waiting, and how long it has run.

    Attributes:
        used_s: How long it has run since the window began. Whoever ends a run adds to it.
    """

    __slots__ = ("_before_s", "_full_s", "_since_s", "used_s")

    def __init__(self) -> None:
        self.used_s = 0.0
        self._before_s = 0.0
        self._full_s = -math.inf
        self._since_s = -math.inf

    def full(self, now_s: float) -> None:
        """A batch of it begins and leaves full ones waiting."""
        if not self._lately_full(now_s):
            self._since_s = now_s
        self._full_s = now_s

    def flooded(self, now_s: float, waiting_s: float = 0.0) -> bool:
        """Whether full batches have been waiting for a while, or will; those that wait now take so long."""
        return self._lately_full(now_s) and (waiting_s >= FLOODED_S or now_s - self._since_s >= FLOODED_S)

    def calm_s(self, now_s: float, begun_s: float) -> float:
        """How long it has run within the last `REMEMBERED_S`; 0 where it does not keep up with what it is asked.

        Of the window before, as much as reaches into that time, as if it had run evenly.

        Args:
            now_s: The instant.
            begun_s: Since when it adds up.
        """
        if self._lately_full(now_s):
            return 0.0
        return self.used_s + self._before_s * max(0.0, 1.0 - (now_s - begun_s) / REMEMBERED_S)

    def next_window(self, elapsed_s: float) -> None:
        """Adds up anew. One that was looked at late counts with its mean."""
        self._before_s = self.used_s * REMEMBERED_S / elapsed_s
        self.used_s = 0.0

    def rested(self, now_s: float) -> bool:
        """Whether nothing of it counts, where a window begins now."""
        return not (self._before_s or self._lately_full(now_s))

    def _lately_full(self, now_s: float) -> bool:
        return now_s - self._full_s < REMEMBERED_S


class Company:
    """Sees which processes are flooded and which are not. Of those that are, none makes room for the others.

    A process is one, however many queues it has; all that runs in the server's own is one too, and keeps its cores.
    What a process uses is how long its runs took: of several at once all, and also where they waited for a core.
    The scheduler's, under its lock. Keeps alive nothing of a version that has gone.

    Attributes:
        own: The account of the server's own process.
    """

    def __init__(self) -> None:
        self.own = Account()
        self._accounts: WeakKeyDictionary[Process, Account] = WeakKeyDictionary()
        self._begun_s = -math.inf

    def account(self, process: Process | None) -> Account:
        """Of what runs in that process; None for the server's own."""
        if process is None:
            return self.own
        account = self._accounts.get(process)
        if account is None:
            account = self._accounts[process] = Account()
        return account

    def room_until_s(self, process: Process | None, *, waiting: int, now_s: float, waiting_s: float = 0.0) -> float:
        """A batch begins: until when what runs it is to make room for others; -inf for not at all.

        A batch that hangs keeps back no other of its queue for longer than that.

        Args:
            process: What runs it; None for the server's own process.
            waiting: How many full batches of its queue wait behind it.
            now_s: The instant.
            waiting_s: How long these take; 0 where that is not known.
        """
        if now_s - self._begun_s >= REMEMBERED_S:
            self._next_window(now_s)
        account = self.account(process)
        if waiting >= WAITING_BATCHES:
            account.full(now_s)
        if process is None or not account.flooded(now_s, waiting_s):
            return -math.inf
        # Its own is 0: it is flooded.
        used_s = sum(each.calm_s(now_s, self._begun_s) for each in (self.own, *self._accounts.values()))
        return now_s + REMEMBERED_S if used_s >= WORTH_S else -math.inf

    def _next_window(self, now_s: float) -> None:
        """Whoever has run nothing of late is forgotten, so that there are never many to look at."""
        self.own.next_window(now_s - self._begun_s)
        for process, account in list(self._accounts.items()):
            account.next_window(now_s - self._begun_s)
            if account.rested(now_s):
                del self._accounts[process]
        self._begun_s = now_s

    def __repr__(self) -> str:
        return f"Company({len(self._accounts)} processes)"
