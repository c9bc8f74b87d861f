"""What gRPC's words mean for the endpoint."""

import grpc
import pytest

from edge_runtime.remote.faults import Apart, RemoteFault
from fallback_server.protocol.status import Fault


@pytest.mark.parametrize(
    ("code", "words", "kind", "flags"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", Fault.NOT_READY, "unreachable"),
        ("UNAVAILABLE", "Socket closed", Fault.NOT_READY, "broken"),
        ("UNKNOWN", "Stream removed (peer 10.0.0.7: Socket closed)", Fault.NOT_READY, "broken"),
        ("UNKNOWN", "it went wrong in the model", Fault.UNKNOWN, ""),
        ("RESOURCE_EXHAUSTED", "the queue is full", Fault.QUEUE_FULL, ""),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 4)", Fault.QUEUE_FULL, "too_large"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (9 vs. 4)", Fault.QUEUE_FULL, "too_large"),
        ("INVALID_ARGUMENT", "Unrecognized servable version label: stable", Fault.NOT_FOUND, ""),
        ("INVALID_ARGUMENT", "x has 3 values", Fault.INVALID_INPUT, ""),
        ("UNAVAILABLE", "version 2 is LOADING", Fault.NOT_READY, ""),
        ("INTERNAL", "the model read from a broken pipe", Fault.INTERNAL, ""),
    ],
)
def test_what_a_status_says_of_the_server(code, words, kind, flags):
    """A connection that broke is told from a server that answers, and from nobody being there."""
    fault = RemoteFault.of_status(grpc.StatusCode[code], "s:1", words)
    assert fault.fault is kind
    assert (fault.unreachable, fault.broken) == (flags == "unreachable", flags == "broken")
    assert fault.too_large == (flags == "too_large")


def test_what_is_too_large_is_not_sent_again_as_it_is():
    """A full queue passes and a server's limit doesn't; a server that works says either."""
    full = RemoteFault.of_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "s:1", "the queue is full")
    large = RemoteFault.of_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "s:1", "Received message larger than max (9 vs. 4)"
    )
    assert (full.passing, full.alive, full.apart) == (True, True, Apart.NO)
    assert (large.passing, large.alive, large.apart) == (False, True, Apart.HALVES)
    assert large.said == "too large: Received message larger than max (9 vs. 4)"
