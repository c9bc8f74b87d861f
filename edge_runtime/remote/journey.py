"""One call's way from endpoint to endpoint, within its deadline."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, InvalidInput, ServerFailed, ServerRefused
from edge_runtime.remote import silence
from edge_runtime.remote.answer_time import kind_of
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.faults import Apart, Onward, RemoteFault
from edge_runtime.remote.hedging import Hedging
from edge_runtime.remote.timers import Timer
from edge_runtime.remote.told import why_not_asked
from edge_runtime.remote.trip import Means, Trip
from edge_runtime.remote.turn import Turn
from edge_runtime.remote.word import promised
from edge_runtime.types import Reply, Tried
from fallback_server.protocol.status import Fault

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Endpoints that one request asks in a round, besides those that refused it before anything ran: one that three could
not answer would only add to their load."""

RETRY_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0)
"""Waits before the further rounds of a request that nobody else can answer, the last before all that follow: a full
queue is soon shorter, and a model takes seconds to load. None is longer than half of the time that is left."""

LEAST_WAIT_S = 0.02
"""A shorter one would change nothing."""

SOUGHT_EVERY_S = 0.02
"""How often a request that only servers can answer looks for the first one, just after the opening; and after how long
for the first time whether one that is being tried is back. Then twice as long, each time..."""

_LONGEST_LOOK_S = 0.32
_MAX_LOOKS = 4
"""...up to this."""

TRIAL_S = 2.0
_TRIAL_FACTOR = 2.0
"""So long that is awaited, or so many times what the server usually takes, or for half of what is left of a deadline.
One that is back answers sooner; one that hangs answers no look either, and is then awaited no longer."""

_TRIAL_SLACK_S = 0.05
"""By so much later than planned a request looks again at the latest, as a rule."""


class _Leg(Generic[T]):
    """One call to one endpoint."""

    __slots__ = ("address", "call", "endpoint", "expected_s", "paid", "started_s")

    def __init__(self, endpoint: Endpoint, started_s: float, expected_s: float, *, paid: bool) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.paid = paid
        self.started_s = started_s
        self.expected_s = expected_s
        self.call: Future[T] | None = None


class Journey(Generic[T]):
    """Goes on in gRPC's threads and the timer's.

    Attributes:
        future: The answer, or an EdgeRuntimeError. Cancelling it cancels the calls in flight.
        before: What was tried besides the endpoint that answered, in order; complete when the future is.
    """

    def __init__(self, trip: Trip, means: Means, ask: Callable[[Endpoint, Turn, float], Future[T]]) -> None:
        """Nobody is asked yet.

        Args:
            trip: What for.
            means: What all journeys share.
            ask: Sends the call to an endpoint, until an instant; raises nothing.
        """
        self.future: Future[T] = Future()
        self.before: tuple[Tried, ...] = ()
        self._trip = trip
        self._means = means
        self._ask = ask
        self._faults: dict[str, RemoteFault] = {}
        self._tried: list[Tried] = []
        self._besides: set[str] = set()
        self._asked = 0
        self._round = 0
        self._looks = 0
        self._trial_until_s: float | None = None
        self._unpaid = self._asked_again = False
        self._onward = Onward.FREE
        self._lock = threading.Lock()  # Of the legs and of the end: with a copy under way two threads bring news.
        self._legs: list[_Leg[T]] = []
        self._ended = False
        self._timer: Timer | None = None
        self.future.add_done_callback(self._cancel)

    def set_out(self) -> None:
        """Asks the first endpoint; once. Not in the main thread, where an interrupt would leave the call half sent."""
        self._go()

    @property
    def waited(self) -> bool:
        """Whether it has asked nobody for some time, so that what it took says nothing of what calls take."""
        return bool(self._round or self._looks)

    @property
    def apart(self) -> Apart:
        """How those that it carried are asked again, once it has failed."""
        ways = {fault.apart for fault in self._faults.values()}
        return next((way for way in (Apart.HALVES, Apart.SINGLY) if way in ways), Apart.NO)

    def _go(self) -> None:
        """The next step. Whatever goes wrong ends in the future: these threads have nobody else to tell."""
        try:
            self._next()
        except Exception as error:  # noqa: BLE001  see above
            self._fail(error)

    def _next(self) -> None:
        if self.future.done():
            return
        now_s = self._means.clock()
        deadline_s = self._trip.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            self._fail(self._late())
        elif not self._send(now_s) and not self._wait(now_s):
            self._fail(self._nobody())

    def _send(self, now_s: float) -> bool:
        """Asks the next endpoint; False if there is none, or the budget has no retry left."""
        self._unpaid = False
        if self._asked >= MAX_ATTEMPTS:
            return False
        means, wanted = self._means, self._trip.wanted
        first = not self._faults
        chosen = None
        end_s = now_s + means.timeout_s if self._trip.deadline_s is None else self._trip.deadline_s
        if self._onward is not Onward.PAID:
            spared = self._onward is Onward.SPARED
            chosen = means.endpoints.acquire(wanted, self._besides, spared=spared, end_s=end_s)
        elif all(fault.onward is not Onward.PAID for fault in self._faults.values()):
            # It waits for those that refused it: who comes free meanwhile, and has not, costs what it did before.
            chosen = means.endpoints.acquire(wanted, self._besides | self._faults.keys(), spared=True, end_s=end_s)
        paid = chosen is None and self._onward is not Onward.FREE
        if paid:
            self._unpaid = not means.retries.spend(patient=self._round > 0)
            if self._unpaid:
                return False
            chosen = means.endpoints.acquire(wanted, self._besides, end_s=end_s)
        if chosen is None:
            if paid:
                means.retries.give_back()
            return False
        if first:
            means.retries.earn()
        leg = self._call(*chosen, now_s, paid=paid)
        if self._may_be_copied() and not (first and self._plan_copy(leg)):
            self._look_after(leg)
        return True

    def _call(self, endpoint: Endpoint, turn: Turn, now_s: float, *, paid: bool) -> _Leg[T]:
        leg: _Leg[T] = _Leg(endpoint, now_s, turn.expected_s, paid=paid)
        self._besides.add(endpoint.address)
        with self._lock:
            self._asked += 1
            self._legs.append(leg)
        until_s = now_s + self._means.timeout_s
        deadline_s = self._trip.deadline_s
        leg.call = self._ask(endpoint, turn, until_s if deadline_s is None else min(deadline_s, until_s))
        if self._ended or self.future.done():  # While the call was being sent: then nobody has told it.
            leg.call.cancel()
        leg.call.add_done_callback(lambda call: self._done(leg, call))
        return leg

    def _plan_copy(self, leg: _Leg[T]) -> bool:
        """Has it copied when it is late; False if that is not known, or would be too late."""
        hedging = self._means.hedging
        after_s = None if hedging is None else hedging.after_s(leg.address, self._trip.wanted.model)
        deadline_s = self._trip.deadline_s
        if hedging is None or after_s is None or (deadline_s is not None and leg.started_s + after_s >= deadline_s):
            return False
        self._plan(after_s, lambda: self._copy(leg, hedging))
        return True

    def _copy(self, leg: _Leg[T], hedging: Hedging) -> None:
        """The first endpoint has had its time: a copy goes to another, if the budget has room for it."""
        if not self._waits_for(leg):
            return
        requests = self._trip.requests
        if hedging.budget.spend(requests):
            if self._copied():
                return
            hedging.budget.give_back(requests)
        self._look_after(leg)

    def _look_after(self, leg: _Leg[T]) -> None:
        """Has it looked after whether its endpoint has fallen silent, while another could be in time."""
        trip, now_s = self._trip, self._means.clock()
        last_s = silence.last_s(trip.start_s, trip.deadlines_s, self._other_s(now_s), now_s)
        if last_s is not None:
            due_s = silence.look_s(now_s, last_s)
            self._plan(due_s - now_s, lambda: self._look(leg, last=due_s >= last_s))

    def _look(self, leg: _Leg[T], *, last: bool) -> None:
        """What is lost at a silent endpoint goes to another."""
        if not self._waits_for(leg):
            return
        known = leg.endpoint.silence(leg.started_s, leg.expected_s)
        if silence.is_lost(known, last=last) and self._copied():
            return
        if silence.is_late(known):
            leg.endpoint.on_doubt()
        self._look_after(leg)

    def _may_be_copied(self) -> bool:
        hedged = self._means.hedging is not None and self._trip.hedged
        return hedged and not self.future.done() and len(self._means.endpoints.all()) > 1

    def _waits_for(self, leg: _Leg[T]) -> bool:
        """Whether that call, and no other, is still under way."""
        with self._lock:
            return not self._ended and self._legs == [leg] and not self.future.done()

    def _copied(self) -> bool:
        """Whether there was another endpoint for a copy."""
        chosen = self._means.endpoints.acquire(self._trip.wanted, self._besides, copy=True)
        if chosen is not None:
            self._call(*chosen, self._means.clock(), paid=True)
        return chosen is not None

    def _other_s(self, now_s: float) -> float:
        """What the best endpoint is expected to take that was not asked yet."""
        wanted = self._trip.wanted
        kind = kind_of(wanted.model, wanted.nbytes)
        others = (one for one in self._means.endpoints.all() if one.address not in self._besides)
        return min((one.expected_at(now_s, kind, wanted.nbytes, 0.0) for one in others), default=math.inf)

    def _plan(self, delay_s: float, what: Callable[[], None]) -> None:
        self._timer = self._means.later.call(delay_s, what)
        if self._timer is not None and self.future.done():
            self._timer.cancel()

    def _wait(self, now_s: float) -> bool:
        """Plans another round among those that may answer later; False if there are none, or no time."""
        if self._trip.patient and self._means.endpoints.awaits_first(now_s):
            left_s = math.inf if self._trip.deadline_s is None else self._trip.deadline_s - now_s
            return self._means.later.call(min(SOUGHT_EVERY_S, left_s), self._go) is not None
        if not self._trip.patient:
            return False
        endpoints, wanted = self._means.endpoints, self._trip.wanted
        coming = endpoints.coming(wanted)
        # TensorFlow Serving doesn't find what it is only loading.
        passing = {
            address
            for address, fault in self._faults.items()
            if fault.passing or (fault.fault is Fault.NOT_FOUND and address in coming)
        }
        on_trial = endpoints.on_trial(wanted)
        if not (passing or (self._unpaid and endpoints.others(wanted, self._besides))):
            return self._await_trial(on_trial, now_s) or self._ask_once_more()
        deadline_s = self._trip.deadline_s
        until_s = self._trip.start_s + self._means.timeout_s if deadline_s is None else deadline_s
        wait_s = min(RETRY_WAITS_S[min(self._round, len(RETRY_WAITS_S) - 1)], (until_s - now_s) / 2)
        if wait_s < LEAST_WAIT_S:
            return False
        self._round += 1
        self._asked = 0
        self._onward = Onward.PAID
        self._besides -= passing | on_trial.keys()
        return self._means.later.call(wait_s, self._go) is not None

    def _ask_once_more(self) -> bool:
        """Whether a server may be asked by now: a trial that ended while this was looking was seen by neither look."""
        may = self._asked < MAX_ATTEMPTS and not (self._asked_again or self._unpaid)
        again = may and self._means.endpoints.others(self._trip.wanted, self._besides)
        self._asked_again |= again
        return again and self._means.later.call(0.0, self._go) is not None

    def _await_trial(self, on_trial: dict[str, Endpoint], now_s: float) -> bool:
        """Waits for what a request finds out that tries a server after that had failed; False if there is no time.

        And where the request itself was refused, by whomever: then that is the answer. Whoever has failed at the server
        before may ask it again.
        """
        if not on_trial or any(fault.refusal for fault in self._faults.values()):
            return False
        trip = self._trip
        end_s = trip.start_s + self._means.timeout_s if trip.deadline_s is None else trip.deadline_s
        if self._trial_until_s is None:
            kind = kind_of(trip.wanted.model, trip.wanted.nbytes)
            usual_s = max(one.usual_s(now_s, kind) for one in on_trial.values())
            half_s = 0.0 if trip.deadline_s is None else (end_s - now_s) / 2
            self._trial_until_s = min(now_s + max(TRIAL_S, _TRIAL_FACTOR * usual_s, half_s), end_s)
        wait_s = min(SOUGHT_EVERY_S * 2**self._looks, _LONGEST_LOOK_S, (self._trial_until_s - now_s) / 2)
        if wait_s < LEAST_WAIT_S / 2:
            return False
        self._looks = min(self._looks + 1, _MAX_LOOKS)
        self._asked = 0
        self._besides -= on_trial.keys()
        for endpoint in on_trial.values():
            endpoint.await_probe(now_s + wait_s + _TRIAL_SLACK_S, end_s)
        return self._means.later.call(wait_s, self._go) is not None

    def _done(self, leg: _Leg[T], call: Future[T]) -> None:
        if call.cancelled():
            return
        error = call.exception()
        now_s = self._means.clock()
        with self._lock:
            if self._ended:
                return
            self._legs.remove(leg)
            others = list(self._legs)
            if error is None:
                self._ended = True
                lost = [_tried(other, "cancelled", now_s) for other in others]
                self.before = (*self._tried, *lost)
            elif isinstance(error, RemoteFault):
                late = error.fault is Fault.DEADLINE
                self._tried.append(_tried(leg, "late" if late else f"failed: {error.said}", now_s))
                self._faults[error.address] = error
                self._onward = error.onward
                if not (self._onward is Onward.PAID or error.refusal or leg.paid):
                    self._asked -= 1
        self._learn(leg, error, now_s)
        if error is None:
            self._answer(leg, call.result(), others, now_s)
        elif not isinstance(error, RemoteFault):
            self._fail(error)
        else:
            if self._trip.requests and (error.refusal or error.unfit):
                self._means.endpoints.unfit(self._trip.wanted, error)
            if not others:  # Else the one that is still under way may answer.
                self._go()

    def _learn(self, leg: _Leg[T], error: BaseException | None, now_s: float) -> None:
        """What an endpoint has refused, or answered again, decides who is asked first next time."""
        key, refusals = self._trip.wanted.key, leg.endpoint.refusals
        if error is None:
            news = refusals.answered(key)
        else:
            news = isinstance(error, RemoteFault) and refusals.failed(key, error, now_s)
        if news:
            self._means.endpoints.news()
        if isinstance(error, RemoteFault) and error.fault is Fault.NOT_FOUND:
            self._hold_to_its_word(leg, 0, now_s)

    def _hold_to_its_word(self, leg: _Leg[T], version: int, now_s: float) -> None:
        """What an endpoint does is held against what it says that it serves."""
        endpoint, wanted = leg.endpoint, self._trip.wanted
        said = promised(endpoint.catalog, wanted.key)
        if endpoint.word.did(wanted.key, said, version, endpoint.told_s, now_s):
            does = f"it answers as version {version}" if version else "it does not find it"
            text = f"it says that it serves version {said.version}, and {does}"
            self._means.endpoints.complain(wanted, RemoteFault(Fault.INTERNAL, leg.address, text, unfit=True))
            self._means.endpoints.news()

    def _answer(self, leg: _Leg[T], answer: T, others: list[_Leg[T]], now_s: float) -> None:
        self._note(leg, others, now_s)
        endpoints, wanted = self._means.endpoints, self._trip.wanted
        if self._trip.requests:
            endpoints.fit(wanted, leg.address)
            if isinstance(answer, Reply):
                self._hold_to_its_word(leg, answer.version, now_s)
        for fault in self._faults.values():
            if fault.refusal:  # What another takes.
                endpoints.complain(wanted, fault)
        self._stop(others)
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def _note(self, leg: _Leg[T], others: list[_Leg[T]], now_s: float) -> None:
        """Tells what the answer took; and of the first endpoint, that it would have taken longer than its copy.

        Without that its slow answers would never be seen, and the percentile that copies wait for sink with each.
        """
        hedging = self._means.hedging
        if hedging is None or not self._trip.hedged:
            return
        model = self._trip.wanted.model
        for one in (leg, *others):
            if one is leg or one.started_s < leg.started_s:
                hedging.took(one.address, model, now_s - one.started_s)

    def _nobody(self) -> EdgeRuntimeError:
        return self._refusal() or self._failure()

    def _refusal(self) -> InvalidInput | ServerRefused | None:
        """The first refusal, where all that have the version refused; None where one of them failed otherwise."""
        faults = list(self._faults.values())
        first = next((fault for fault in faults if fault.refusal), None)
        if first is None or not all(fault.refusal or fault.lacking for fault in faults):
            return None
        kind = InvalidInput if first.fault is Fault.INVALID_INPUT else ServerRefused
        error = kind(f"{self._trip.subject}: refused by server {first.address}: {first.detail}")
        error.tried = tuple(self._tried)
        return error

    def _failure(self) -> ServerFailed:
        asked = {address: fault.said for address, fault in self._faults.items()}
        lacking = all(fault.lacking for fault in self._faults.values())
        known = self._means.endpoints.lacking(self._trip.wanted)
        for endpoint in self._means.endpoints.all():
            if endpoint.address in self._faults:
                continue
            lacks = endpoint in known
            lacking = lacking and (lacks or endpoint.unreachable)
            asked[endpoint.address] = why_not_asked(endpoint, lacks=lacks) or self._why_not_asked()
        return ServerFailed(self._trip.subject, asked, lacking=lacking, tried=self._tried)

    def _why_not_asked(self) -> str:
        if self._unpaid:
            return "not asked, too many requests were asked again already"
        return f"not asked, {MAX_ATTEMPTS} others were"

    def _late(self) -> DeadlineExceeded:
        trip = self._trip
        spent_ms = (self._means.clock() - trip.start_s) * 1e3
        stage = "asking " + (", ".join(self._faults) or "no server yet")
        limit_ms = spent_ms if trip.deadline_s is None else (trip.deadline_s - trip.start_s) * 1e3
        return DeadlineExceeded(trip.subject, limit_ms, {stage: spent_ms})

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self.before = tuple(self._tried)
            others = list(self._legs)
        self._stop(others)
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _cancel(self, future: Future[T]) -> None:
        if not future.cancelled():
            return
        with self._lock:
            self._ended = True
            others = list(self._legs)
        self._stop(others)

    def _stop(self, legs: list[_Leg[T]]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for leg in legs:
            if leg.call is not None:
                leg.call.cancel()


def _tried(leg: _Leg[T], outcome: str, now_s: float) -> Tried:
    return Tried(place=f"server:{leg.address}", outcome=outcome, ms=(now_s - leg.started_s) * 1e3)
