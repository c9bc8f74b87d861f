"""Answers that their callers do not take."""

import asyncio

import grpc
import pytest
from support.grpc_stand import code_of

from fallback_server.core.errors import QueueFull
from fallback_server.protocol.methods import Method
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.rpc import COUNTED_BYTES, SMALL_IN_A_ROW, MessageThreads, Rpcs, Unary
from fallback_server.transport.untaken import Untaken

METHOD = Method("edge.v1.Any", "Call", pb.CatalogRequest, pb.CatalogUpdate)


class Call:
    """One that is over when it is told."""

    def __init__(self, address):
        self._address = address
        self.over = None

    def peer(self):
        return f"ipv4:{self._address}:1"

    def invocation_metadata(self):
        return ()

    def add_done_callback(self, callback):
        self.over = callback


def test_an_address_has_half_of_what_is_free_and_one_answer_more():
    """Others have theirs; what was taken counts no more, and what was refused never did."""
    untaken = Untaken(max_bytes=1000)
    first, other, again = Call("10.0.0.7"), Call("10.0.0.8"), Call("10.0.0.7")
    untaken.hold(400, first)
    untaken.hold(300, again)
    with pytest.raises(QueueFull, match=r"10\.0\.0\.7 has 700 bytes of answers to take, .* are free: 300"):
        untaken.hold(1, Call("10.0.0.7"))
    untaken.hold(300, other)
    with pytest.raises(QueueFull, match=r"10\.0\.0\.9 has 0 bytes"):
        untaken.hold(1, Call("10.0.0.9"))
    assert len(untaken) == 1000
    for call in (first, other, again):
        call.over(call)
    assert len(untaken) == 0
    untaken.hold(10**9, Call("10.0.0.7"))


@pytest.mark.parametrize("size", [COUNTED_BYTES, LARGE_BYTES])
@pytest.mark.parametrize("before", [0, SMALL_IN_A_ROW + 1])
def test_an_answer_is_counted_until_it_is_taken(size, before):
    """In both ways in which gRPC takes a call; small ones are not."""

    async def story():
        untaken = Untaken(max_bytes=2 * size)
        threads = MessageThreads(1)
        rpcs = Rpcs(threads, hold=untaken.hold)

        async def answer(asked, _caller):
            return b"x" * asked

        handler = rpcs.unary(Unary(method=METHOD, answer=answer, read=int, write=bytes, weigh=len))
        server = grpc.aio.server()
        service = grpc.method_handlers_generic_handler(METHOD.service, {METHOD.name: handler})
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(METHOD.path)
            for _ in range(before):
                await call(b"1")
            held = Call("127.0.0.1")
            untaken.hold(size, held)
            assert len(await call(b"%d" % (COUNTED_BYTES - 1), timeout=20)) == COUNTED_BYTES - 1
            code, text = await code_of(call(b"%d" % size, timeout=20))
            assert (code, f"has {size} bytes of answers to take" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            held.over(held)
            assert len(await call(b"%d" % size, timeout=20)) == size
        await server.stop(None)
        assert len(untaken) == 0
        threads.close()

    asyncio.run(story())
