"""One request's way from endpoint to endpoint, within its deadline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from edge_runtime.errors import DeadlineExceeded, InvalidInput, ServerFailed, ServerRefused
from edge_runtime.remote.endpoint import Endpoint, Turn
from edge_runtime.remote.endpoints import EndpointTable, Wanted
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.timers import Later
from fallback_server.protocol.status import Fault

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Endpoints that one request asks in a round: one that three could not answer would only add to their load."""

RETRY_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)
"""Waits before the further rounds of a request that nobody else can answer: a full queue is soon shorter, and a model
takes seconds to load."""


class Trip:
    """What a journey is for.

    Attributes:
        subject: `digits/3`, for messages.
        wanted: What an endpoint must have, and what has to be sent.
        start_s: The instant at which the caller asked.
        deadline_s: The instant after which an answer is worthless; None for never.
        patient: Whether to ask again, after a while, servers that are loading or full: nobody else can answer.
    """

    __slots__ = ("deadline_s", "patient", "start_s", "subject", "wanted")

    def __init__(
        self, subject: str, wanted: Wanted, start_s: float, deadline_s: float | None, *, patient: bool
    ) -> None:
        self.subject = subject
        self.wanted = wanted
        self.start_s = start_s
        self.deadline_s = deadline_s
        self.patient = patient
        self.wanted = wanted


class Journey(Generic[T]):
    """Goes on in gRPC's threads and the timer's.

    Attributes:
        future: The answer, or an EdgeRuntimeError. Cancelling it cancels the call in flight.
    """

    def __init__(
        self,
        trip: Trip,
        endpoints: EndpointTable,
        later: Later,
        ask: Callable[[Endpoint, Turn, float], Future[T]],
        *,
        clock: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """Sets out.

        Args:
            trip: What for.
            endpoints: Whom to ask.
            later: For the waits between rounds.
            ask: Sends the call to an endpoint, until an instant; raises nothing.
            clock: Monotonic seconds.
            timeout_s: The longest that one call may take.
        """
        self.future: Future[T] = Future()
        self._trip = trip
        self._endpoints = endpoints
        self._later = later
        self._ask = ask
        self._clock = clock
        self._timeout_s = timeout_s
        self._faults: dict[str, RemoteFault] = {}
        self._besides: set[str] = set()
        self._asked = 0
        self._round = 0
        self._call: Future[T] | None = None
        self.future.add_done_callback(self._cancel)
        self._go()

    def _go(self) -> None:
        """The next step. Whatever goes wrong ends in the future: these threads have nobody else to tell."""
        try:
            self._next()
        except Exception as error:  # noqa: BLE001  see above
            self._fail(error)

    def _next(self) -> None:
        if self.future.done():
            return
        now_s = self._clock()
        deadline_s = self._trip.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            self._fail(self._late())
            return
        chosen = self._endpoints.acquire(self._trip.wanted, self._besides) if self._asked < MAX_ATTEMPTS else None
        if chosen is None:
            if not self._wait(now_s):
                self._fail(self._nobody())
            return
        endpoint, turn = chosen
        self._asked += 1
        self._besides.add(endpoint.address)
        until_s = now_s + self._timeout_s
        self._call = self._ask(endpoint, turn, until_s if deadline_s is None else min(deadline_s, until_s))
        self._call.add_done_callback(self._done)
        if self.future.cancelled():  # While the call was being sent: then nobody has told it.
            self._call.cancel()

    def _wait(self, now_s: float) -> bool:
        """Plans another round among those that may answer later; False if there are none, or no time."""
        passing = {address for address, fault in self._faults.items() if fault.passing}
        if not (self._trip.patient and passing and self._round < len(RETRY_WAITS_S)):
            return False
        wait_s = RETRY_WAITS_S[self._round]
        if self._trip.deadline_s is not None and now_s + wait_s >= self._trip.deadline_s:
            return False
        self._round += 1
        self._asked = 0
        self._besides -= passing
        return self._later.call(wait_s, self._go) is not None

    def _done(self, call: Future[T]) -> None:
        if call.cancelled() or self.future.cancelled():
            return
        error = call.exception()
        subject = self._trip.subject
        if error is None:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(call.result())
        elif not isinstance(error, RemoteFault):
            self._fail(error)
        elif error.fault is Fault.INVALID_INPUT:
            self._fail(InvalidInput(f"{subject}: refused by server {error.address}: {error.detail}"))
        elif error.fault is Fault.PRECONDITION:
            self._fail(ServerRefused(f"{subject}: refused by server {error.address}: {error.detail}"))
        else:
            self._faults[error.address] = error
            self._go()

    def _nobody(self) -> ServerFailed:
        asked = {address: fault.said for address, fault in self._faults.items()}
        lacking = all(fault.lacking for fault in self._faults.values())
        for endpoint in self._endpoints.all():
            if endpoint.address in self._faults:
                continue
            if endpoint.unreachable:
                asked[endpoint.address] = f"can't be reached, not asked again (breaker {endpoint.state.value})"
                continue
            lacking = False
            state = endpoint.state.value
            asked[endpoint.address] = (
                f"not asked, {MAX_ATTEMPTS} others were"
                if endpoint.allows
                else f"not asked, it failed before (breaker {state})"
            )
        return ServerFailed(self._trip.subject, asked, lacking=lacking)

    def _late(self) -> DeadlineExceeded:
        trip = self._trip
        spent_ms = (self._clock() - trip.start_s) * 1e3
        stage = "asking " + (", ".join(self._faults) or "no server yet")
        limit_ms = spent_ms if trip.deadline_s is None else (trip.deadline_s - trip.start_s) * 1e3
        return DeadlineExceeded(trip.subject, limit_ms, {stage: spent_ms})

    def _fail(self, error: BaseException) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _cancel(self, future: Future[T]) -> None:
        if future.cancelled() and self._call is not None:
            self._call.cancel()
