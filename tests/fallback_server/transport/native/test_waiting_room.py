"""The room for connections that wait."""

import contextlib
import socket

import pytest

from fallback_server.transport.native.waiting_room import widen

MANY = 1000


def waiting(port, many):
    """Connections that nobody takes, as many of them as the kernel keeps."""
    with contextlib.ExitStack() as ends:
        made = [ends.enter_context(socket.socket()) for _ in range(many)]
        for one in made:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
        return sum(bool(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1) for one in made)


@pytest.mark.parametrize(("widened", "room"), [(False, range(MANY)), (True, [MANY])])
def test_a_thousand_connections_may_wait(widened, room):
    """On the port that is named, and on no other; a connected one on that port is no listener."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0]:
            assert widen(port if widened else client.getsockname()[1]) == widened
        assert waiting(port, MANY) in room


def test_where_a_machine_does_not_say_what_is_open_the_room_stays(monkeypatch, tmp_path):
    """It is no reason not to serve."""
    monkeypatch.setattr("fallback_server.transport.native.waiting_room._DESCRIPTORS", tmp_path / "none")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert widen(listener.getsockname()[1]) == 0
