import pytest

from fallback_server.config import ConfigInvalid
from fallback_server.transport.native.choice import choose, front_arguments

KNOWN = (("grpc.keepalive_time_ms", 5000), ("grpc.keepalive_permit_without_calls", 1))


@pytest.mark.parametrize(
    ("transport", "tls", "present", "arguments", "native"),
    [
        ("grpcio", False, True, (), False),
        ("grpcio", True, False, (("grpc.x", "y"),), False),
        ("native", False, True, (), True),
        ("native", False, True, KNOWN, True),
        ("auto", False, True, (), True),
        ("auto", False, True, KNOWN, True),
        ("auto", True, True, (), False),
        ("auto", False, False, (), False),
        ("auto", False, True, (("grpc.max_connection_age_ms", 1),), False),
        ("auto", False, True, (("grpc.keepalive_time_ms", "soon"),), False),
    ],
)
def test_choices(transport, tls, present, arguments, native):
    """Native only where it is installed, the port is plain, and it knows what is set."""
    assert choose(transport, tls=tls, present=present, arguments=arguments).native is native


@pytest.mark.parametrize(
    ("tls", "present", "arguments", "text"),
    [
        (True, True, (), "it speaks no TLS"),
        (False, False, (), "the extra `fast` is not installed: pip install 'edge-runtime[fast]'"),
        (False, True, (("grpc.max_connection_age_ms", 1),), "doesn't know --grpc_channel_arguments=grpc.max_conn"),
        (False, True, (("grpc.max_concurrent_streams", -1),), "must be a whole number for it, got -1"),
    ],
)
def test_what_was_asked_for_by_name_and_can_not_be_is_refused(tls, present, arguments, text):
    """With the reason; nothing else is taken in its place."""
    with pytest.raises(ConfigInvalid, match="--transport=native can't be had: ") as caught:
        choose("native", tls=tls, present=present, arguments=arguments)
    assert text in str(caught.value)


def test_options_have_their_names_there():
    """The first of two counts, as in gRPC, and switches are switches."""
    assert front_arguments((*KNOWN, ("grpc.keepalive_time_ms", 9))) == {
        "keepalive_time_ms": 5000,
        "keepalive_permit_without_calls": True,
    }
