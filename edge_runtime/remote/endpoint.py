"""One server: its channel, its breaker, and what it is expected to take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from edge_runtime.remote.answer_time import AnswerTime
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.routing.breaker import Breaker, BreakerState, Permit
from fallback_server.protocol.methods import (
    GET_MODEL_METADATA,
    PREDICT,
    TENSOR_CONTENT_METADATA,
    UNLIMITED_MESSAGES,
    Method,
)
from fallback_server.protocol.status import Fault

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_CHANNEL_OPTIONS = (
    *UNLIMITED_MESSAGES,
    # gRPC's own back-off grows to two minutes; the breaker decides when to try again, and then it must really try.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name how long connecting may take: two round trips and a slow board's handshake fit many times.
    ("grpc.min_reconnect_backoff_ms", 3000),
    # Without it two channels to one address share a connection, and a fresh one would inherit the old one's state.
    ("grpc.use_local_subchannel_pool", 1),
    # The servers are on this network: a proxy that the environment names for the web would be asked for them.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True)
class Turn:
    """One call's leave to go out; used for exactly one `Endpoint.call`.

    Attributes:
        permit: The breaker's.
        number: The answer time's.
    """

    permit: Permit
    number: int


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
        self._time = AnswerTime(clock)
        self._unreachable = False
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        methods: tuple[Method[Any, Any], ...] = (PREDICT, GET_MODEL_METADATA)
        self._bound: dict[str, Any] = {method.path: method.bind(self._channel) for method in methods}

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}, {self._breaker.state.value}, {self._time.in_flight} in flight>"

    @property
    def allows(self) -> bool:
        """Whether the breaker would let a request through now."""
        with self._lock:
            return self._breaker.allows

    @property
    def state(self) -> BreakerState:
        """The breaker's state."""
        with self._lock:
            return self._breaker.state

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        with self._lock:
            return self._time.in_flight

    @property
    def unreachable(self) -> bool:
        """Whether the latest call found nobody there."""
        with self._lock:
            return self._unreachable

    @property
    def expected_s(self) -> float:
        """Seconds in which it is expected to answer one more request."""
        with self._lock:
            return self._time.expected_s

    def reset(self) -> None:
        """The server was announced anew: what was held against it is forgotten."""
        with self._lock:
            self._breaker.reset()
            self._time.forget()
            self._unreachable = False

    def try_begin(self) -> Turn | None:
        """Takes leave for one call, which must follow; None if the breaker lets none through."""
        with self._lock:
            permit = self._breaker.acquire()
            return None if permit is None else Turn(permit, self._time.begin())

    def call(
        self,
        turn: Turn,
        method: Method[Request, Response],
        message: Request,
        deadline_s: float,
        read: Callable[[Response], T],
        *,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Future[T]:
        """Sends a message; the future holds what `read` makes of the answer, or a RemoteFault.

        Cancelling the future ends the call. Nothing is raised, and the turn is over when the future is.

        Args:
            turn: From `try_begin`.
            method: Which call.
            message: What goes.
            deadline_s: The instant at which the call ends as late. That, or being cancelled, is held against the server
                where it had at least as long as it usually takes to answer.
            read: What it raises is the answer's fault.
            metadata: Goes with the request, beside what always does.
        """
        future: Future[T] = Future()
        try:
            call = self._bound[method.path].future(
                message, timeout=max(deadline_s - self._clock(), 0.0), metadata=(TENSOR_CONTENT_METADATA, *metadata)
            )
        except Exception as error:  # noqa: BLE001  a closed channel, or a message that gRPC can't take: nobody was asked
            self._settle(turn, None)
            closed = isinstance(error, ValueError)
            fault = Fault.NOT_READY if closed else Fault.INTERNAL
            words = error.details() if isinstance(error, grpc.Call) else error
            future.set_exception(RemoteFault(fault, self.address, f"not sent: {words}", unreachable=closed))
            return future

        def cancel(future: Future[T]) -> None:
            if future.cancelled():
                # Callers give up at the same instant as gRPC: without this a server that hangs would never be blamed.
                self._settle(turn, RemoteFault(Fault.DEADLINE, self.address, "cancelled"))
                call.cancel()

        future.add_done_callback(cancel)
        call.add_done_callback(lambda call: self._finish(call, turn, future, read))
        return future

    def close(self) -> None:
        """Closes the channel; calls in flight end as failed."""
        self._channel.close()

    def _finish(self, call: Any, turn: Turn, future: Future[T], read: Callable[[Any], T]) -> None:
        code = call.code()
        if code is grpc.StatusCode.OK:
            self._settle(turn, None, answered=True)
        else:
            fault = RemoteFault.of_status(code, self.address, call.details())
            self._settle(turn, fault)
        if not future.set_running_or_notify_cancel():
            return
        if code is not grpc.StatusCode.OK:
            future.set_exception(fault)
            return
        try:
            future.set_result(read(call.result()))
        except Exception as error:  # noqa: BLE001  whatever a foreign server's answer does to us is that call's fault
            future.set_exception(RemoteFault(Fault.INTERNAL, self.address, f"unreadable answer: {error}"))

    def _settle(self, turn: Turn, fault: RemoteFault | None, *, answered: bool = False) -> None:
        """Ends a turn, once. Neither `fault` nor `answered`: the call said nothing of the server."""
        with self._lock:
            took_s = self._time.end(turn.number)
            if took_s is None:
                return
            if answered:
                self._time.answered(took_s)
            if fault is not None and fault.fault is Fault.DEADLINE and not self._time.late(took_s):
                fault = None  # A server that was given less time than it usually takes has not failed.
            if answered or (fault is not None and fault.alive):
                self._unreachable = False
                self._breaker.succeeded(turn.permit)
            elif fault is None:
                self._breaker.abandoned(turn.permit)
            else:
                self._unreachable = fault.unreachable
                self._breaker.failed(turn.permit)
