"""Small requests that come at about the same time are answered together, where that is how they come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from fallback_server.core.errors import ExecutionFailed, ServerError
from fallback_server.transport.crowd import Crowd
from fallback_server.transport.serving_loop import ServingLoop

_log = logging.getLogger(__name__)

PATIENCE_S = 1e-3
"""How long a group that is not full waits for the next request: the shortest time that a loop can wait."""

LONGEST_S = 4e-3
"""How long its first request waits at most: whether the loop has rest or not."""

HURRY_S = 0.05
"""Who has less time than that does not wait for company."""

Found = TypeVar("Found")
Given = TypeVar("Given")
Item = TypeVar("Item")


class Soon(Protocol[Found, Given]):
    """Answers requests that are like others before, as soon as they are found to be. In the event loop."""

    def find(self, data: bytes, caller: Any) -> Found | None:
        """What is known of a request that can be answered at once; None for others.

        Raises:
            ServerError: its caller may not ask for that.
        """
        ...

    def left_s(self, found: Found) -> float | None:
        """How long its caller waits; None for ever."""
        ...

    def answer(self, found: Found) -> Given | None:
        """The answer; None where there is none at once. Then nothing has been done.

        Raises:
            ServerError: it is refused.
        """
        ...

    def answer_all(self, found: Sequence[Found]) -> list[Given | ServerError | None]:
        """As `answer` for each, in their order."""
        ...

    def left(self, found: Found) -> None:
        """A caller has left before its request was answered: that is counted."""
        ...


_Waiting = tuple[Soon[Any, Any], Any, "asyncio.Future[Any]"]
"""Who answers what, and what takes the answer."""


class Room(Generic[Item]):
    """Where requests wait for company. Lives in one event loop.

    Args:
        loop: Says when it has nothing else to do.
        end: Takes those that have waited. Must neither raise nor block.
        crowd: Says who waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        loop: ServingLoop,
        end: Callable[[list[Item]], None],
        crowd: Crowd | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.crowd = crowd or Crowd()
        self._loop = loop
        self._end = end
        self._clock = clock
        self._waiting: list[Item] = []
        self._in_vain = False
        self._since_s = 0.0
        self._idle_s = 0.0

    def enter(self, item: Item) -> None:
        """One more waits; the last of a group ends it."""
        waiting = self._waiting
        if not waiting:
            self._idle_s = 0.0
            self._since_s = self._clock()
            self._loop.at_rest(self, within_s=LONGEST_S if self.crowd.size > 1 else PATIENCE_S)
        self._in_vain = False
        waiting.append(item)
        if len(waiting) >= self.crowd.most:
            self._loop.not_at_rest(self)
            self.rest()

    def patience_s(self) -> float:
        """See `Rested`."""
        if self.crowd.size < 2 or self._clock() - self._since_s >= LONGEST_S:
            return 0.0
        self._in_vain = True
        return PATIENCE_S

    def waited(self, took_s: float) -> None:
        """See `Rested`."""
        self._idle_s += took_s

    def rest(self) -> None:
        """See `Rested`."""
        waiting, self._waiting = self._waiting, []
        span_s = self._clock() - self._since_s
        idle = min(self._idle_s / span_s, 1.0) if span_s > 0 else 0.0
        self.crowd.gathered(len(waiting), in_vain=self._in_vain, idle=idle)
        self._end(waiting)


class Gathering:
    """Has requests answered together. Lives in one event loop.

    Args:
        loop: Says when it has nothing else to do.
        crowd: Says who waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self, loop: ServingLoop, crowd: Crowd | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._room: Room[_Waiting] = Room(loop, _answer, crowd, clock)

    def joins(self, soon: Soon[Found, Any], found: Found) -> bool:
        """Whether a request is to wait for company."""
        if not self._room.crowd.joins():
            return False
        left_s = soon.left_s(found)
        return left_s is None or left_s > HURRY_S

    def join(self, soon: Soon[Found, Given], found: Found) -> asyncio.Future[Given | ServerError | None]:
        """What an answer will be in, or a refusal; None as of `Soon.answer`."""
        future: asyncio.Future[Given | ServerError | None] = self._loop.create_future()
        self._room.enter((soon, found, future))
        return future


def _answer(waiting: list[_Waiting]) -> None:
    groups: dict[Soon[Any, Any], list[tuple[Any, asyncio.Future[Any]]]] = {}
    for soon, found, future in waiting:
        if future.done():
            _left(soon, found)
        else:
            groups.setdefault(soon, []).append((found, future))
    for soon, members in groups.items():
        for (_, future), answer in zip(members, _answers(soon, [found for found, _ in members]), strict=True):
            if not future.done():
                future.set_result(answer)


def given(answer: Given | ServerError | None) -> Given | None:
    """The answer that a request was given.

    Raises:
        ServerError: it was refused.
    """
    if isinstance(answer, ServerError):
        try:
            raise answer
        finally:
            del answer  # A fault that its own traceback leads to would stay until Python looks for such.
    return answer


def _left(soon: Soon[Found, Any], found: Found) -> None:
    try:
        soon.left(found)
    except Exception:  # noqa: BLE001  as below
        _log.exception("a request whose caller has left was not counted")


def _answers(soon: Soon[Found, Given], found: Sequence[Found]) -> Sequence[Given | ServerError | None]:
    try:
        return soon.answer_all(found)
    except Exception:  # noqa: BLE001  whatever it is, nobody is left waiting, and the loop lives on
        _log.exception("%d requests failed together", len(found))
        return [ExecutionFailed("the model failed to run")] * len(found)
