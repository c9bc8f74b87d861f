"""One version's checked state machine, with the count of who holds it."""

from __future__ import annotations

from typing import Generic, TypeVar

from fallback_server.core.loader import Servable
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.source import AspiredVersion

S = TypeVar("S", bound=Servable)

_ALLOWED = {
    State.START: (State.LOADING, State.END),
    State.LOADING: (State.AVAILABLE, State.END),
    State.AVAILABLE: (State.UNLOADING,),
    State.UNLOADING: (State.END,),
    State.END: (State.START,),
}


class IllegalTransition(RuntimeError):
    """A step that the state machine doesn't have: a fault of this program, never of a model or request."""


class Harness(Generic[S]):
    """Where one version stands. Guards no threads: whoever owns it calls it under one lock.

    Attributes:
        servable_id: Which version.
        aspired: Where it stands on disk, and as what it was found there.
        state: Changed by the methods below alone.
        error: Why the last load failed, in END alone.
        attempts: How many loads were begun.
        retry_at_s: The instant of the next attempt after a failed load; None when there is none to come.
    """

    def __init__(self, servable_id: ServableId, aspired: AspiredVersion) -> None:
        self.servable_id = servable_id
        self.aspired = aspired
        self.state = State.START
        self.error: str | None = None
        self.attempts = 0
        self.retry_at_s: float | None = None
        self._servable: S | None = None
        self._holders = 0

    def begin_load(self) -> None:
        """START to LOADING."""
        self._move(State.LOADING)
        self.attempts += 1

    def loaded(self, servable: S) -> None:
        """LOADING to AVAILABLE: handles may be taken."""
        self._move(State.AVAILABLE)
        self._servable = servable

    def load_failed(self, error: str, *, retry_at_s: float | None) -> None:
        """LOADING to END."""
        self._move(State.END, of=State.LOADING)
        self.error = error
        self.retry_at_s = retry_at_s

    def abandon(self) -> None:
        """START to END: not wanted any more before its load began."""
        self._move(State.END, of=State.START)

    def retry(self) -> None:
        """END to START, after a failed load alone."""
        if self.error is None:
            raise IllegalTransition(f"{self}: only a failed load can be tried again")
        self._move(State.START)
        self.error = None
        self.retry_at_s = None

    def begin_unload(self) -> None:
        """AVAILABLE to UNLOADING: no further handles; see `quiescent`."""
        self._move(State.UNLOADING)

    def unloaded(self) -> None:
        """UNLOADING to END, once quiescent and closed."""
        if self._holders:
            raise IllegalTransition(f"{self}: still held")
        self._move(State.END, of=State.UNLOADING)
        self._servable = None

    def acquire(self) -> S:
        """One more holder, in AVAILABLE alone."""
        if self.state is not State.AVAILABLE:
            raise IllegalTransition(f"{self}: can't be held")
        self._holders += 1
        return self.servable

    def release(self) -> None:
        """One holder fewer."""
        if self._holders == 0:
            raise IllegalTransition(f"{self}: released by nobody")
        self._holders -= 1

    @property
    def servable(self) -> S:
        """What was loaded; there from AVAILABLE to UNLOADING."""
        if self._servable is None:
            raise IllegalTransition(f"{self}: nothing is loaded")
        return self._servable

    @property
    def quiescent(self) -> bool:
        """Whether it is UNLOADING and nobody holds it: its memory may go."""
        return self.state is State.UNLOADING and self._holders == 0

    @property
    def snapshot(self) -> ServableState:
        """The state as others may see it."""
        return ServableState(servable_id=self.servable_id, state=self.state, error=self.error)

    def __repr__(self) -> str:
        return f"Harness({self.servable_id}, {self.state.name}, {self._holders} holders, {self.attempts} attempts)"

    def _move(self, to: State, *, of: State | None = None) -> None:
        if to not in _ALLOWED[self.state] or (of is not None and self.state is not of):
            raise IllegalTransition(f"{self}: can't become {to.name}")
        self.state = to
