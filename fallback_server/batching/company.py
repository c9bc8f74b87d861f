"""Who makes room for the others: a process that is flooded, while others answer what little they are asked.

Turns are shared out batch by batch, but a batch that runs keeps all cores busy until it has ended, and beside two full
ones a single row of another model takes three times as long as alone. So a flooded process keeps off one core, and has
one batch less under way, which costs it next to nothing: the others take that much anyway. No lock, no clock.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

FLOODED_S = 0.1
"""So long a model's batches have left full ones waiting: what came in one burst is over sooner."""

REMEMBERED_S = 1.0
"""So long after its last batch a model counts as one that answers, or that is flooded."""

WAITING_BATCHES = 2
"""So many full batches wait behind one that begins where a model is flooded."""


@runtime_checkable
class Process(Protocol):
    """What runs a model, where that is a process of its own."""

    def leave_core(self, *, leave: bool) -> None:
        """Keeps all its threads off one of the cores that they may run on, if these are several; or no longer.

        Called before each of its batches, by any thread: does nothing where that is so already.
        """


class _Account:
    """When a process began batches that left others waiting, and when one that did not."""

    __slots__ = ("calm_s", "full_s", "since_s")

    def __init__(self) -> None:
        self.calm_s = -math.inf
        self.full_s = -math.inf
        self.since_s = -math.inf

    def flooded(self, now_s: float) -> bool:
        """Whether full batches have been waiting, for a while."""
        return self.lately_full(now_s) and now_s - self.since_s >= FLOODED_S

    def lately_full(self, now_s: float) -> bool:
        """Whether full batches were waiting of late."""
        return now_s - self.full_s < REMEMBERED_S

    def calm(self, now_s: float) -> bool:
        """Whether it answers, and keeps up with what it is asked."""
        return now_s - self.calm_s < REMEMBERED_S and not self.lately_full(now_s)


class Company:
    """Sees which processes are flooded and which are not. Of those that are, none makes room for the others.

    A process is one, however many queues it has; all that runs in the server's own is one too, and keeps its cores.
    The scheduler's, under its lock.
    """

    def __init__(self) -> None:
        self._accounts: dict[Process | None, _Account] = {}

    def room_until_s(self, process: Process | None, *, waiting: int, now_s: float) -> float:
        """A batch begins: until when what runs it is to make room for others; -inf for not at all.

        A batch that hangs keeps back no other of its queue for longer than that.

        Args:
            process: What runs it; None for the server's own process.
            waiting: How many full batches of its queue wait behind it.
            now_s: The instant.
        """
        account = self._accounts.get(process)
        if account is None:
            self._forget(now_s)
            account = self._accounts[process] = _Account()
        if waiting < WAITING_BATCHES:
            account.calm_s = now_s
        else:
            if not account.lately_full(now_s):
                account.since_s = now_s
            account.full_s = now_s
        if process is None or not account.flooded(now_s):
            return -math.inf
        others = (each for each in self._accounts.values() if each is not account)
        return now_s + REMEMBERED_S if any(each.calm(now_s) for each in others) else -math.inf

    def _forget(self, now_s: float) -> None:
        """Whoever has run nothing of late. Looked for whenever another comes, so that there are never many."""
        kept = {
            process: account
            for process, account in self._accounts.items()
            if now_s - max(account.calm_s, account.full_s) < REMEMBERED_S
        }
        self._accounts = kept

    def __repr__(self) -> str:
        return f"Company({len(self._accounts)} processes)"
