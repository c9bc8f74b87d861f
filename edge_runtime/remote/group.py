"""Requests of one kind that wait for a server, and their calls under way."""

from __future__ import annotations

import itertools

from edge_runtime.remote.lanes import LOST_S, MAX_ROWS
from edge_runtime.remote.parcel import Member

_SMOOTHING = 0.2
"""Weight of the newest call in what they usually take."""

_GROWS_AFTER = 16
"""Calls with as many rows as may be that are answered before more are tried; doubled with each try in vain..."""

_GROWS_AFTER_AT_MOST = 1024
"""...up to this: then two calls in a thousand are spent on it."""


class Group:
    """Requests of one kind: what waits, and what is under way. Under the coalescer's lock.

    Attributes:
        waiting: Those of high priority, and the others; in the order of their coming.
        usual_s: What calls took lately.
        max_rows: That one call may have: a server has refused more. It grows again, since the bound may be gone.
        by_rows: Whether a row of an answer is of the same row of the request; None where that is not known yet.
        sending: Whether a thread is sending what waits.
        watched: Whether a timer will look after what waits.
    """

    def __init__(self, *, patient: bool, by_rows: bool | None = True) -> None:
        self.patient = patient
        self.waiting: tuple[dict[Member, None], dict[Member, None]] = ({}, {})
        self.started_s: dict[int, float] = {}
        self.usual_s: float | None = None
        self.max_rows = MAX_ROWS
        self._full = 0
        self._grows_after = _GROWS_AFTER
        self._tries = False
        self.by_rows = by_rows
        self.sending = False
        self.watched = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not (self.started_s or self.waiting[0] or self.waiting[1] or self.sending)

    def add(self, member: Member) -> None:
        """It waits from now on."""
        self.waiting[min(member.request.priority, 1)][member] = None

    def drop(self, member: Member) -> bool:
        """It waits no more; whether it did."""
        queue = self.waiting[min(member.request.priority, 1)]
        if member not in queue:
            return False
        del queue[member]
        return True

    def in_order(self) -> list[Member]:
        """What may be in the next call: no call has more requests than rows."""
        return list(itertools.islice(itertools.chain(*self.waiting), MAX_ROWS))

    @property
    def most_rows(self) -> int:
        """Of one call; 0 where only one request may be in it, since nobody could cut its answer apart."""
        return self.max_rows if self.by_rows else 0

    def divided(self, rows: int) -> None:
        """A call was refused, and both halves were answered, of so many rows at most: no call has more from now on."""
        if rows < self.max_rows:
            if self._tries:
                self._grows_after = min(self._grows_after * 2, _GROWS_AFTER_AT_MOST)
            self.max_rows, self._full, self._tries = rows, 0, False

    def took(self, rows: int) -> None:
        """A call of so many rows was answered. After many that had as many as may be, twice as many may.

        Where that is refused again, the next try comes after twice as many: a refused call costs two more.
        """
        if self.max_rows >= MAX_ROWS or 2 * rows <= self.max_rows:
            return
        if self._tries:  # And is answered.
            self._tries, self._grows_after = False, _GROWS_AFTER
        self._full += 1
        if self._full >= self._grows_after:
            self.max_rows, self._full, self._tries = min(2 * self.max_rows, MAX_ROWS), 0, True

    def seen(self, *, by_rows: bool) -> None:
        """One request's own answer has shown whether its rows are the request's; that they aren't is never forgotten.

        A model whose outputs happen to be as long as its inputs can't be told apart from one that answers by rows.
        """
        if self.by_rows is not False:
            self.by_rows = by_rows

    def forget_lost(self, now_s: float) -> None:
        """Calls that began long ago are under way no more, though nobody has said how they ended."""
        while self.started_s:
            number, started_s = next(iter(self.started_s.items()))  # The first to begin.
            if now_s - started_s < LOST_S:
                return
            del self.started_s[number]

    def ended(self, number: int, now_s: float, *, answered: bool) -> None:
        """A call has ended; what it took counts if it was answered."""
        started_s = self.started_s.pop(number, None)
        if started_s is not None and answered:
            took_s = now_s - started_s
            self.usual_s = took_s if self.usual_s is None else self.usual_s + _SMOOTHING * (took_s - self.usual_s)
