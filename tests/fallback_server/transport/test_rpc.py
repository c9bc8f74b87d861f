import asyncio
import contextlib

import grpc
import pytest
from support.grpc_stand import code_of

from fallback_server.core.errors import InvalidInput
from fallback_server.protocol.methods import PREDICT
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.rpc import SMALL_IN_A_ROW, MessageThreads, Rpcs, Unary

CODE = grpc.StatusCode


@contextlib.asynccontextmanager
async def echoing(answer):
    """A server of one method, whose messages are its bytes; its handler, and the method called in both ways."""
    threads = MessageThreads(1)
    rpcs = Rpcs(threads)
    handler = rpcs.unary(Unary(method=PREDICT, answer=answer, read=bytes, write=bytes, weigh=len))
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", -1),))
    generic = grpc.method_handlers_generic_handler(PREDICT.service, {PREDICT.name: handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield handler, channel.unary_unary(PREDICT.path), channel.stream_unary(PREDICT.path)
    finally:
        await server.stop(1)
        threads.close()


async def twice(data, caller):
    """What is asked two times; nothing is at fault."""
    assert list(caller.invocation_metadata())
    if not data:
        raise InvalidInput("nothing is asked")
    return data * 2


def test_small_requests_are_taken_as_one_until_a_large_one_comes():
    """To gRPC a method is a stream of one until many were small, and again from a large one on: the answers are one."""

    async def story():
        async with echoing(twice) as (handler, ask, _):
            streams = []
            for size in (*[3] * SMALL_IN_A_ROW, 5, LARGE_BYTES, 5):
                streams.append(handler.request_streaming)
                assert await ask(bytes(size)) == bytes(2 * size)
            assert streams == [True] * SMALL_IN_A_ROW + [False] * 2 + [True]

    asyncio.run(story())


@pytest.mark.parametrize("before", [0, SMALL_IN_A_ROW])
def test_faults_are_told_either_way(before):
    """A refusal has its code and text however the call is taken; the next one is answered."""

    async def story():
        async with echoing(twice) as (handler, ask, _):
            for _ in range(before):
                await ask(b"x")
            assert handler.request_streaming is not bool(before)
            assert await code_of(ask(b"")) == (CODE.INVALID_ARGUMENT, "nothing is asked")
            assert await ask(b"x") == b"xx"

    asyncio.run(story())


@pytest.mark.parametrize("before", [0, SMALL_IN_A_ROW])
def test_a_call_without_a_request_harms_nobody(before):
    """One that ends before its request is refused; where gRPC takes it itself it is left to its caller's deadline."""

    async def story():
        async with echoing(twice) as (_, ask, stream):
            for _ in range(before):
                await ask(b"x")
            code, _ = await code_of(stream(iter(()), timeout=0.3 if before else 30))
            assert code is (CODE.DEADLINE_EXCEEDED if before else CODE.INVALID_ARGUMENT)
            assert await ask(b"x") == b"xx"

    asyncio.run(story())


@pytest.mark.parametrize("before", [0, SMALL_IN_A_ROW])
def test_who_leaves_is_not_waited_for(before):
    """A caller that leaves ends its answer's coroutine, and is no longer under way."""
    came, left = asyncio.Event(), asyncio.Event()

    async def slow(data, _caller):
        if data == b"slow":
            try:
                came.set()
                await asyncio.Event().wait()
            finally:
                left.set()
        return data

    async def story():
        async with echoing(slow) as (_, ask, __):
            for _ in range(before):
                await ask(b"x")
            call = ask(b"slow")
            assert await ask(b"x") == b"x"
            await came.wait()
            call.cancel()
            await left.wait()
            assert await ask(b"x") == b"x"

    asyncio.run(story())
