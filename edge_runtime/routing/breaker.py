"""A circuit breaker: keeps requests away from an endpoint that fails, and lets one through to see if it is back."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

FAILURES_TO_OPEN = 3
"""Failures one after the other: one or two may be a lost connection that the next call mends. Calls that were under way
together fail together, by one hiccup of the network or of this machine, and count as one."""

FIRST_OPEN_S = 0.5
"""How long the first opening lasts: a restarted server is back within about a second."""

LONGEST_OPEN_S = 15.0
"""Openings double up to this: a server that is gone costs one failed request in fifteen seconds."""

PROBE_S = 30.0
"""After this time without an outcome the next request may find out: a probe that is lost must not bar an endpoint."""

_MUCH_LESS = 2.0
"""Whose time goes so many times into that of another who waits leaves the probe to that one."""

AGAIN_S = 0.05
"""After a probe that was abandoned, which says nothing, the next one may pass."""


class BreakerState(enum.Enum):
    """CLOSED: all pass. OPEN: none. HALF_OPEN: one passes, and its outcome decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True)
class Permit:
    """A request's leave to pass; its outcome is told with it.

    Attributes:
        era: Counts the openings: what began before the latest one says nothing of the endpoint now.
        probe: Which probe of the half-open breaker it is; 0 if it passed a closed one.
        blow: Counts the failures that were known when it passed.
    """

    era: int
    probe: int = 0
    blow: int = 0


class Breaker:
    """The state of one endpoint. Not thread-safe: the endpoint holds its lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._failures = 0
        self._blows = 0
        self._open_s = FIRST_OPEN_S
        self._until_s = 0.0
        self._era = 0
        self._probe = 0
        self._state = BreakerState.CLOSED
        self._awaited_until_s = self._awaited_end_s = -math.inf

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}, {self._failures} failures in a row>"

    @property
    def state(self) -> BreakerState:
        """The state now: an opening that has run its time counts as half-open."""
        if self._state is BreakerState.OPEN and self._clock() >= self._until_s:
            return BreakerState.HALF_OPEN
        return self._state

    @property
    def until_s(self) -> float:
        """The instant from which `acquire` lets a request pass; 0 while the breaker is closed."""
        return 0.0 if self._state is BreakerState.CLOSED else self._until_s

    @property
    def allows(self) -> bool:
        """Whether `acquire` would let a request pass now. Asking changes nothing."""
        return self._state is BreakerState.CLOSED or self._clock() >= self._until_s

    @property
    def tries(self) -> bool:
        """Whether a probe is under way, or the next one is to be soon: what it finds is soon known."""
        if self.allows:
            return self._state is not BreakerState.CLOSED and self._clock() < self._awaited_until_s
        return self._state is BreakerState.HALF_OPEN

    def await_probe(self, until_s: float, end_s: float) -> None:
        """A request comes until an instant to find out, if nobody has: those with much less time are to leave it that.

        What they could find out is nothing, where they have less time than an answer takes, and they might come without
        an end. Of several that wait the one with most time counts.

        Args:
            until_s: By then it has come.
            end_s: Its deadline.
        """
        if end_s >= self._awaited_end_s or self._clock() >= self._awaited_until_s:
            self._awaited_until_s, self._awaited_end_s = until_s, end_s

    def acquire(self, end_s: float = math.inf) -> Permit | None:
        """Lets a request pass, or not (None). Whoever passes tells the outcome, once, with the permit.

        Args:
            end_s: The request's deadline.
        """
        if not self.allows:
            return None
        if self._state is BreakerState.CLOSED:
            return Permit(self._era, blow=self._blows)
        if self._leaves_it(end_s):
            return None
        self._state = BreakerState.HALF_OPEN
        self._until_s = self._clock() + PROBE_S
        self._probe += 1
        return Permit(self._era, self._probe)

    def succeeded(self, permit: Permit) -> None:
        """The endpoint answered, if only to refuse: it is alive."""
        if permit.era == self._era:
            self._close()

    def failed(self, permit: Permit) -> None:
        """The endpoint did not answer, or broke while it did."""
        if not self._counts(permit):
            return
        if self._state is BreakerState.CLOSED:
            if permit.blow != self._blows:
                return
            self._blows += 1
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN:
            self._open_s = min(self._open_s * 2, LONGEST_OPEN_S)
            self._open()
        elif self._failures >= FAILURES_TO_OPEN:
            self._open()

    def abandoned(self, permit: Permit) -> None:
        """A request that passed ended without saying anything of the endpoint (cancelled, out of time)."""
        if self._counts(permit) and self._state is BreakerState.HALF_OPEN:
            self._until_s = self._clock() + AGAIN_S

    def retry_now(self) -> None:
        """The endpoint has answered another question: an opening ends, and the next request finds out."""
        if self._state is BreakerState.OPEN:
            self._until_s = min(self._until_s, self._clock())

    def reset(self) -> None:
        """The endpoint is known to be another than before: nothing is held against it."""
        self._era += 1
        self._close()

    def _leaves_it(self, end_s: float) -> bool:
        now_s = self._clock()
        return now_s < self._awaited_until_s and (end_s - now_s) * _MUCH_LESS < self._awaited_end_s - now_s

    def _counts(self, permit: Permit) -> bool:
        return permit.era == self._era and (
            self._state is BreakerState.CLOSED or (permit.probe == self._probe and permit.probe > 0)
        )

    def _close(self) -> None:
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._state = BreakerState.CLOSED
        self._awaited_until_s = -math.inf

    def _open(self) -> None:
        self._era += 1
        self._state = BreakerState.OPEN
        self._until_s = self._clock() + self._open_s
