"""A UNIX socket has one server at a time, and what is another's is left alone."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import grpc
import pytest

from fallback_server.transport.unix_socket import MAX_PATH_BYTES, SocketUnavailable, UnixSocket


class Listener:
    """Listens as gRPC does."""

    def __init__(self):
        self.server = grpc.aio.server()

    def __call__(self, path):
        return self.server.add_insecure_port(f"unix:{path}")


@contextlib.asynccontextmanager
async def listening(path):
    listener = Listener()
    claimed = UnixSocket(path, listener)
    await listener.server.start()
    yield claimed
    claimed.release()
    await listener.server.stop(0)


def connects(path):
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def left_by_a_dead_server(path):
    script = "import os, socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1]); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)


def refusal(path):
    with pytest.raises(SocketUnavailable) as refused:
        UnixSocket(path, lambda _: pytest.fail("it must not come to that"))
    return str(refused.value)


def test_a_path_has_one_server(tmp_path):
    """A second one is refused and harms nothing, its end included; when the first has ended nothing is left."""

    async def story():
        path = tmp_path / "s"
        async with listening(path):
            assert refusal(path) == "another server listens there"
            assert connects(path)
        assert not any(tmp_path.iterdir())
        async with listening(path):
            assert connects(path)

    asyncio.run(story())


def test_what_a_dead_server_left_is_taken_over(tmp_path):
    """It was killed, and had no time to tidy up."""
    path = tmp_path / "s"
    left_by_a_dead_server(path)

    async def story():
        async with listening(path):
            assert connects(path)

    asyncio.run(story())
    assert not any(tmp_path.iterdir())


def test_at_its_end_a_server_removes_its_own_socket_alone(tmp_path):
    """Somebody has removed it, and another server listens at the path."""

    async def story():
        path = tmp_path / "s"
        async with listening(path) as first:
            path.unlink()
            async with listening(path):
                first.release()
                assert connects(path)
        assert not any(tmp_path.iterdir())

    asyncio.run(story())


def test_paths_that_can_not_be_had(tmp_path):
    """A file that is no socket stays as it is; a folder that isn't there; a name that is too long."""
    (tmp_path / "file").write_text("kept")
    assert refusal(tmp_path / "file") == "something is there already, and is no socket"
    assert (tmp_path / "file").read_text() == "kept"
    assert refusal(tmp_path / "no" / "s") == "No such file or directory"
    long = tmp_path / ("s" * (MAX_PATH_BYTES + 1))
    assert refusal(long) == "a socket's path must have at most 107 bytes"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "other"))
        assert "it can't be told whether another server listens there" in refusal(tmp_path / "other")


def test_the_longest_path_can_be_listened_at(tmp_path):
    """The name that gRPC listens at first takes none of its bytes."""
    path = tmp_path / ("s" * (MAX_PATH_BYTES - 1 - len(os.fsencode(tmp_path))))

    async def story():
        async with listening(path):
            assert connects(path)

    asyncio.run(story())
