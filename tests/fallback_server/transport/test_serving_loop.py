import asyncio
import functools
import socket

import grpc
import pytest

from fallback_server.transport.serving_loop import ServingLoop


class PollerCompletionQueue:
    """As gRPC's: a byte is taken at each wake-up."""

    def __init__(self):
        self.read_socket, self.write_socket = socket.socketpair()
        self.read_socket.setblocking(False)
        self.wake_ups = 0

    def handle_events(self, _loop):
        self.read_socket.recv(1)
        self.wake_ups += 1


class OtherQueue(PollerCompletionQueue):
    """Of another name."""


async def _turns():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("kind", "wake_ups"), [(PollerCompletionQueue, [1, 2]), (OtherQueue, [10, 11])])
def test_a_burst_of_events_wakes_the_loop_once(kind, wake_ups):
    """And the next event again; who else reads a byte at a time is left alone."""
    queue = kind()

    async def story():
        loop = asyncio.get_running_loop()
        loop.add_reader(queue.read_socket, functools.partial(queue.handle_events, loop))
        found = []
        for burst in (10, 1):
            queue.write_socket.sendall(b"1" * burst)
            await _turns()
            found.append(queue.wake_ups)
        loop.remove_reader(queue.read_socket)
        return found

    with queue.read_socket, queue.write_socket, asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(story()) == wake_ups


def test_grpcs_own_socket_is_known(monkeypatch):
    """By the name of what reads it, which a version of gRPC may change."""
    known = []
    add = asyncio.SelectorEventLoop.add_reader

    def note(self, fd, callback, *args):
        known.append(type(fd).recv is not socket.socket.recv if isinstance(fd, socket.socket) else None)
        add(self, fd, callback, *args)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_reader", note)

    async def story():
        server = grpc.aio.server()
        await server.start()
        await server.stop(None)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(story())
    assert True in known
