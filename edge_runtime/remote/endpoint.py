"""One server: its channel, its breaker, and what it is expected to take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

from converter.artifact import Signature
from edge_runtime.remote import codec
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.routing.breaker import Breaker, BreakerState
from edge_runtime.types import InferRequest, Reply
from fallback_server.protocol.methods import GET_MODEL_METADATA, PREDICT, UNLIMITED_MESSAGES
from fallback_server.protocol.status import Fault

_CHANNEL_OPTIONS = (
    *UNLIMITED_MESSAGES,
    # gRPC's own back-off grows to two minutes; the breaker decides when to try again, and then it must really try.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Without it two channels to one address share a connection, and a fresh one would inherit the old one's state.
    ("grpc.use_local_subchannel_pool", 1),
)

_SMOOTHING = 0.2
"""Weight of the newest answer: some ten answers follow a server that slows down."""

_UNKNOWN_S = 0.010
"""What is expected of a server that has not answered yet: little, so that it is tried."""

_ALIVE = frozenset({Fault.INVALID_INPUT, Fault.NOT_FOUND, Fault.QUEUE_FULL, Fault.PRECONDITION, Fault.UNIMPLEMENTED})
"""Faults that a healthy server answers with."""

_HALF_LIFE_S = 2.0
"""An estimate that has grown is forgotten at this pace while nothing is sent, else a server that was once slow would
never be tried again."""


class Endpoint:
    """A server at one address. Thread-safe.

    Attributes:
        address: `host:port`.
    """

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        """Opens no connection yet: gRPC connects with the first call."""
        self.address = address
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = Breaker(clock)
        self._answer_s = _UNKNOWN_S
        self._answered_s = clock()
        self._in_flight = 0
        self._connect()

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}, {self._breaker.state.value}, {self._in_flight} in flight>"

    @property
    def allows(self) -> bool:
        """Whether the breaker lets a request through now."""
        with self._lock:
            return self._breaker.allows

    @property
    def state(self) -> BreakerState:
        """The breaker's state."""
        with self._lock:
            return self._breaker.state

    @property
    def expected_s(self) -> float:
        """Seconds in which it is expected to answer one more request."""
        idle_s = max(self._clock() - self._answered_s, 0.0)
        forgotten: float = 0.5 ** (idle_s / _HALF_LIFE_S)
        return self._answer_s * forgotten

    def reset(self) -> None:
        """The server was announced anew: what was held against it is forgotten."""
        with self._lock:
            self._breaker.succeeded()
            self._answer_s = _UNKNOWN_S

    def predict(self, request: InferRequest, timeout_s: float) -> Future[Reply]:
        """Sends the request; the future holds the reply or a RemoteFault. Cancelling it cancels the call."""
        message = codec.predict_request(request)

        def reply(response: Any) -> Reply:
            return codec.reply(request, response, self.address, self._clock())

        return self._call(self._predict, message, timeout_s, reply)

    def describe(
        self, model: str, version: int | None, label: str | None, timeout_s: float
    ) -> Future[dict[str, Signature]]:
        """Asks for the signatures of a version, by name; the future holds them or a RemoteFault."""
        message = codec.metadata_request(model, version, label)
        return self._call(self._metadata, message, timeout_s, codec.signatures)

    def close(self) -> None:
        """Closes the channel; calls in flight end as failed."""
        self._channel.close()

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        self._predict = PREDICT.bind(self._channel)
        self._metadata = GET_MODEL_METADATA.bind(self._channel)

    def _call(self, method: Any, message: Any, timeout_s: float, read: Callable[[Any], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._breaker.begin()
            self._in_flight += 1
        started_s = self._clock()
        try:
            call = method.future(message, timeout=max(timeout_s, 0.0))
        except ValueError as error:  # The channel has been closed: the server went while we chose it.
            self._settle(Fault.NOT_READY, started_s)
            future.set_exception(RemoteFault(Fault.NOT_READY, self.address, str(error)))
            return future

        def done(call: Any) -> None:
            self._finish(call, future, started_s, read)

        def cancel(future: Future[Any]) -> None:
            if future.cancelled():
                call.cancel()

        call.add_done_callback(done)
        future.add_done_callback(cancel)
        return future

    def _finish(self, call: Any, future: Future[Any], started_s: float, read: Callable[[Any], Any]) -> None:
        code = call.code()
        if code is grpc.StatusCode.CANCELLED and future.cancelled():
            self._settle(None, started_s, cancelled=True)
            return
        fault = None if code is grpc.StatusCode.OK else Fault.of(code)
        self._settle(fault, started_s)
        if not future.set_running_or_notify_cancel():
            return
        if fault is not None:
            future.set_exception(RemoteFault(fault, self.address, call.details() or code.name))
            return
        try:
            future.set_result(read(call.result()))
        except Exception as error:  # noqa: BLE001  whatever a foreign server's answer does to us is that call's fault
            future.set_exception(RemoteFault(Fault.INTERNAL, self.address, f"unreadable answer: {error}"))

    def _settle(self, fault: Fault | None, started_s: float, *, cancelled: bool = False) -> None:
        now_s = self._clock()
        took_s = now_s - started_s
        with self._lock:
            self._in_flight -= 1
            if cancelled:
                self._breaker.abandoned()
                return
            # A server that was given less time than it usually takes has not failed.
            hasty = fault is Fault.DEADLINE and took_s < self._answer_s
            if fault is None:
                self._answer_s += _SMOOTHING * (took_s - self._answer_s)
                self._answered_s = now_s
            elif fault is Fault.DEADLINE and not hasty:
                self._answer_s, self._answered_s = took_s, now_s
            if fault is None or fault in _ALIVE:
                self._breaker.succeeded()
            elif hasty:
                self._breaker.abandoned()
            else:
                self._breaker.failed()
