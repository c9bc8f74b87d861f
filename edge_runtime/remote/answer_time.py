"""What a server itself is expected to take for one more request, from the calls that ended and those in flight."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

UNKNOWN_S = 0.010
"""What is expected of a server that has not answered yet: little, so that it is tried."""

_SMOOTHING = 0.2
"""Weight of the newest answer: some ten answers follow a server that slows down."""

_RELAXING = 0.02
"""Weight of a slow answer in the least that is known: a hundred move it."""

_HALF_LIFE_S = 2.0
"""What an estimate has above the least that is known is forgotten at this pace while nothing is sent, else a server
that was once slow would never be tried again."""

_LEAST_HALF_LIFE_S = 60.0
"""The least is forgotten at this pace: a slow model stays slow, but perhaps it has moved to a larger machine."""

_QUIET_S = 0.5
"""Nothing is forgotten sooner."""

SIDE_BY_SIDE = 16
"""So many calls in flight double what is expected of one more. A server works many side by side, how many is not
known; the answers' own times show the rest. Of two servers that are alike the one with less to do is asked."""

MAX_KINDS = 1024
"""Kinds of requests that are told apart: one for each model and size, a size being a power of two."""


class _Kind:
    """Requests of one model and about one size."""

    __slots__ = ("late_s", "least_s", "touched_s", "usual_s")

    def __init__(self, own_s: float, now_s: float) -> None:
        self.usual_s = own_s
        self.least_s = own_s
        self.late_s = 0.0
        self.touched_s = now_s


class AnswerTime:
    """The estimate for one server. Not thread-safe: the endpoint holds its lock; `usual_s` may be asked without.

    Attributes:
        in_flight: Calls that have begun and not ended.
        due_s: The instant at which the first of them should have been answered; infinite where there are none.
    """

    __slots__ = ("_begun", "_clock", "_due", "_kinds", "_started", "due_s", "in_flight")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._kinds: dict[tuple[str, int], _Kind] = {}
        self._started: dict[int, tuple[float, str, int]] = {}
        self._due: list[tuple[float, int]] = []
        self._begun = 0
        self.in_flight = 0
        self.due_s = math.inf

    def usual_s(self, model: str, nbytes: int, now_s: float) -> float | None:
        """Seconds that a server of its own takes for such a request; None if it has answered no such request yet.

        What answers usually took, or what the latest call waited for in vain; while none is sent, less and less.
        """
        kind = self._kinds.get((model, nbytes.bit_length()))
        if kind is None:
            return self._of_other_size(model, nbytes, now_s)
        return _expected_s(kind, now_s)

    def typical_s(self, model: str, nbytes: int) -> float:
        """Seconds that such a request takes where nothing is wrong: who gives a server less blames it for nothing."""
        kind = self._kinds.get((model, nbytes.bit_length()))
        return UNKNOWN_S if kind is None else kind.usual_s

    def begin(self, model: str, nbytes: int, expected_s: float) -> int:
        """A call begins that should take so long; the number to end it with."""
        self._begun += 1
        now_s = self._clock()
        self._started[self._begun] = (now_s, model, nbytes)
        heapq.heappush(self._due, (now_s + expected_s, self._begun))
        self._count()
        return self._begun

    def end(self, number: int) -> float | None:
        """A call has ended: the seconds that it took; None if it had ended before."""
        started = self._started.pop(number, None)
        if started is None:
            return None
        self._count()
        now_s = self._clock()
        started_s, model, nbytes = started
        kind = self._kinds.get((model, nbytes.bit_length()))
        if kind is not None:
            kind.touched_s = now_s
        return now_s - started_s

    def answered(self, model: str, nbytes: int, own_s: float) -> None:
        """The server answered; so long it took itself."""
        now_s = self._clock()
        kind = self._kind(model, nbytes, own_s, now_s)
        kind.usual_s += _SMOOTHING * (own_s - kind.usual_s)
        kind.least_s += (1.0 if own_s < kind.least_s else _RELAXING) * (own_s - kind.least_s)
        kind.late_s = 0.0
        kind.touched_s = now_s

    def late(self, model: str, nbytes: int, waited_s: float) -> None:
        """No answer came within that time, which should have been enough."""
        now_s = self._clock()
        kind = self._kind(model, nbytes, UNKNOWN_S, now_s)
        kind.late_s = max(kind.late_s, waited_s)
        kind.touched_s = now_s

    def forget(self) -> None:
        """The server is another than before. Calls in flight stay known."""
        self._kinds.clear()

    def _kind(self, model: str, nbytes: int, own_s: float, now_s: float) -> _Kind:
        key = (model, nbytes.bit_length())
        kind = self._kinds.get(key)
        if kind is None:
            while len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[key] = _Kind(own_s, now_s)
        return kind

    def _of_other_size(self, model: str, nbytes: int, now_s: float) -> float | None:
        """From the next smaller size that was answered, or else the next larger: rows that go together cost little."""
        size = nbytes.bit_length()
        known = [(other > size, abs(size - other), kind) for (name, other), kind in self._known() if name == model]
        if not known:
            return None
        return _expected_s(min(known, key=lambda one: one[:2])[2], now_s)

    def _known(self) -> list[tuple[tuple[str, int], _Kind]]:
        return list(self._kinds.items())

    def _count(self) -> None:
        while self._due and self._due[0][1] not in self._started:
            heapq.heappop(self._due)
        self.in_flight = len(self._started)
        self.due_s = self._due[0][0] if self._due else math.inf


def _expected_s(kind: _Kind, now_s: float) -> float:
    quiet_s = now_s - kind.touched_s
    if quiet_s <= _QUIET_S:
        return max(kind.usual_s, kind.late_s)
    above_s = max(kind.usual_s, kind.late_s) - kind.least_s
    least_s: float = kind.least_s * 0.5 ** (quiet_s / _LEAST_HALF_LIFE_S)
    forgotten: float = 0.5 ** (quiet_s / _HALF_LIFE_S)
    return least_s + max(above_s, 0.0) * forgotten
