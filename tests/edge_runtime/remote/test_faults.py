"""What gRPC's words mean for the endpoint."""

import grpc
import pytest

from edge_runtime.remote.faults import RemoteFault
from fallback_server.protocol.status import Fault


@pytest.mark.parametrize(
    ("code", "words", "kind", "flags"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", Fault.NOT_READY, "unreachable"),
        ("UNAVAILABLE", "Socket closed", Fault.NOT_READY, "broken"),
        ("UNKNOWN", "Stream removed (peer 10.0.0.7: Socket closed)", Fault.NOT_READY, "broken"),
        ("UNKNOWN", "it went wrong in the model", Fault.UNKNOWN, ""),
        ("UNAVAILABLE", "version 2 is LOADING", Fault.NOT_READY, ""),
        ("INTERNAL", "the model read from a broken pipe", Fault.INTERNAL, ""),
    ],
)
def test_what_a_status_says_of_the_server(code, words, kind, flags):
    """A connection that broke is told from a server that answers, and from nobody being there."""
    fault = RemoteFault.of_status(grpc.StatusCode[code], "s:1", words)
    assert fault.fault is kind
    assert (fault.unreachable, fault.broken) == (flags == "unreachable", flags == "broken")
