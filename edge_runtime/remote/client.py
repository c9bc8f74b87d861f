"""An Executor over all endpoints: asks the best, and on a failure the next, within the deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.remote import codec
from edge_runtime.remote.endpoint import Endpoint, Turn
from edge_runtime.remote.endpoints import EndpointTable, Wanted
from edge_runtime.remote.journey import Journey, Trip
from edge_runtime.remote.timers import Later, Timers
from edge_runtime.routing.policy import REASON_VERSION_DAMAGED, REASON_VERSION_MISSING
from edge_runtime.types import InferRequest, Reply
from fallback_server.protocol.methods import GET_MODEL_METADATA, PREDICT

T = TypeVar("T")

_NOBODY_ELSE = frozenset({REASON_VERSION_MISSING, REASON_VERSION_DAMAGED})
"""Reasons for which the device can't answer itself."""

_MAX_DESCRIBED = 256
"""Versions whose signatures are remembered."""


class RemoteClient:
    """Sends requests to servers. Thread-safe."""

    def __init__(
        self,
        endpoints: EndpointTable,
        *,
        clock: Callable[[], float],
        timeout_s: float,
        later: Later | None = None,
    ) -> None:
        """Takes the table that sources keep.

        Args:
            endpoints: Which servers there are.
            clock: Monotonic seconds.
            timeout_s: The longest that one call may take where the request has no deadline.
            later: Waits before a request asks again; None for a thread of its own.
        """
        self.endpoints = endpoints
        self._clock = clock
        self._timeout_s = timeout_s
        self._later = Timers() if later is None else later
        self._described: dict[tuple[str, int], dict[str, Signature]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RemoteClient {self.endpoints!r}>"

    def expects(self, request: InferRequest) -> float | None:
        """Seconds in which the best endpoint should answer it; None if none may be asked, or none has the version."""
        return self.endpoints.expects(Wanted.of(request))

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`."""
        return self.submit(request).result()

    def submit(self, request: InferRequest) -> Future[Reply]:
        """See `Executor`. The future holds a ServerFailed where no endpoint answered.

        A request that nobody else can answer (its reason is that the version is not on the device) is asked again,
        after a short wait that doubles, where a server is loading or its queue full.
        """
        try:
            message = codec.predict_request(request)
        except (ValueError, TypeError) as error:
            refused: Future[Reply] = Future()
            refused.set_exception(InvalidInput(f"{request.subject}: can't be sent to a server: {error}"))
            return refused

        def ask(endpoint: Endpoint, turn: Turn, deadline_s: float) -> Future[Reply]:
            return endpoint.call(
                turn,
                PREDICT,
                message,
                deadline_s,
                lambda response: codec.reply(request, response, endpoint.address, self._clock()),
            )

        patient = request.reason in _NOBODY_ELSE
        trip = Trip(request.subject, Wanted.of(request), request.start_s, request.deadline_s, patient=patient)
        return self._travel(trip, ask)

    def describe(
        self, model: str, version: int | None, label: str | None, start_s: float, deadline_s: float | None
    ) -> Future[dict[str, Signature]]:
        """The signatures of a version, by name: remembered for numbered versions, since a version never changes."""
        key = (model, version) if version is not None else None
        with self._lock:
            known = self._described.get(key) if key is not None else None
        if known is not None:
            done: Future[dict[str, Signature]] = Future()
            done.set_result(known)
            return done

        message = codec.metadata_request(model, version, label)

        def ask(endpoint: Endpoint, turn: Turn, deadline_s: float) -> Future[dict[str, Signature]]:
            return endpoint.call(turn, GET_MODEL_METADATA, message, deadline_s, codec.signatures)

        subject = f"{model}/{version or label or 'latest'}"
        wanted = Wanted(model, version, label, 0)
        future = self._travel(Trip(subject, wanted, start_s, deadline_s, patient=True), ask)

        def remember(done: Future[dict[str, Signature]]) -> None:
            if key is None or done.cancelled() or done.exception() is not None:
                return
            with self._lock:
                while len(self._described) >= _MAX_DESCRIBED:
                    del self._described[next(iter(self._described))]
                self._described[key] = done.result()

        future.add_done_callback(remember)
        return future

    def close(self) -> None:
        """Closes every connection. What waits to ask again fails now."""
        self.endpoints.close()
        self._later.close()

    def _travel(self, trip: Trip, ask: Callable[[Endpoint, Turn, float], Future[T]]) -> Future[T]:
        return Journey(trip, self.endpoints, self._later, ask, clock=self._clock, timeout_s=self._timeout_s).future
