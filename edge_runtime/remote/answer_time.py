"""What a server itself is expected to take for one more request, from the calls that ended and those in flight."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

UNKNOWN_S = 0.010
"""What is expected of a server that has not answered yet: little, so that it is tried."""

_SMOOTHING = 0.2
"""Weight of the newest answer: some ten answers follow a server that slows down."""

_LATER = 1.5
"""What did not come in time would have come later, nobody knows how much: so many times what was waited is assumed."""

_RELAXING = 0.02
"""Weight of a slow answer in the least that is known: a hundred move it."""

_HALF_LIFE_S = 2.0
"""What an estimate has above the least that is known is forgotten at this pace while nothing is sent, else a server
that was once slow would never be tried again."""

_LEAST_HALF_LIFE_S = 60.0
"""The least is forgotten at this pace: a slow model stays slow, but perhaps it has moved to a larger machine."""

_QUIET_S = 0.5
"""Nothing is forgotten sooner."""

_FADE_S = 0.1
"""An estimate is looked through so often: it is asked for with each request."""

_LATE_FACTOR = 1.5
_LATE_MARGIN_S = 0.005
"""A call is late when it has taken so much longer than was expected: what is expected is a mean, and half of the calls
take longer."""

SIDE_BY_SIDE = 16
"""So many calls in flight double what is expected of one more. A server works many side by side, how many is not
known; the answers' own times show the rest. Of two servers that are alike the one with less to do is asked."""

MAX_KINDS = 1024
"""Kinds of requests that are told apart: one for each model and size, a size being a power of two."""


Kind = tuple[str, int]
"""A model, and of the bytes that are sent the number of binary digits."""


def kind_of(model: str, nbytes: int) -> Kind:
    """What a request is like: with others of its kind its time is learnt."""
    return model, nbytes.bit_length()


class _Known:
    """What is known of one kind.

    Attributes:
        answered: Whether the server has answered one of it.
        usual_s: Seconds that answers took, smoothed.
        least_s: Seconds that they take at least.
        late_s: Seconds that it must take by calls that waited in vain since the latest answer, smoothed; 0 for none.
        touched_s: The instant at which the latest call ended.
        expected_s: Seconds that the next one should take.
        until_s: The instant until which that holds.
    """

    __slots__ = ("answered", "expected_s", "late_s", "least_s", "touched_s", "until_s", "usual_s")

    def __init__(self, own_s: float, now_s: float) -> None:
        self.answered = False
        self.usual_s = self.least_s = own_s
        self.late_s = 0.0
        self.touch(now_s)

    def touch(self, now_s: float) -> None:
        """A call has ended."""
        self.touched_s = now_s
        self.expected_s = max(self.usual_s, self.late_s)
        self.until_s = now_s + _QUIET_S

    def fade(self, now_s: float) -> None:
        """None has ended for a while."""
        quiet_s = now_s - self.touched_s
        least: float = 0.5 ** (quiet_s / _LEAST_HALF_LIFE_S)
        above: float = 0.5 ** (quiet_s / _HALF_LIFE_S)
        above_s = max(max(self.usual_s, self.late_s) - self.least_s, 0.0)
        self.expected_s = self.least_s * least + above_s * above
        self.until_s = now_s + _FADE_S


class AnswerTime:
    """The estimate for one server. Not thread-safe: the endpoint holds its lock; `usual_s` may be asked without.

    Attributes:
        in_flight: Calls that have begun and not ended.
        due_s: The instant from which on the first of them is late; infinite where there are none.
    """

    __slots__ = ("_begun", "_clock", "_due", "_known", "_started", "due_s", "in_flight")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._known: dict[Kind, _Known] = {}
        self._started: dict[int, tuple[float, Kind]] = {}
        self._due: list[tuple[float, int]] = []
        self._begun = 0
        self.in_flight = 0
        self.due_s = math.inf

    def usual_s(self, kind: Kind, now_s: float) -> float | None:
        """Seconds that a server of its own takes for such a request; None if it has answered none of the model's yet.

        What answers usually took, or what the latest call waited for in vain; while none is sent, less and less.
        """
        known = self._known.get(kind)
        if known is None:
            return self._of_other_size(kind, now_s)
        if now_s > known.until_s:
            known.fade(now_s)
        return known.expected_s

    def typical_s(self, kind: Kind) -> float:
        """Seconds that such a request takes where nothing is wrong: who gives a server less blames it for nothing.

        Of a size that was not answered yet, what the next smaller one takes, as many times as it is larger.
        """
        known = self._known.get(kind)
        if known is not None and known.answered:
            return known.usual_s
        model, size = kind
        answered = ((other, one) for (name, other), one in list(self._known.items()) if name == model and one.answered)
        near, nearest = min(answered, key=lambda one: (one[0] > size, abs(size - one[0])), default=(size, None))
        return UNKNOWN_S if nearest is None else nearest.usual_s * 2.0 ** max(size - near, 0)

    def knows(self, model: str) -> bool:
        """Whether the server has answered one of the model's requests."""
        return any(known.answered for (name, _), known in list(self._known.items()) if name == model)

    def begin(self, kind: Kind, expected_s: float) -> int:
        """A call begins that should take so long; the number to end it with."""
        self._begun += 1
        now_s = self._clock()
        self._started[self._begun] = (now_s, kind)
        heapq.heappush(self._due, (now_s + expected_s * _LATE_FACTOR + _LATE_MARGIN_S, self._begun))
        self._count()
        return self._begun

    def end(self, number: int) -> float | None:
        """A call has ended: the seconds that it took; None if it had ended before."""
        started = self._started.pop(number, None)
        if started is None:
            return None
        self._count()
        now_s = self._clock()
        started_s, kind = started
        known = self._known.get(kind)
        if known is not None:
            known.touch(now_s)
        return now_s - started_s

    def answered(self, kind: Kind, own_s: float) -> None:
        """The server answered; so long it took itself."""
        now_s = self._clock()
        known = self._of(kind, own_s, now_s)
        if not known.answered:  # What was assumed of it says nothing any more.
            known.answered, known.usual_s, known.least_s = True, own_s, own_s
        known.usual_s += _SMOOTHING * (own_s - known.usual_s)
        known.least_s += (1.0 if own_s < known.least_s else _RELAXING) * (own_s - known.least_s)
        known.late_s = 0.0
        known.touch(now_s)

    def late(self, kind: Kind, waited_s: float, *, news: bool) -> None:
        """No answer came within that time, which should have been enough.

        One such call among many that were answered makes the server a little slower, and not as slow as that: else
        every pause of this machine or of the network would send all requests elsewhere, and nobody would find out.

        Args:
            kind: Of the request.
            waited_s: Seconds that the server had for it.
            news: Whether it began after the last that was late. Those that were under way together say no more than one
                of them: that it took as long as that.
        """
        now_s = self._clock()
        answered = kind in self._known
        known = self._of(kind, UNKNOWN_S, now_s)
        least_s = waited_s * _LATER if news else waited_s
        before_s = max(known.late_s, known.usual_s)
        known.late_s = max(before_s + (_SMOOTHING if answered else 1.0) * (least_s - before_s), before_s)
        known.touch(now_s)

    def forget(self) -> None:
        """The server is another than before. Calls in flight stay known."""
        self._known.clear()

    def _of(self, kind: Kind, own_s: float, now_s: float) -> _Known:
        known = self._known.get(kind)
        if known is None:
            while len(self._known) >= MAX_KINDS:
                del self._known[next(iter(self._known))]
            known = self._known[kind] = _Known(own_s, now_s)
        return known

    def _of_other_size(self, kind: Kind, now_s: float) -> float | None:
        """From the next smaller size that was answered, or else the next larger: rows that go together cost little."""
        model, size = kind
        sizes = [other for name, other in list(self._known) if name == model]
        if not sizes:
            return None
        nearest = min(sizes, key=lambda other: (other > size, abs(size - other)))
        return self.usual_s((model, nearest), now_s)

    def _count(self) -> None:
        while self._due and self._due[0][1] not in self._started:
            heapq.heappop(self._due)
        self.in_flight = len(self._started)
        self.due_s = self._due[0][0] if self._due else math.inf
