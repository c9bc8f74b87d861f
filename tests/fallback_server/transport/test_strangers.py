"""What strangers may send of calls that everybody may make."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support.grpc_stand import code_of, loaded

from fallback_server.access.guard import Guard
from fallback_server.access.rules import AccessRules, Grants, Token
from fallback_server.access.tokens import digest_of
from fallback_server.core.errors import DeadlineExceeded, QueueFull
from fallback_server.protocol import methods
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.rpc import MessageThreads
from fallback_server.transport.strangers import MAX_BYTES, Strangers

KNOWN = (("authorization", "Bearer t"),)
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
LARGE = health_pb2.HealthCheckRequest(service="x" * MAX_BYTES).SerializeToString()
CODE = grpc.StatusCode


@pytest.fixture
def guard():
    token = Token(name="screen", grants=Grants(status=("*",)))
    return CallGuard(Guard(AccessRules(tokens={digest_of("t"): token})))


@pytest.mark.parametrize("path", [CHECK, WATCH, methods.SERVER_LIVE.path, methods.SERVER_READY.path])
def test_a_stranger_s_large_request_is_refused(tmp_path, guard, path):
    """It is not parsed, and those that are as they should be are answered; who is known is met as elsewhere."""

    async def story():
        async with loaded(path=tmp_path, guard=guard) as stand:

            async def first(data, metadata=()):
                call = stand.channel.unary_stream(path)(data, metadata=metadata, timeout=20)
                return await call.read() is not grpc.aio.EOF

            code, text = await code_of(first(LARGE))
            assert (code, "larger than max (65540 vs. 65536)" in text) == (CODE.RESOURCE_EXHAUSTED, True)
            assert await first(b"")
            if path == CHECK:
                assert (await code_of(first(LARGE, KNOWN)))[0] is CODE.NOT_FOUND
            else:
                assert await first(LARGE, KNOWN)

    asyncio.run(story())


class Context:
    """A call whose request comes when it is told to, or not."""

    def __init__(self, address, *metadata):
        self.came = asyncio.get_running_loop().create_future()
        self.ends = []
        self._peer = f"ipv4:{address}:1"
        self._metadata = metadata

    def peer(self):
        return self._peer

    def invocation_metadata(self):
        return self._metadata

    def add_done_callback(self, callback):
        self.ends.append(callback)

    async def read(self):
        return await self.came


def test_a_stranger_s_request_is_waited_for_shortly(guard):
    """It counts against its address until gRPC is done with it; who is known is not waited for here."""

    async def story():
        threads = MessageThreads(1)
        strangers = Strangers(None, guard, threads, max_reads=2, read_s=0.01)
        late = Context("10.0.0.7")
        with pytest.raises(DeadlineExceeded, match="did not come within"):
            await strangers.met(late)
        again = Context("10.0.0.7")
        again.came.set_result(b"x")
        assert await (await strangers.met(again)).read() == b"x"
        with pytest.raises(DeadlineExceeded):
            await strangers.met(Context("10.0.0.7"))
        with pytest.raises(QueueFull, match="has 2 calls open"):
            await strangers.met(Context("10.0.0.7"))
        for end in late.ends:
            end(late)
        assert await (await strangers.met(again)).read() == b"x"
        known = Context("10.0.0.8", *KNOWN)
        assert await strangers.met(known) is known
        threads.close()

    asyncio.run(story())


def test_one_address_has_half_of_the_places(guard):
    """Another has its first; a request that came has its place no more."""

    async def story():
        strangers = Strangers(None, guard, MessageThreads(1), max_reads=2, read_s=60)
        first = Context("10.0.0.7")
        met = asyncio.ensure_future(strangers.met(first))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match=r"10\.0\.0\.7 has 1 calls open"):
            await strangers.met(Context("10.0.0.7"))
        other = Context("10.0.0.8")
        other.came.set_result(b"y")
        assert await (await strangers.met(other)).read() == b"y"
        first.came.set_result(b"x")
        given = await met
        assert await given.read() == b"x"
        assert await given.read() is grpc.aio.EOF
        assert await (await strangers.met(first)).read() == b"x"

    asyncio.run(story())
