"""Whose batch is next: deficit round robin by weight, in seconds of run time. No clock, no lock: the scheduler's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

QUANTUM_S = 0.001
"""Of run time that a weight of 1 gets a round. Short, so that those in turn interleave batch by batch."""

MAX_ACCOUNTS = 1024
"""Of queues that have run of late. Forgetting one forgives it at most what its last batches took too long."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A queue that could run a batch now.

    Attributes:
        key: Whose account.
        weight: Over 0: the share of the run time that it gets beside others.
    """

    key: int
    weight: float


@dataclass(slots=True)
class _Account:
    """What a queue has left of its rounds, as of a round; below 0 it has taken more than it had."""

    deficit_s: float
    round: float


class DeficitRoundRobin:
    """Shares run time out among queues by their weights.

    Each round gives every queue a quantum times its weight. Whoever has something left is served, in turn, and charged
    what its run takes, which is known only afterwards: so a queue may go below 0, and then waits for rounds, which are
    counted and not gone through. One that did not want to run keeps one round's share and no more, so that nobody saves
    up; what it owes stays owed while others run. After Shreedhar and Varghese, "Efficient fair queueing using deficit
    round-robin" (1995).

    Whoever is always ready gets its share, less at most the costliest run and a quantum; nothing is left idle while
    somebody is ready.
    """

    def __init__(self, quantum_s: float = QUANTUM_S) -> None:
        self._quantum_s = quantum_s
        self._round = 0.0
        self._accounts: dict[int, _Account] = {}

    def choose(self, ready: Iterable[Turn]) -> int | None:
        """The index of who is next; None where nobody is ready.

        Args:
            ready: Whoever has waited longest for a turn first. Read no further than to who is chosen, where that one
                has something left.
        """
        nearest, index = math.inf, None
        for at, turn in enumerate(ready):
            deficit_s = self.deficit_s(turn)
            if deficit_s > 0:
                return at
            rounds = -deficit_s / (self._quantum_s * turn.weight)
            if rounds < nearest:
                nearest, index = rounds, at
        if index is not None:
            self._round += nearest
        return index

    def charge(self, turn: Turn, seconds: float) -> None:
        """A run of it takes so long; below 0 where it was charged too much before."""
        account = self._accounts.pop(turn.key, None)
        if account is None:
            account = _Account(self._quantum_s * turn.weight - seconds, self._round)
        else:  # As by `deficit_s`, but without a call: this is done for each run.
            share_s = self._quantum_s * turn.weight
            left_s = account.deficit_s + (self._round - account.round) * share_s
            account.deficit_s = min(share_s, left_s) - seconds
            account.round = self._round
        self._accounts[turn.key] = account
        if len(self._accounts) > MAX_ACCOUNTS:
            del self._accounts[next(iter(self._accounts))]

    def deficit_s(self, turn: Turn) -> float:
        """What it has left now: one round's share at most."""
        share_s = self._quantum_s * turn.weight
        account = self._accounts.get(turn.key)
        if account is None:
            return share_s
        return min(share_s, account.deficit_s + (self._round - account.round) * share_s)

    def __repr__(self) -> str:
        return f"DeficitRoundRobin(round {self._round:.0f}, {len(self._accounts)} accounts)"
