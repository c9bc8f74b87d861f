import asyncio
import functools
import socket
from types import SimpleNamespace

import grpc
import pytest
from support.clock import FakeClock

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


class Waiting:
    """Waits for the loop's rest, with so much patience."""

    def __init__(self, patience_s=0.0):
        self.patient_s = patience_s
        self.asked = 0
        self.rested = asyncio.Event()

    def patience_s(self):
        self.asked += 1
        return self.patient_s

    def waited(self, took_s):
        assert took_s >= 0

    def rest(self):
        self.rested.set()


def _run(story):
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(story())


def test_who_waits_for_rest_is_told_when_nothing_is_left_to_do():
    """Once; not while there is something to do, and not who needs it no more."""

    async def story():
        loop = asyncio.get_running_loop()
        waiting, other = Waiting(), Waiting()
        loop.at_rest(waiting, within_s=60)
        loop.at_rest(other, within_s=60)
        loop.not_at_rest(other)
        await _turns()
        assert waiting.asked == 0
        await waiting.rested.wait()
        assert (waiting.asked, other.asked, other.rested.is_set()) == (1, 0, False)
        waiting.rested.clear()
        await asyncio.sleep(0.005)
        assert not waiting.rested.is_set()

    _run(story)


def test_a_loop_that_never_rests_tells_all_the_same():
    """After the time that was given, in the first turn that ends then: who waits for rest is not left waiting."""

    async def story():
        clock = FakeClock()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fallback_server.transport.serving_loop.time", SimpleNamespace(monotonic=clock))
            waiting, other = Waiting(), Waiting()
            loop = asyncio.get_running_loop()
            loop.at_rest(other, within_s=0.5)
            loop.at_rest(waiting, within_s=0.25)
            await _turns()
            clock.advance(0.24)
            await _turns()
            assert not waiting.rested.is_set()
            clock.advance(0.02)
            await _turns()
            assert waiting.rested.is_set()
            assert other.rested.is_set()  # All are told together.
            assert waiting.asked == 0

    _run(story)


def test_what_is_due_comes_before_the_end_of_patience():
    """A timer that ends a wait is something to do."""

    async def story():
        waiting = Waiting(patience_s=60)
        loop = asyncio.get_running_loop()
        due = asyncio.Event()
        loop.at_rest(waiting, within_s=60)
        loop.call_later(0.002, due.set)
        await due.wait()
        assert not waiting.rested.is_set()
        loop.not_at_rest(waiting)

    _run(story)


def test_patience_ends_with_whatever_comes():
    """The loop waits that long for an event, takes it, and has its rest when no more comes."""

    async def story():
        loop = asyncio.get_running_loop()
        waiting = Waiting(patience_s=60)
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            came = asyncio.Event()

            def take():
                near.recv(10)
                waiting.patient_s = 0
                came.set()

            loop.add_reader(near, take)
            loop.at_rest(waiting, within_s=60)
            far.sendall(b"1")
            await came.wait()
            assert not waiting.rested.is_set()
            await waiting.rested.wait()
            loop.remove_reader(near)

    _run(story)
