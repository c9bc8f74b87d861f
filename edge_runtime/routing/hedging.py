"""A second copy, to a server, of a request that the device takes longer over than usual; the first answer counts.

J. Dean and L. A. Barroso, "The Tail at Scale" (2013): wait for the 95th percentile, then ask a second place, and the
tail goes for a few per cent more requests.

Copies of that kind have a budget. What would be lost has none: when a server can only just be in time, and the device
is late or stands still, the request is sent as it would have been at once, had that been known; and before, as soon as
a device that stands still is predicted to be too late.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from edge_runtime.errors import EngineFailed, RuntimeClosed, ServerFailed
from edge_runtime.routing.budget import Budget
from edge_runtime.routing.chain import Refusal, Rescue, dropped, failed, settle, then
from edge_runtime.routing.watch import UNSURE_FACTOR, Watch, glance_s, hopeless
from edge_runtime.types import InferRequest, Pending, Reply, Tried

MIN_ANSWERS = 50
"""Answers from which a 95th percentile is known: two or three lie beyond it."""

WINDOW = 512
"""Answers that are remembered: those of some seconds to minutes, so that it follows what the device does now."""

SHARE = 0.95
"""The share of answers that come before a copy would be sent."""

_REFRESH = 16
"""Answers after which the percentile is taken anew."""


class Cancellable(Protocol):
    """A wait that may be given up."""

    def cancel(self) -> None:
        """It ends without effect."""
        ...


class Later(Protocol):
    """What calls back after a while: `edge_runtime.remote.timers`."""

    def call(self, delay_s: float, what: Callable[[], None]) -> Cancellable | None:
        """Calls `what` once after the delay; None if it takes no more, and never will call."""
        ...


class Lateness:
    """How long the device's answers take beside what was predicted for them. Thread-safe.

    So requests of one row and of many, behind others and alone, on a cool device and on a hot one, have one measure.

    Attributes:
        factor: The percentile; None while too few answers are known.
    """

    def __init__(self) -> None:
        """Knows no answer."""
        self.factor: float | None = None
        self._ratios: list[float] = []
        self._next = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        known = "unknown" if self.factor is None else f"{self.factor:.2f} x the prediction"
        return f"<Lateness of {len(self._ratios)} answers: {SHARE:.0%} within {known}>"

    def record(self, took_s: float, predicted_s: float) -> None:
        """Takes an answer into account, or that there was none so far."""
        ratio = took_s / max(predicted_s, 1e-9)
        with self._lock:
            if len(self._ratios) < WINDOW:
                self._ratios.append(ratio)
            else:
                self._ratios[self._next % WINDOW] = ratio
            self._next += 1
            if self._next % _REFRESH == 0 and self._next >= MIN_ANSWERS:
                self.factor = sorted(self._ratios)[int(len(self._ratios) * SHARE)]


class Hedging:
    """What hedging needs, and what it has learnt, of one model and version. Thread-safe.

    Attributes:
        lateness: Of the device's answers.
    """

    def __init__(self, budget: Budget, later: Later, clock: Callable[[], float]) -> None:
        """Takes what all models share.

        Args:
            budget: Of copies.
            later: Calls when a copy is due.
            clock: Monotonic seconds.
        """
        self.lateness = Lateness()
        self._budget = budget
        self._later = later
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Hedging {self.lateness!r}, {self._budget!r}>"

    @property
    def ready(self) -> bool:
        """Whether it is known when an answer is late."""
        return self.lateness.factor is not None

    def race(
        self,
        request: InferRequest,
        watch: Watch,
        device: Future[Reply],
        *,
        copy: Callable[[], Future[Reply] | None],
        stall_s: Callable[[], float | None],
        rescue: Callable[[BaseException], Rescue | None],
    ) -> Pending:
        """The answer of the device, or of the copy that is sent when that is late.

        Args:
            request: What is asked.
            watch: How it is looked after.
            device: The device's answer to come.
            copy: Sends the copy; None if it is not worth it.
            stall_s: Seconds in which the device should answer, where it stands still; None where it doesn't.
            rescue: See `then`: where the engine fails, or would be too late, before a copy is sent.
        """
        self._budget.earn()
        race = _Race(request, device, rescue, self._clock)

        def late() -> None:
            if not self._send(race, copy, free=False) and not race.over:
                self._await_last_call(race, watch, copy, stall_s)

        if self.ready and watch.copied and watch.late_s < watch.last_s:
            self._call(race, watch.late_s, late)
        else:
            self._await_last_call(race, watch, copy, stall_s)

        def ended(_: Future[Reply]) -> None:
            race.stop()
            # A loser counts with what it took so far: were it left out, the percentile would sink with each copy.
            if watch.copied:
                self.lateness.record(self._clock() - request.start_s, watch.predicted_s)

        race.outer.add_done_callback(ended)
        return race.outer

    def overtake(
        self,
        request: InferRequest,
        expected_s: float,
        last_s: float,
        server: Future[Reply],
        *,
        copy: Callable[[], Future[Reply] | None],
        rescue: Callable[[BaseException], Rescue | None],
    ) -> Pending:
        """The answer of a server that was asked first, or of the device that is asked while it can be in time.

        Args:
            request: What is asked.
            expected_s: Seconds in which the server should answer. A copy before twice that is paid for by the budget.
            last_s: The instant at which the device must be asked at the latest.
            server: The server's answer to come.
            copy: Asks the device; None if it does not take the request. Where it raises a RuntimeClosed the race ends
                with that: what has followed upon the version has to be asked.
            rescue: See `then`: where the server fails before that.
        """
        race = _Race(request, server, rescue, self._clock, _SERVER_FIRST)
        late_s = server_late_s(request, expected_s)

        def last_call() -> None:
            self._send(race, copy, free=self._clock() >= late_s)

        self._call(race, last_s, last_call)
        race.outer.add_done_callback(lambda _: race.stop())
        return race.outer

    def _await_last_call(
        self,
        race: _Race,
        watch: Watch,
        copy: Callable[[], Future[Reply] | None],
        stall_s: Callable[[], float | None],
        expected_s: float | None = None,
    ) -> None:
        """Sends the copy when a server can only just be in time, or as soon as the device is known to be too late.

        Args:
            race: Whose copy.
            watch: As in `race`.
            copy: As in `race`.
            stall_s: As in `race`.
            expected_s: What that said just now.
        """
        if watch.last_s == math.inf:
            return
        at_s = glance_s(self._clock(), watch.deadline_s, watch.last_s, expected_s)

        def last_call() -> None:
            if self._clock() >= watch.late_s or stall_s() is not None:
                self._send(race, copy, free=True)

        def glance() -> None:
            if race.over:
                return
            expected_s = stall_s()
            late = hopeless(self._clock(), watch.deadline_s, expected_s)
            if not (late and self._send(race, copy, free=True)) and not race.over:
                self._await_last_call(race, watch, copy, stall_s, None if late else expected_s)

        self._call(race, watch.last_s if at_s is None else at_s, last_call if at_s is None else glance)

    def _call(self, race: _Race, due_s: float, what: Callable[[], None]) -> None:
        race.timer = self._later.call(max(due_s - self._clock(), 0.0), what)
        if race.over:  # Meanwhile.
            race.stop()

    def _send(self, race: _Race, copy: Callable[[], Future[Reply] | None], *, free: bool) -> bool:
        """Sends the copy; whether it did, where there is still need of it."""
        if race.over or not (free or self._budget.spend()):
            return False
        sent = None
        try:
            sent = copy()
        except RuntimeClosed as error:
            race.unload(error)
        finally:
            if sent is None and not free:
                self._budget.give_back()
        if sent is not None:
            race.enter(sent)
        return sent is not None


def server_late_s(request: InferRequest, expected_s: float) -> float:
    """The instant from which a server that was asked first has had its time. Pure.

    Args:
        request: What is asked.
        expected_s: Seconds in which the server should answer.
    """
    return request.start_s + UNSURE_FACTOR * expected_s


class _Order(NamedTuple):
    """Who has a request first, and who gets a copy."""

    first: str
    second: str
    stage: str


_DEVICE_FIRST = _Order("device", "server", "the device's queue")
_SERVER_FIRST = _Order("server", "device", "a server")


class _Race:
    """A request that one place has, and perhaps the other too: the device and the servers, or the other way round.

    Attributes:
        outer: What the caller waits for. Cancelling it cancels whatever is under way.
        timer: What looks after it next; None for nothing.
    """

    def __init__(
        self,
        request: InferRequest,
        first: Future[Reply],
        rescue: Callable[[BaseException], Rescue | None],
        clock: Callable[[], float],
        order: _Order = _DEVICE_FIRST,
    ) -> None:
        self.outer = Pending()
        self.outer.stage = order.stage
        self.timer: Cancellable | None = None
        self._request = request
        self._order = order
        self._first = first
        self._rescue = rescue
        self._clock = clock
        self._copy: Future[Reply] | None = None
        self._rescuer: Future[Reply] | None = None
        self._sent_ms = 0.0
        self._first_error: BaseException | None = None
        self._copy_error: BaseException | None = None
        self._won = False
        self._lock = threading.Lock()
        self.outer.add_done_callback(self._end)
        first.add_done_callback(self._first_done)

    @property
    def over(self) -> bool:
        """Whether the first place has answered or failed, or nobody waits any more."""
        return self._first.done() or self.outer.done()

    def stop(self) -> None:
        """It is looked after no more."""
        if self.timer is not None:
            self.timer.cancel()

    def enter(self, copy: Future[Reply]) -> None:
        """A copy is on its way."""
        with self._lock:
            self._copy, self._sent_ms = copy, self._spent_ms
            late = self._rescuer is not None
        self.outer.stage = "the device's queue and a server"
        copy.add_done_callback(self._copy_done)
        if late or self.outer.done():  # Since it was looked whether it is worth it.
            copy.cancel()

    def unload(self, error: RuntimeClosed) -> None:
        """The device has unloaded the version: if it was the one to help, whoever asks hears so in time to ask anew."""
        if self._order is _SERVER_FIRST:
            self._lose(error)

    @property
    def _spent_ms(self) -> float:
        return (self._clock() - self._request.start_s) * 1e3

    def _first_done(self, done: Future[Reply]) -> None:
        if done.cancelled() or self.outer.done():
            return
        error = done.exception()
        with self._lock:
            self._first_error = error
            # What the device gives up as too late, a server may still answer in time.
            lost = dropped(error, self._request, self._clock()) is not None
            refused = self._order is _SERVER_FIRST and isinstance(error, Refusal)
            rescuable = lost or refused or isinstance(error, EngineFailed | ServerFailed)
            if rescuable and self._copy is not None and self._copy_error is None:
                return  # The copy decides.
            if rescuable and self._copy is None:
                self._rescuer = then(done, (), self._rescue)
        if self._rescuer is not None:
            self.outer.stage = _DEVICE_FIRST.stage if self._order is _SERVER_FIRST else _SERVER_FIRST.stage
            self._rescuer.add_done_callback(self._rescuer_done)
        elif error is not None:
            self._lose(error)
        else:
            self._win(self._ahead(done.result()))

    def _rescuer_done(self, rescuer: Future[Reply]) -> None:
        if not rescuer.cancelled() and self._claim():
            settle(self.outer, rescuer, rescuer.exception())

    def _copy_done(self, copy: Future[Reply]) -> None:
        if copy.cancelled() or self.outer.done():
            return
        error = copy.exception()
        if error is None:
            self._win(self._overtaken(copy.result()))
            return
        if isinstance(error, RuntimeClosed):
            self.unload(error)
        with self._lock:
            self._copy_error, first = error, self._first_error
        if first is not None:
            self._lose(first)

    def _ahead(self, reply: Reply) -> Reply:
        """The first place's reply, which may say that a copy was sent in vain."""
        if self._copy is None:
            return reply
        ms = self._spent_ms - self._sent_ms
        error = self._copy_error
        second = self._order.second
        copy = Tried(place=second, outcome="cancelled", ms=ms) if error is None else failed(second, error, ms)
        return replace(reply, before=(*reply.before, copy), asked_ms=reply.asked_ms or 0.0)

    def _overtaken(self, reply: Reply) -> Reply:
        """The copy's reply, which says what became of the first place."""
        ms, error, first = self._spent_ms, self._first_error, self._order.first
        loser = Tried(place=first, outcome="cancelled", ms=ms) if error is None else failed(first, error, ms)
        asked_ms = reply.asked_ms
        if asked_ms is None:
            asked_ms = self._sent_ms + sum(one.ms for one in reply.before)
        return replace(reply, before=(loser, *reply.before), asked_ms=asked_ms)

    def _claim(self) -> bool:
        """Whether nobody has ended the race so far."""
        with self._lock:
            first, self._won = not self._won, True
        return first

    def _win(self, reply: Reply) -> None:
        if self._claim() and self.outer.set_running_or_notify_cancel():
            self.outer.set_result(reply)

    def _lose(self, error: BaseException) -> None:
        if self._claim() and self.outer.set_running_or_notify_cancel():
            self.outer.set_exception(error)

    def _end(self, _: Future[Reply]) -> None:
        """Whatever is still under way is for nobody."""
        for one in (self._first, self._copy, self._rescuer):
            if one is not None:
                one.cancel()
