"""Requests on their way: how many are waited for, for how long, and who gives way."""

import asyncio
import contextlib

import grpc
import pytest

from fallback_server.core.errors import DeadlineExceeded, QueueFull
from fallback_server.transport.arrivals import Arrivals, Arriving


class Coming:
    """A context whose request comes when it is told to."""

    def __init__(self):
        self.sent = asyncio.get_running_loop().create_future()

    async def read(self):
        return await self.sent

    def peer(self):
        return "somebody"


async def begun(*coroutines):
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    await asyncio.sleep(0)
    return tasks


def test_the_oldest_gives_way_and_the_others_are_read():
    """One more than the bound: the request that was waited for longest is refused, by the bound's name."""

    async def story():
        arrivals = Arrivals(max_reads=2)
        contexts = [Coming() for _ in range(3)]
        first, *others = await begun(*(arrivals.read(one) for one in contexts))
        with pytest.raises(QueueFull, match="more than 2 others"):
            await first
        for one in contexts[1:]:
            one.sent.set_result(b"here")
        assert await asyncio.gather(*others) == [b"here", b"here"]
        assert len(arrivals) == 0

    asyncio.run(story())


def test_what_does_not_come_in_time_is_refused():
    """With the time in the text; nothing of it stays."""

    async def story():
        arrivals = Arrivals(request_s=0.01)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
            await arrivals.read(Coming())
        assert len(arrivals) == 0

    asyncio.run(story())


def test_a_request_that_comes_as_others_end_is_read():
    """In one turn of the loop: those that are out of time make room by themselves."""

    async def story():
        arrivals = Arrivals(max_reads=2, request_s=0)
        olds = await begun(*(arrivals.read(Coming()) for _ in range(2)))
        came = Coming()
        came.sent.set_result(b"here")
        # Begins behind the timers of both, and before their tasks hear of them.
        assert await asyncio.ensure_future(arrivals.read(came)) == b"here"
        for one in olds:
            with pytest.raises(DeadlineExceeded):
                await one

    asyncio.run(story())


def test_a_caller_that_leaves_is_no_fault_of_time():
    """Its task is cancelled, and stays so."""

    async def story():
        arrivals = Arrivals(request_s=60)
        (task,) = await begun(arrivals.read(Coming()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(arrivals) == 0

    asyncio.run(story())


def test_grpc_waits_for_so_many_and_those_that_have_left_count_no_more():
    """Beyond the bound calls are read by us; there is room again once requests have come or callers have gone."""

    async def story():
        arrivals = Arrivals(max_unread=2)
        gate = asyncio.Event()

        async def call():
            left = arrivals.leaves_to_grpc()
            await gate.wait()
            arrivals.came()
            return left

        tasks = await begun(*(call() for _ in range(3)))
        assert len(arrivals) == 2
        tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]
        arrivals._pruned_s = float("-inf")
        (next_one,) = await begun(call())
        gate.set()
        assert await asyncio.gather(*tasks[1:], next_one) == [True, False, True]
        assert len(arrivals) == 0

    asyncio.run(story())


class Echo(grpc.GenericRpcHandler):
    """Two calls, each always by the same handler."""

    def __init__(self):
        async def unary(data, _context):
            return data

        async def stream_unary(_requests, context):
            return await context.read() + context.peer().encode()

        self.plain = grpc.unary_unary_rpc_method_handler(unary)
        self.streamed = grpc.stream_unary_rpc_method_handler(stream_unary)
        self.stream = grpc.stream_stream_rpc_method_handler(stream_unary)

    def service(self, handler_call_details):
        return {"/a/Plain": self.plain, "/a/Streamed": self.streamed, "/a/Stream": self.stream}.get(
            handler_call_details
        )


def test_calls_are_answered_by_whoever_has_them():
    """A unary call in whichever way it is taken; streams, and what is unknown, as they are."""

    async def story():
        inner = Echo()
        arrivals = Arrivals()
        door = Arriving(inner, arrivals)
        plain = door.service("/a/Plain")
        assert len(arrivals) == 1
        assert not plain.request_streaming
        assert await plain.unary_unary(b"x", None) == b"x"
        assert len(arrivals) == 0
        streamed, context = door.service("/a/Streamed"), Coming()
        assert streamed.request_streaming
        context.sent.set_result(b"x of ")
        assert await streamed.stream_unary(None, context) == b"x of somebody"
        assert door.service("/a/Stream") is inner.stream
        assert door.service("/a/None") is None
        assert door.service("/a/Streamed") is streamed

    asyncio.run(story())
