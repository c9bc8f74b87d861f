"""In how many seconds one server should answer: what the way takes, and what the server itself does."""

from __future__ import annotations

import math
from collections.abc import Callable

from edge_runtime.remote.answer_time import SIDE_BY_SIDE, UNKNOWN_S, AnswerTime, Kind, kind_of
from edge_runtime.remote.network import Link

_HEARD_MARGIN_S = 0.02
"""So much later than usual the answer to a look may come before more is expected of requests too."""


class Estimate:
    """The estimate for one server. Not thread-safe: the endpoint holds its lock; `expected_s` may be asked without.

    Attributes:
        link: The way.
        time: The server's own time, and the calls under way.
    """

    __slots__ = ("_clock", "_look_due_s", "link", "time")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self.link = Link(clock)
        self.time = AnswerTime(clock)
        self._look_due_s = math.inf

    def expected_s(self, now_s: float, kind: Kind, nbytes: int, wait_s: float) -> float:
        """Seconds until one more request would be answered.

        Round trip, transfer behind what was sent before, and the server's own time, which grows with the calls under
        way. So much longer as the first of these is late, or the answer to a look.

        Args:
            now_s: The instant.
            kind: Of the request.
            nbytes: What has to be sent.
            wait_s: Seconds that the server said one row waits and runs; 0 where it doesn't say.
        """
        time, link = self.time, self.link
        own_s = time.usual_s(kind, now_s)
        if own_s is None:
            own_s = wait_s or UNKNOWN_S
        elif own_s < wait_s:
            own_s = wait_s
        expected_s = link.round_trip_s + nbytes * link.byte_s + own_s * (1 + time.in_flight / SIDE_BY_SIDE)
        if time.due_s < now_s:
            expected_s += now_s - time.due_s
        if self._look_due_s < now_s:
            expected_s += now_s - self._look_due_s
        if link.free_s > now_s:
            expected_s += link.free_s - now_s
        return expected_s

    def begin(self, model: str, nbytes: int, wait_s: float) -> tuple[int, float]:
        """A call begins; the number to end it with, and the seconds that it should take."""
        kind = kind_of(model, nbytes)
        expected_s = self.expected_s(self._clock(), kind, nbytes, wait_s)
        self.link.sent(nbytes)
        return self.time.begin(kind, expected_s), expected_s

    def end(self, number: int) -> float | None:
        """A call has ended: the seconds that it took; None if it had ended before."""
        took_s = self.time.end(number)
        if not self.time.in_flight:
            self.link.empty()
        return took_s

    def answered(self, model: str, nbytes: int, back_bytes: int, took_s: float, own_s: float | None) -> None:
        """A call was answered.

        Args:
            model: Of the request.
            nbytes: What was sent.
            back_bytes: What came.
            took_s: Seconds from the one to the other.
            own_s: Seconds of these that the server says were its own; None where it doesn't say: then it is what round
                trip and transfer leave of the whole.
        """
        link = self.link
        if own_s is not None:
            own_s = min(own_s, took_s)
        link.large(nbytes + back_bytes, took_s, own_s)
        if own_s is None:
            rest_s = took_s - link.round_trip_s - nbytes * link.byte_s
        else:
            rest_s = own_s + back_bytes * link.byte_s
        self.time.answered(kind_of(model, nbytes), min(max(rest_s, 0.0), took_s))

    def late(self, model: str, nbytes: int, took_s: float, *, news: bool = True) -> bool:
        """No answer came in that time: whether it should have. That is held against the way, or against the server.

        Args:
            model: Of the request.
            nbytes: What was sent.
            took_s: Seconds that were waited.
            news: As in `AnswerTime.late`.
        """
        link, kind = self.link, kind_of(model, nbytes)
        way_s = link.round_trip_s + nbytes * link.byte_s
        if took_s < self.time.typical_s(kind) + way_s:
            return False
        if not link.late(nbytes, took_s):
            self.time.late(kind, max(took_s - way_s, 0.0), news=news)
        return True

    def knows(self, model: str) -> bool:
        """Whether the server has answered one of the model's requests."""
        return self.time.knows(model)

    def look_begins(self) -> None:
        """A small call is sent to see what there is; its answer's delay says something of requests too."""
        if self._look_due_s == math.inf:
            self._look_due_s = self._clock() + 2 * self.link.round_trip_s + _HEARD_MARGIN_S

    def look_ends(self, took_s: float | None) -> None:
        """It was answered in that time; None if it wasn't."""
        self._look_due_s = math.inf
        if took_s is not None:
            self.link.small(took_s)

    def forget(self) -> None:
        """The server is another than before. Calls in flight stay known."""
        self.time.forget()
        self.link.forget()
