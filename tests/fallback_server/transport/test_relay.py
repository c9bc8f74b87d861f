"""What another process of the server refuses, and who asked it."""

import asyncio
import logging

import grpc
import pytest
from support.grpc_stand import code_of

from fallback_server.access.certificates import Certificate
from fallback_server.core.errors import ServerError
from fallback_server.protocol.status import Fault
from fallback_server.transport.arrivals import Arrivals, Arriving
from fallback_server.transport.callers import CALLER_METADATA, caller_metadata, passed_by, passed_caller, secret
from fallback_server.transport.faults import status_of, translate
from fallback_server.transport.relay import ERRORS, Relay, error_of
from fallback_server.transport.rpc import aborted

CODE = grpc.StatusCode


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_comes_as_it_was_said(fault, caplog):
    """With its text, and without a word in the log."""
    with caplog.at_level(logging.INFO):
        assert translate(ERRORS[fault]("x")) == (fault, "x")
    assert caplog.records == []


@pytest.mark.parametrize("code", [code for code in CODE if code is not CODE.OK])
def test_each_code_comes_as_it_was_said(code, caplog):
    """Those too that no fault of this server's has."""
    with caplog.at_level(logging.INFO):
        assert status_of(error_of(code, "x")) == (code, "x")
    assert caplog.records == []


def test_who_calls_is_believed_by_the_secret_alone():
    """What anybody says is not."""
    who = "ipv6:%5B::1%5D:51234"
    assert passed_caller([("a", "b"), caller_metadata(secret(), who)]) == who
    assert passed_caller([caller_metadata(b"\0" * 16, "ipv4:1.2.3.4:5")]) is None
    assert passed_caller([(CALLER_METADATA, b"")]) is None

    assert passed_caller([(CALLER_METADATA, "text")]) is None
    assert passed_caller(None) is None


@pytest.mark.parametrize("name", ["press-7", "", "a b\nc"])
def test_a_certificate_goes_along_with_who_calls(name):
    """As far as the guard needs it; of who does not know the secret nothing is believed."""
    shown = Certificate(name=name, serial=f"{2**159 + 7:x}", until_s=1.8e9, issuer="n:aa")
    passed = passed_by([caller_metadata(secret(), "ipv4:1.2.3.4:5", shown)])
    assert passed == ("ipv4:1.2.3.4:5", shown)
    assert passed_by([caller_metadata(secret(), "ipv4:1.2.3.4:5")]) == ("ipv4:1.2.3.4:5", None)
    assert passed_by([caller_metadata(b"\0" * 16, "ipv4:1.2.3.4:5", shown)]) is None


SHOWN = Certificate(name="press-7", serial="7", until_s=1.8e9)


class Client:
    """A caller as the transports have it."""

    def __init__(self, *metadata):
        self._metadata = metadata

    def peer(self):
        return "ipv4:10.0.0.7:51234"

    def invocation_metadata(self):
        return self._metadata

    def time_remaining(self):
        return 20.0

    def add_done_callback(self, callback):
        raise AssertionError


def test_a_call_goes_on_with_who_calls(tmp_path):
    """And not with what the caller says of that, nor with what its connection has of its own."""
    asyncio.run(passed_on(tmp_path))


async def passed_on(tmp_path):
    seen = []

    async def answer(data, context):
        seen.append((data, dict(context.invocation_metadata()), passed_caller(context.invocation_metadata())))
        await context.abort(CODE.ABORTED, "later")

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": handler}),))
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    relay = Relay(f"{tmp_path}/socket", secret())
    try:
        client = Client(("mine", "1"), ("te", "trailers"), caller_metadata(secret(), "ipv4:6.6.6.6:6"))
        with pytest.raises(Exception, match="later") as caught:
            await relay.unary("/a.B/C", b"x", client)
        assert status_of(caught.value) == (CODE.ABORTED, "later")
        (data, metadata, who) = seen[0]
        assert (data, metadata["mine"], who) == (b"x", "1", client.peer())
    finally:
        await relay.close()
        await server.stop(0)


def test_a_call_that_nobody_has_read_goes_on_unread(tmp_path):
    """The other server may refuse it while its caller has sent nothing; else it has the request, and answers."""
    asyncio.run(unread(tmp_path))


async def unread(tmp_path):
    async def answer(_requests, context):
        if "refused" in dict(context.invocation_metadata()):
            await context.abort(CODE.UNAUTHENTICATED, "not you")
        assert passed_by(context.invocation_metadata()).certificate == SHOWN
        return b"answer to " + await context.read()

    async def silent():
        await asyncio.Event().wait()
        yield b""

    async def whole():
        yield b"a request"

    def handlers(service, answer):
        return grpc.method_handlers_generic_handler(service, {"C": grpc.stream_unary_rpc_method_handler(answer)})

    relay = Relay(f"{tmp_path}/inner", secret(), lambda _: SHOWN)

    async def pass_on(_requests, context):
        try:
            return await relay.unread("/a.B/C", context)
        except ServerError as error:
            return await aborted(context, *status_of(error))

    inner, outer = grpc.aio.server(), grpc.aio.server()
    inner.add_generic_rpc_handlers((handlers("a.B", answer),))
    late = Arriving(handlers("a.Late", pass_on), Arrivals(request_s=0.01))
    outer.add_generic_rpc_handlers((handlers("a.B", pass_on), late))
    inner.add_insecure_port(f"unix:{tmp_path}/inner")
    outer.add_insecure_port(f"unix:{tmp_path}/outer")
    await inner.start()
    await outer.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/outer") as channel:
            call = channel.stream_unary("/a.B/C")
            assert await call(whole(), timeout=20) == b"answer to a request"
            refused = (("refused", "1"),)
            assert await code_of(call(silent(), metadata=refused, timeout=20)) == (CODE.UNAUTHENTICATED, "not you")
            code, text = await code_of(channel.stream_unary("/a.Late/C")(silent(), timeout=20))
            assert (code, "did not come within" in text) == (CODE.DEADLINE_EXCEEDED, True)
    finally:
        await relay.close()
        await outer.stop(0)
        await inner.stop(0)
