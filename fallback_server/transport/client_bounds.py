"""What clients may hold of gRPC's port, as gRPC is told it; by itself it bounds none of this.

An operator's `--grpc_channel_arguments` win. The native server has its own, of which it can be told streams alone.
"""

from __future__ import annotations

from fallback_server.descriptors import grpc_connections

MAX_STREAMS = 1024
"""Calls of one connection under way. Further ones wait at clients that keep to HTTP/2, and are reset at those that
don't: nobody has an endless number over one connection, nor gets ahead of others by resetting calls that the server has
yet to work off. It is the native server's number."""

HANDSHAKE_MS = 20_000
"""For TLS and HTTP/2's first frames; gRPC's own is two minutes. REST has as long for the head of a request."""

IDLE_MS = 617_000
"""After its last call a connection is told to go, and gRPC's clients come again with the next call. One that is sent in
that very moment may end as UNAVAILABLE: no round number, as that is what clients have that call at every so often. A
device that was switched off says nothing, and would have its place for ever."""

_NO_BOUND = 2**31 - 2
"""gRPC takes one more for no number of connections at all, and ends the process."""

_STREAMS, _CONNECTIONS = "grpc.max_concurrent_streams", "grpc.max_allowed_incoming_connections"
_HANDSHAKE, _IDLE = "grpc.server_handshake_timeout_ms", "grpc.max_connection_idle_ms"

_PING, _METADATA = "grpc.http2.ping_timeout_ms", "grpc.absolute_max_metadata_size"
_RECEIVED, _SENT = "grpc.max_receive_message_length", "grpc.max_send_message_length"

_LARGEST = 2**31 - 1

_BOUNDED = {
    **dict.fromkeys((_STREAMS, _HANDSHAKE, _IDLE, _PING, _METADATA), (1, _LARGEST)),
    _CONNECTIONS: (1, _NO_BOUND),
}
"""What gRPC itself ends the process for otherwise, or every call, or without a word answers nobody."""

_NOT_ZERO = (_RECEIVED, _SENT)
"""Less than nothing is no bound there."""

NONE = ((_STREAMS, _NO_BOUND), (_CONNECTIONS, _NO_BOUND), (_IDLE, _NO_BOUND))
"""Where nobody comes but this server's own processes."""


def fault_of(key: str, value: int | str) -> str:
    """What is wrong with an argument that gRPC would be given, in words; empty where nothing is known of."""
    if key in _NOT_ZERO and value == 0:
        return f"--grpc_channel_arguments={key} must not be 0: no message would be taken or sent"
    least, most = _BOUNDED.get(key, (0, 0))
    if key not in _BOUNDED or (isinstance(value, int) and least <= value <= most):
        return ""
    return f"--grpc_channel_arguments={key} must be a whole number from {least} to {most}, got {value!r}"


def client_bounds() -> tuple[tuple[str, int], ...]:
    """For the port, by how many descriptors the process may have."""
    return (
        (_STREAMS, MAX_STREAMS),
        # Else gRPC counts those that are over, and not cleared away, as well: clients, who can't know of these, would
        # have half the calls of a burst reset, as UNAVAILABLE.
        ("grpc.http.overload_protection", 0),
        (_CONNECTIONS, grpc_connections()),
        (_HANDSHAKE, HANDSHAKE_MS),
        (_IDLE, IDLE_MS),
    )
