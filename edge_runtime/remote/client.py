"""An Executor over all endpoints: asks the best, and on a failure the next, within the deadline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from converter.artifact import Signature
from edge_runtime.errors import DeadlineExceeded, InvalidInput, ServerFailed, ServerRefused
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.types import InferRequest, Reply
from fallback_server.protocol.status import Fault

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Endpoints that one request asks: a request that three servers could not answer would only add to their load."""

_MAX_DESCRIBED = 256
"""Versions whose signatures are remembered."""


class RemoteClient:
    """Sends requests to servers. Thread-safe."""

    def __init__(self, endpoints: EndpointTable, *, clock: Callable[[], float], timeout_s: float) -> None:
        """Takes the table that sources keep.

        Args:
            endpoints: Which servers there are.
            clock: Monotonic seconds.
            timeout_s: The longest that one call may take where the request has no deadline.
        """
        self.endpoints = endpoints
        self._clock = clock
        self._timeout_s = timeout_s
        self._described: dict[tuple[str, int], dict[str, Signature]] = {}

    def __repr__(self) -> str:
        return f"<RemoteClient {self.endpoints!r}>"

    @property
    def expected_s(self) -> float | None:
        """Seconds in which the best endpoint should answer; None if none may be asked now."""
        best = self.endpoints.pick()
        return None if best is None else best.expected_s

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`."""
        return self.submit(request).result()

    def submit(self, request: InferRequest) -> Future[Reply]:
        """See `Executor`. The future holds a ServerFailed where no endpoint answered."""

        def ask(endpoint: Endpoint, timeout_s: float) -> Future[Reply]:
            return endpoint.predict(request, timeout_s)

        return _Journey(self, request.subject, request.start_s, request.deadline_s, ask).future

    def describe(
        self, model: str, version: int | None, label: str | None, start_s: float, deadline_s: float | None
    ) -> Future[dict[str, Signature]]:
        """The signatures of a version, by name: remembered for numbered versions, since a version never changes."""
        key = (model, version) if version is not None else None
        if key in self._described:
            known: Future[dict[str, Signature]] = Future()
            known.set_result(self._described[key])
            return known

        def ask(endpoint: Endpoint, timeout_s: float) -> Future[dict[str, Signature]]:
            return endpoint.describe(model, version, label, timeout_s)

        subject = f"{model}/{version or label or 'latest'}"
        future = _Journey(self, subject, start_s, deadline_s, ask).future

        def remember(done: Future[dict[str, Signature]]) -> None:
            if key is not None and not done.cancelled() and done.exception() is None:
                while len(self._described) >= _MAX_DESCRIBED:
                    self._described.pop(next(iter(self._described)), None)
                self._described[key] = done.result()

        future.add_done_callback(remember)
        return future

    def remaining_s(self, deadline_s: float | None) -> float:
        """Seconds that a call may take that starts now."""
        return self._timeout_s if deadline_s is None else min(deadline_s - self._clock(), self._timeout_s)

    def now_s(self) -> float:
        """The instant."""
        return self._clock()

    def close(self) -> None:
        """Closes every connection."""
        self.endpoints.close()


class _Journey(Generic[T]):
    """One request's way from endpoint to endpoint; goes on in gRPC's threads.

    Attributes:
        future: The answer, or an EdgeRuntimeError. Cancelling it cancels the call in flight.
    """

    def __init__(
        self,
        client: RemoteClient,
        subject: str,
        start_s: float,
        deadline_s: float | None,
        ask: Callable[[Endpoint, float], Future[T]],
    ) -> None:
        self.future: Future[T] = Future()
        self._client = client
        self._subject = subject
        self._start_s = start_s
        self._deadline_s = deadline_s
        self._ask = ask
        self._faults: dict[str, RemoteFault] = {}
        self._call: Future[T] | None = None
        self.future.add_done_callback(self._cancel)
        self._next()

    def _next(self) -> None:
        remaining_s = self._client.remaining_s(self._deadline_s)
        if remaining_s <= 0:
            self._fail(self._late())
            return
        endpoint = None
        if len(self._faults) < MAX_ATTEMPTS:
            endpoint = self._client.endpoints.pick(besides=self._faults)
        if endpoint is None:
            self._fail(self._nobody())
            return
        self._call = self._ask(endpoint, remaining_s)
        self._call.add_done_callback(self._done)

    def _done(self, call: Future[T]) -> None:
        if call.cancelled() or self.future.cancelled():
            return
        error = call.exception()
        if error is None:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(call.result())
        elif not isinstance(error, RemoteFault):
            self._fail(error)
        elif error.fault is Fault.INVALID_INPUT:
            self._fail(InvalidInput(f"{self._subject}: refused by server {error.address}: {error.detail}"))
        elif error.fault is Fault.PRECONDITION:
            self._fail(ServerRefused(f"{self._subject}: refused by server {error.address}: {error.detail}"))
        else:
            self._faults[error.address] = error
            self._next()

    def _nobody(self) -> ServerFailed:
        asked = {address: fault.detail for address, fault in self._faults.items()}
        for endpoint in self._client.endpoints.all():
            asked.setdefault(endpoint.address, f"not asked, it failed before (breaker {endpoint.state.value})")
        faults = {fault.fault for fault in self._faults.values()}
        return ServerFailed(self._subject, asked, lacking=faults <= {Fault.NOT_FOUND, Fault.NOT_READY})

    def _late(self) -> DeadlineExceeded:
        spent_ms = (self._client.now_s() - self._start_s) * 1e3
        stage = "asking " + (", ".join(self._faults) or "no server yet")
        limit_ms = spent_ms if self._deadline_s is None else (self._deadline_s - self._start_s) * 1e3
        return DeadlineExceeded(self._subject, limit_ms, {stage: spent_ms})

    def _fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _cancel(self, future: Future[T]) -> None:
        if future.cancelled() and self._call is not None:
            self._call.cancel()
