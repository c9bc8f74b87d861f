"""One connection to a server: its channel, and the calls that are made over it."""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message

from edge_runtime.remote.bounds import SERVICE_CONFIG, read
from edge_runtime.remote.way import PLAIN, Way
from fallback_server.protocol.methods import (
    CATALOG_GET,
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    SERVER_MS_METADATA,
    UNLIMITED_MESSAGES,
    Method,
)

_CHANNEL_OPTIONS = (
    *UNLIMITED_MESSAGES,
    SERVICE_CONFIG,
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

_METHODS: tuple[Method[Any, Any], ...] = (PREDICT, GET_MODEL_METADATA, GET_MODEL_STATUS, CATALOG_GET)


class Received(NamedTuple):
    """A message that came, None for one that lists too much or is none; how many bytes it had; and why it is none.

    protobuf would have to write it again to count them.
    """

    message: Any
    nbytes: int
    error: str = ""


class Line:
    """A channel to one address. Thread-safe."""

    def __init__(self, address: str, way: Way = PLAIN) -> None:
        """Opens no connection yet: gRPC connects with the first call."""
        self._lock = threading.Lock()
        self._calls = 0
        self._channel = way.channel(address, _CHANNEL_OPTIONS)
        self._bound = {method.path: _bind(self._channel, method) for method in _METHODS}

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        with self._lock:
            return not self._calls

    def start(
        self,
        method: Method[Any, Any],
        message: Message | bytes,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...],
    ) -> Any:
        """Sends a message, or the bytes of one: gRPC's future, whose result is a Received.

        Raises:
            ValueError: the line has been closed.
            Exception: what gRPC raises at a message that it can't send.
        """
        call = self._bound[method.path].future(message, timeout=max(timeout_s, 0.0), metadata=metadata)
        with self._lock:
            self._calls += 1
        call.add_done_callback(self._ended)
        return call

    def close(self) -> None:
        """Closes the channel; calls in flight end as failed. Never from a call's own callback, which it waits for."""
        self._channel.close()

    def _ended(self, call: object) -> None:
        del call
        with self._lock:
            self._calls -= 1


def _bind(channel: grpc.Channel, method: Method[Any, Any]) -> Any:
    return channel.unary_unary(
        method.path,
        request_serializer=_serialized,
        response_deserializer=lambda data: _received(method, data),
    )


def _serialized(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _received(method: Method[Any, Any], data: bytes) -> Received:
    """What came. Nothing is raised: gRPC would write a traceback to the log for each such answer."""
    try:
        return Received(read(method, data), len(data))
    except DecodeError as error:
        return Received(None, len(data), str(error) or "no message")


def own_seconds(metadata: Any) -> float | None:
    """The server's own time, as it says in its trailing metadata; None if it doesn't, or what it says can't be."""
    for key, value in metadata or ():
        if key == SERVER_MS_METADATA:
            try:
                own_s = float(value) / 1e3
            except ValueError:
                return None
            return own_s if math.isfinite(own_s) and own_s >= 0 else None
    return None
