"""What a server is expected to take for one more request, from the calls that ended and those in flight."""

from __future__ import annotations

from collections.abc import Callable

_SMOOTHING = 0.2
"""Weight of the newest answer: some ten answers follow a server that slows down."""

_UNKNOWN_S = 0.010
"""What is expected of a server that has not answered yet: little, so that it is tried."""

_HALF_LIFE_S = 2.0
"""An estimate that has grown is forgotten at this pace while nothing is sent, else a server that was once slow would
never be tried again."""

_SIDE_BY_SIDE = 16
"""So many calls in flight double what is expected of one more. A server works many side by side, how many is not
known; the answers' own times show the rest. Of two servers that are alike the one with less to do is asked."""


class AnswerTime:
    """The estimate for one server. Not thread-safe: the endpoint holds its lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._usual_s = _UNKNOWN_S
        self._late_s = 0.0
        self._touched_s = clock()
        self._started_s: dict[int, float] = {}
        self._begun = 0

    @property
    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return len(self._started_s)

    @property
    def expected_s(self) -> float:
        """Seconds in which one more request should be answered.

        What answers usually take, or what the latest call waited for in vain, half as much for each `_HALF_LIFE_S` in
        which nothing is under way; no less than the oldest call in flight has been waiting already.
        """
        now_s = self._clock()
        expected_s = max(self._usual_s, self._late_s)
        if not self._started_s:
            forgotten: float = 0.5 ** (max(now_s - self._touched_s, 0.0) / _HALF_LIFE_S)
            return expected_s * forgotten
        oldest_s = now_s - next(iter(self._started_s.values()))
        return max(expected_s, oldest_s) * (1 + len(self._started_s) / _SIDE_BY_SIDE)

    def begin(self) -> int:
        """A call begins; the number to end it with."""
        self._begun += 1
        self._started_s[self._begun] = self._clock()
        return self._begun

    def end(self, number: int) -> float | None:
        """A call has ended: the seconds that it took; None if it had ended before."""
        started_s = self._started_s.pop(number, None)
        if started_s is None:
            return None
        self._touched_s = self._clock()
        return self._touched_s - started_s

    def answered(self, took_s: float) -> None:
        """The server answered."""
        self._usual_s += _SMOOTHING * (took_s - self._usual_s)
        self._late_s = 0.0

    def late(self, took_s: float) -> bool:
        """No answer came within that time: whether the server had at least what it usually takes."""
        if took_s < self._usual_s:
            return False
        self._late_s = max(self._late_s, took_s)
        return True

    def forget(self) -> None:
        """The server is another than before. Calls in flight stay known."""
        self._usual_s, self._late_s = _UNKNOWN_S, 0.0
