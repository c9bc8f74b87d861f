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
        ("auto", False, True, (("grpc.keepalive_time_ms", 0),), False),
        ("auto", False, True, (("grpc.max_concurrent_streams", 1),), True),
        ("auto", False, True, (("grpc.absolute_max_metadata_size", 2**31 - 1),), True),
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
        (False, True, (("grpc.keepalive_permit_without_calls", -1),), "must be a whole number from 0 for it, got -1"),
        (False, True, (("grpc.keepalive_timeout_ms", 0),), "must be a whole number from 1 for it, got 0"),
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


@pytest.mark.parametrize("transport", ["grpcio", "native", "auto"])
@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 10**30])
def test_numbers_that_grpc_does_not_take_are_refused(transport, value):
    """By name and with the bound, whatever speaks gRPC."""
    with pytest.raises(ConfigInvalid, match=f"=grpc.x must be from -2147483648 to 2147483647, got {value}"):
        choose(transport, tls=False, present=True, arguments=(("grpc.x", value),))


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("grpc.max_connection_idle_ms", 0, False),
        ("grpc.max_connection_idle_ms", -5, False),
        ("grpc.max_connection_idle_ms", "soon", False),
        ("grpc.max_connection_idle_ms", 1, True),
        ("grpc.max_connection_idle_ms", 2**31 - 1, True),
        ("grpc.max_allowed_incoming_connections", 2**31 - 1, False),
        ("grpc.max_allowed_incoming_connections", -1, False),
        ("grpc.max_allowed_incoming_connections", 2**31 - 2, True),
        ("grpc.max_concurrent_streams", 0, False),
    ],
)
def test_numbers_by_which_grpc_ends_the_process_are_refused(key, value, taken):
    """At the start, in words: it says nothing of them until it dies, or until each call fails."""
    if taken:
        assert not choose("grpcio", tls=False, present=False, arguments=((key, value),)).native
    else:
        with pytest.raises(ConfigInvalid, match=f"{key} must be a whole number from"):
            choose("grpcio", tls=False, present=False, arguments=((key, value),))


def test_a_bound_of_messages_is_kept():
    """`auto` leaves it to grpcio, which holds it before a message is in memory; `native` says that it does not."""
    choice = choose("auto", tls=False, present=True, max_message_bytes=1_000_000)
    assert not choice.native
    assert "--max_message_bytes" in choice.reason
    choice = choose("native", tls=False, present=True, max_message_bytes=1_000_000)
    assert choice.native
    assert "are refused only when they are in memory" in choice.reason


def test_without_a_place_for_its_socket():
    """`auto` is grpcio then, and says why; `native` is refused with that."""
    choice = choose("auto", tls=False, present=True, socket_lack="no place")
    assert (choice.native, choice.reason) == (False, "no place")
    with pytest.raises(ConfigInvalid, match="--transport=native can't be had: no place"):
        choose("native", tls=False, present=True, socket_lack="no place")
    assert choose("grpcio", tls=False, present=True, socket_lack="no place").reason == "as --transport says"
