"""One version's checked state machine, with the count of who holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.loader import Servable
from fallback_server.core.printable import printable
from fallback_server.core.servable import ServableId, ServableState, State

S = TypeVar("S", bound=Servable)

_ALLOWED = {
    State.START: (State.LOADING, State.END),
    State.LOADING: (State.AVAILABLE, State.END),
    State.AVAILABLE: (State.UNLOADING, State.LOADING),
    State.UNLOADING: (State.END,),
    State.END: (State.START,),
}


class IllegalTransition(RuntimeError):
    """A step that the state machine doesn't have: a fault of this program, never of a model or request."""


class Loaded(Generic[S]):
    """What one load gave, and how many hold it. It outlives its place in the harness when it is lost.

    Attributes:
        servable: The loaded version.
        holders: How many handles are open.
    """

    __slots__ = ("__weakref__", "holders", "servable")

    def __init__(self, servable: S) -> None:
        self.servable = servable
        self.holders = 0

    def release(self) -> None:
        """One holder fewer."""
        if self.holders == 0:
            raise IllegalTransition(f"{self.servable}: released by nobody")
        self.holders -= 1


class Harness(Generic[S]):
    """Where one version stands. Guards no threads: whoever owns it calls it under one lock.

    Args:
        servable_id: Which version.
        aspired: Where it stands on disk, and as what it was found there.
        on_move: Called after every change of the state.

    Attributes:
        servable_id: See above.
        aspired: See above.
        state: Changed by the methods below alone.
        error: Why the last load failed, in END alone; as every reply can carry it, see `printable`.
        starved: Whether it failed for want of memory, in END alone.
        attempts: How many loads were begun since the last that succeeded.
        losses: How many times in a row what was loaded died.
        available_since_s: The instant at which the last load succeeded.
        retry_at_s: The instant of the next attempt after a failed load; None when there is none to come.
        reload_at_s: In LOADING after a loss: the instant at which the load begins; None once it has.
        origin: As what it was found by the first load that succeeded; None before.
        note: What else an operator should know of it; empty for nothing.
        begun: Whether a thread has taken up the load under way.
        ends_at_s: In UNLOADING: the instant at which whoever still holds it is made to let go; None for never.
        given_up: Whether the load under way is to end, and nothing is wanted that it gives.
        stop: Ends the load under way; None where nothing has been begun that could be ended.
    """

    def __init__(
        self, servable_id: ServableId, aspired: AspiredVersion, *, on_move: Callable[[], None] | None = None
    ) -> None:
        self.servable_id = servable_id
        self.aspired = aspired
        self.state = State.START
        self.error: str | None = None
        self.starved = False
        self.attempts = 0
        self.losses = 0
        self.available_since_s = 0.0
        self.retry_at_s: float | None = None
        self.reload_at_s: float | None = None
        self.origin: AspiredVersion | None = None
        self.note = ""
        self.begun = False
        self.ends_at_s: float | None = None
        self.given_up = False
        self.stop: Callable[[], None] | None = None
        self._loaded: Loaded[S] | None = None
        self._on_move = on_move

    def begin_load(self) -> None:
        """START to LOADING, or the load that a loss calls for."""
        if self.reload_at_s is None:
            self._move(State.LOADING, of=State.START)
        self.reload_at_s = None
        self.attempts += 1
        self.begun = self.given_up = False
        self.stop = None

    def loaded(self, servable: S, *, now_s: float = 0.0) -> None:
        """LOADING to AVAILABLE: handles may be taken."""
        if self.reload_at_s is not None:
            raise IllegalTransition(f"{self}: its load has not begun")
        before, self._loaded = self._loaded, Loaded(servable)
        try:
            self._move(State.AVAILABLE, of=State.LOADING)
        except IllegalTransition:
            self._loaded = before
            raise
        self.attempts = 0
        self.available_since_s = now_s
        self.origin = self.origin or self.aspired
        self.begun = False
        self.stop = None  # There is nothing to end any more, and it may keep what was loaded.

    def load_failed(self, error: str, *, retry_at_s: float | None, starved: bool = False) -> None:
        """LOADING to END. For want of memory it counts as no attempt."""
        if self.reload_at_s is not None:
            raise IllegalTransition(f"{self}: its load has not begun")
        if self.state is State.LOADING:
            self.error = printable(error)
            self.starved = starved
            self.retry_at_s = retry_at_s
            self.attempts -= starved
            self.begun = False
        self._move(State.END, of=State.LOADING)

    def load_given_up(self) -> None:
        """LOADING to END: a load that was given up has ended, whatever it gave."""
        if not self.given_up:
            raise IllegalTransition(f"{self}: its load was not given up")
        self._move(State.END, of=State.LOADING)
        self.begun = False

    def abandon(self) -> None:
        """To END before its load began: not wanted any more."""
        if self.reload_at_s is None:
            self._move(State.END, of=State.START)
        else:
            self.reload_at_s = None
            self._move(State.END, of=State.LOADING)

    def retry(self) -> None:
        """END to START, after a failed load alone."""
        if self.error is None:
            raise IllegalTransition(f"{self}: only a failed load can be tried again")
        self.error = None
        self.starved = False
        self.retry_at_s = None
        self._move(State.START, of=State.END)

    def lose(self, *, reload_at_s: float) -> Loaded[S]:
        """AVAILABLE to LOADING: what was loaded is dead. Its holders keep it; the caller closes it."""
        dead, self._loaded = self._loaded, None
        if self.state is not State.AVAILABLE or dead is None:
            self._loaded = dead
            raise IllegalTransition(f"{self}: nothing that answers can be lost")
        self.losses += 1
        self.reload_at_s = reload_at_s
        self._move(State.LOADING)
        return dead

    def begin_unload(self, *, ends_at_s: float | None = None) -> None:
        """AVAILABLE to UNLOADING: no further handles; see `quiescent` and `ends_at_s`."""
        self._move(State.UNLOADING)
        self.ends_at_s = ends_at_s

    def unloaded(self) -> None:
        """UNLOADING to END, once quiescent and closed."""
        if self._loaded is not None and self._loaded.holders:
            raise IllegalTransition(f"{self}: still held")
        self._move(State.END, of=State.UNLOADING)
        self._loaded = None

    def acquire(self) -> Loaded[S]:
        """One more holder, in AVAILABLE alone."""
        loaded = self._loaded
        if self.state is not State.AVAILABLE or loaded is None:
            raise IllegalTransition(f"{self}: can't be held")
        loaded.holders += 1
        return loaded

    def holds(self, loaded: Loaded[S]) -> bool:
        """Whether this is what is loaded now: not lost, nor replaced by another load."""
        return self._loaded is loaded

    @property
    def servable(self) -> S:
        """What was loaded; there from AVAILABLE to UNLOADING."""
        if self._loaded is None:
            raise IllegalTransition(f"{self}: nothing is loaded")
        return self._loaded.servable

    @property
    def holders(self) -> int:
        """How many requests hold it."""
        return 0 if self._loaded is None else self._loaded.holders

    @property
    def quiescent(self) -> bool:
        """Whether it is UNLOADING and nobody holds it: its memory may go."""
        return self.state is State.UNLOADING and not self.holders

    @property
    def under_way(self) -> bool:
        """Whether it is LOADING, and not only waits for the instant of its load."""
        return self.state is State.LOADING and self.reload_at_s is None

    @property
    def snapshot(self) -> ServableState:
        """The state as others may see it."""
        return ServableState(
            servable_id=self.servable_id,
            state=self.state,
            error=self.error,
            resource_exhausted=self.starved,
            note=self.note if self.state is State.AVAILABLE else self._why_held(),
        )

    def _why_held(self) -> str:
        if self.state is State.UNLOADING and self.holders:
            return f"it is unloaded once the {self.holders} requests are answered that it still has"
        return ""

    def __repr__(self) -> str:
        return f"Harness({self.servable_id}, {self.state.name}, {self.holders} holders, {self.attempts} attempts)"

    def _move(self, to: State, *, of: State | None = None) -> None:
        if to not in _ALLOWED[self.state] or (of is not None and self.state is not of):
            raise IllegalTransition(f"{self}: can't become {to.name}")
        self.state = to
        if self._on_move is not None:
            self._on_move()
