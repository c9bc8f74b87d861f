"""What operators may tell gRPC of its clients."""

import pytest

from fallback_server.transport.client_bounds import client_bounds, fault_of


@pytest.mark.parametrize("value", [0, -1, "many"])
@pytest.mark.parametrize(
    "key",
    [
        "grpc.max_concurrent_streams",
        "grpc.max_allowed_incoming_connections",
        "grpc.server_handshake_timeout_ms",
        "grpc.max_connection_idle_ms",
        "grpc.http2.ping_timeout_ms",
        "grpc.absolute_max_metadata_size",
    ],
)
def test_what_would_answer_nobody_is_refused(key, value):
    """It would be taken, and then no call gets an answer, or the process ends."""
    assert fault_of(key, value).startswith(f"--grpc_channel_arguments={key} must be a whole number from 1 to ")
    assert fault_of(key, 1) == ""


@pytest.mark.parametrize("key", ["grpc.max_receive_message_length", "grpc.max_send_message_length"])
def test_messages_of_no_length_are_refused(key):
    """Below nothing gRPC knows no bound, which may be meant."""
    assert "must not be 0" in fault_of(key, 0)
    assert fault_of(key, -1) == fault_of(key, 1) == ""


def test_what_the_server_itself_tells_grpc_is_taken():
    """By its own rule."""
    assert {fault_of(*each) for each in client_bounds() if each[0] != "grpc.http.overload_protection"} == {""}
