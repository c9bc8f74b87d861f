"""An Executor over all endpoints: asks the best, and on a failure the next, within the deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from converter.artifact import Signature
from edge_runtime.remote import codec
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.coalescer import Coalescer
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.hedging import Hedging
from edge_runtime.remote.journey import Journey
from edge_runtime.remote.retries import Retries
from edge_runtime.remote.sender import Sender
from edge_runtime.remote.timers import Later, Timers
from edge_runtime.remote.told import why_not_asked
from edge_runtime.remote.trip import Means, Trip
from edge_runtime.remote.turn import Turn
from edge_runtime.routing.budget import Budget
from edge_runtime.routing.policy import REASON_HEDGED, REASON_VERSION_DAMAGED, REASON_VERSION_MISSING
from edge_runtime.types import Awaited, InferRequest, Reply
from fallback_server.protocol.methods import GET_MODEL_METADATA, PREDICT

T = TypeVar("T")

_NOBODY_ELSE = frozenset({REASON_VERSION_MISSING, REASON_VERSION_DAMAGED})
"""Reasons for which the device can't answer itself."""

_MAX_DESCRIBED = 256
"""Versions whose signatures are remembered."""


class RemoteClient:
    """Sends requests to servers. Thread-safe.

    Attributes:
        endpoints: Which servers there are.
        hedging: When a copy goes to a second server; None for never.
        hedged: Whether a model's requests may have copies.
    """

    def __init__(
        self,
        endpoints: EndpointTable,
        *,
        clock: Callable[[], float],
        timeout_s: float,
        later: Later | None = None,
        hedges: Budget | None = None,
        hedged: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Takes the table that sources keep.

        Args:
            endpoints: Which servers there are.
            clock: Monotonic seconds.
            timeout_s: The longest that one call may take where the request has no deadline.
            later: Waits before a request asks again; None for a thread of its own.
            hedges: What copies of late requests may be sent to a second server; None for no copies.
            hedged: Whether a model's requests may have copies.
        """
        self.endpoints = endpoints
        self._clock = clock
        self._later = Timers() if later is None else later
        self.hedging = None if hedges is None else Hedging(hedges)
        self.hedged = hedged
        self._means = Means(
            endpoints=endpoints,
            later=self._later,
            clock=clock,
            timeout_s=timeout_s,
            retries=Retries(clock),
            hedging=self.hedging,
        )
        self._sender = Sender()
        self._coalescer = Coalescer(_Carrier(self._means, hedged), self._later, self._sender, clock)
        self._described: dict[tuple[str, int], dict[str, Signature]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RemoteClient {self.endpoints!r}>"

    def expects(self, request: InferRequest) -> float | None:
        """Seconds in which the best endpoint should answer it; None if none may be asked, or none has the version."""
        expected_s = self.endpoints.expects(Wanted.of(request))
        return None if expected_s is None else expected_s + self._coalescer.waits_s(request)

    def awaits(self, request: InferRequest) -> bool:
        """Whether a server is loading what it asks for, or is being tried after it had failed."""
        wanted = Wanted.of(request)
        return bool(self.endpoints.coming(wanted) or self.endpoints.on_trial(wanted))

    def unasked(self, request: InferRequest) -> dict[str, str]:
        """Why each known server is not asked, by `host:port`, for errors."""
        lacking = self.endpoints.lacking(Wanted.of(request))
        return {
            one.address: why_not_asked(one, lacks=one in lacking) or "not asked now" for one in self.endpoints.all()
        }

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`."""
        return self.submit(request).result()

    def submit(self, request: InferRequest) -> Future[Reply]:
        """See `Executor`. The future holds a ServerFailed where no endpoint answered.

        A request that nobody else can answer (its reason is that the version is not on the device) is asked again,
        after a short wait that doubles, where a server is loading or its queue full.

        While others for the same model, version and signature are under way it waits for one of them to be answered,
        and goes with all that wait then, in one call. Its place is freed when its deadline passes, or it is cancelled.
        """
        if self.hedging is not None and request.reason != REASON_HEDGED and self.hedged(request.model):
            self.hedging.budget.earn()
        patient = request.reason in _NOBODY_ELSE or request.policy == "only_server"
        return self._coalescer.submit(request, patient=patient)

    def describe(
        self, model: str, version: int | None, label: str | None, start_s: float, deadline_s: float | None
    ) -> Future[dict[str, Signature]]:
        """The signatures of a version, by name: remembered for numbered versions, since a version never changes.

        The future is the caller's: cancelling it ends the question, and an interrupt in there holds up no other thread.
        """
        key = (model, version) if version is not None else None
        with self._lock:
            known = self._described.get(key) if key is not None else None
        if known is not None:
            done: Awaited[dict[str, Signature]] = Awaited()
            done.set_result(known)
            return done

        message = codec.metadata_request(model, version, label)

        def ask(endpoint: Endpoint, turn: Turn, deadline_s: float) -> Future[dict[str, Signature]]:
            return endpoint.call(
                turn, GET_MODEL_METADATA, message, deadline_s, lambda response: codec.signatures(response, version)
            )

        subject = f"{model}/{version or label or 'latest'}"
        wanted = Wanted(model, version, label, 0)
        journey = Journey(Trip(subject, wanted, start_s, deadline_s, patient=True, requests=0), self._means, ask)

        answer: Awaited[dict[str, Signature]] = Awaited()

        def told(done: Future[dict[str, Signature]]) -> None:
            if done.cancelled() or not answer.set_running_or_notify_cancel():
                return
            error = done.exception()
            if error is not None:
                answer.set_exception(error)
                return
            if key is not None:
                self._remember(key, done.result())
            answer.set_result(done.result())

        def give_up() -> None:
            journey.future.cancel()

        journey.future.add_done_callback(told)
        answer.add_done_callback(lambda done: self._sender.run(give_up) if done.cancelled() else None)
        self._sender.run(journey.set_out)
        return answer

    def _remember(self, key: tuple[str, int], signatures: dict[str, Signature]) -> None:
        with self._lock:
            while len(self._described) >= _MAX_DESCRIBED:
                del self._described[next(iter(self._described))]
            self._described[key] = signatures

    def close(self) -> None:
        """Closes every connection. What waits, to be sent or to ask again, fails now."""
        self._coalescer.close()
        self._sender.close()
        self.endpoints.close()
        self._later.close()


class _Carrier:
    """Sends what the coalescer has joined."""

    def __init__(self, means: Means, hedged: Callable[[str], bool]) -> None:
        self._means = means
        self._hedged = hedged

    def send(
        self, request: InferRequest, requests: int, *, patient: bool, soonest_s: float | None = None
    ) -> Journey[Reply]:
        """Sets out with one message; see `Carrier`.

        Raises:
            ValueError, TypeError: it has no wire form.
            TimeoutError: its deadline passed while the message was written.
        """
        clock = self._means.clock

        def hurry() -> None:
            if request.deadline_s is not None and clock() >= request.deadline_s:
                raise TimeoutError

        message = codec.predict_request(request, hurry)
        metadata = codec.metadata(request)

        def ask(endpoint: Endpoint, turn: Turn, deadline_s: float) -> Future[Reply]:
            return endpoint.call(
                turn,
                PREDICT,
                message,
                deadline_s,
                lambda response: codec.reply(request, response, endpoint.address, clock(), requests=requests),
                metadata=metadata,
            )

        trip = Trip(
            request.subject,
            Wanted.of(request),
            request.start_s,
            request.deadline_s,
            patient=patient,
            requests=requests,
            soonest_s=soonest_s,
            hedged=request.reason != REASON_HEDGED and self._hedged(request.model),  # A copy has no copies.
        )
        journey = Journey(trip, self._means, ask)
        journey.set_out()
        return journey

    def servers(self) -> int:
        """How many may be asked now."""
        return sum(endpoint.allows for endpoint in self._means.endpoints.all())

    def expects(self, request: InferRequest, nbytes: int) -> float | None:
        """Seconds in which a request of that size should be answered; None if none may be asked."""
        return self._means.endpoints.expects(Wanted(request.model, request.version, request.label, nbytes))
