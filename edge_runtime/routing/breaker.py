"""A circuit breaker: keeps requests away from an endpoint that fails, and lets one through to see if it is back."""

from __future__ import annotations

import enum
from collections.abc import Callable

FAILURES_TO_OPEN = 3
"""Consecutive failures: one or two may be a lost connection that the next call mends."""

FIRST_OPEN_S = 0.5
"""How long the first opening lasts: a restarted server is back within about a second."""

LONGEST_OPEN_S = 15.0
"""Openings double up to this: a server that is gone costs one failed request in fifteen seconds."""


class BreakerState(enum.Enum):
    """CLOSED: all pass. OPEN: none. HALF_OPEN: one passes, and its outcome decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """The state of one endpoint. Not thread-safe: the endpoint holds its lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._until_s = 0.0
        self._state = BreakerState.CLOSED

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}, {self._failures} failures in a row>"

    @property
    def state(self) -> BreakerState:
        """The state now: an opening that has run its time counts as half-open."""
        if self._state is BreakerState.OPEN and self._clock() >= self._until_s:
            return BreakerState.HALF_OPEN
        return self._state

    @property
    def allows(self) -> bool:
        """Whether a request may pass now. Asking changes nothing."""
        state = self.state
        return state is BreakerState.CLOSED or (
            state is BreakerState.HALF_OPEN and self._state is not BreakerState.HALF_OPEN
        )

    def begin(self) -> None:
        """A request passes. In a half-open breaker it is the only one."""
        if self.state is BreakerState.HALF_OPEN:
            self._state = BreakerState.HALF_OPEN

    def succeeded(self) -> None:
        """The endpoint answered, if only to refuse: it is alive."""
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._state = BreakerState.CLOSED

    def failed(self) -> None:
        """The endpoint did not answer, or broke while it did."""
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN:
            self._open_s = min(self._open_s * 2, LONGEST_OPEN_S)
            self._open()
        elif self._state is BreakerState.CLOSED and self._failures >= FAILURES_TO_OPEN:
            self._open()

    def abandoned(self) -> None:
        """A request that passed ended without saying anything of the endpoint (cancelled, out of time)."""
        if self._state is BreakerState.HALF_OPEN:
            self._open()

    def _open(self) -> None:
        self._state = BreakerState.OPEN
        self._until_s = self._clock() + self._open_s
