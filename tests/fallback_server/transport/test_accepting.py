"""Calls that are taken as they come, beside gRPC's own loop that takes one at a time."""

import asyncio
import dataclasses
import gc

import grpc
import numpy as np
import pytest
from support import grpc_stand
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import OPTIONS, code_of

from fallback_server.access.guard import Guard
from fallback_server.access.rules import AccessRules, Grants, Token
from fallback_server.access.tokens import digest_of
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import accepting
from fallback_server.transport.accepting import AT_ONCE, Accepting
from fallback_server.transport.call_guard import CallGuard

RULES = AccessRules(tokens={digest_of("t-run"): Token(name="line", grants=Grants(predict=("m",)))})
RUN = (("authorization", "Bearer t-run"),)


@pytest.fixture(autouse=True)
def grpcio(monkeypatch):
    """The native server takes calls in its own way."""
    monkeypatch.setattr("support.grpc_stand.NATIVE", False)


def loaded(path, **options):
    batching = dataclasses.replace(OPTIONS, max_enqueued_batches=1000)
    return grpc_stand.loaded(FakeExecutor(factor=2), path, batching=batching, **options)


def asked(value):
    array = np.full((1, 2), value, np.float32)
    return pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensors.encode(array)})


async def all_answered(stand, count):
    replies = await asyncio.gather(*(stand.predict(asked(value)) for value in range(count)))
    assert [reply.outputs["y"].float_val[0] for reply in replies] == [2.0 * value for value in range(count)]


def takers(monkeypatch):
    """Counts who finds the handlers of calls: this, and gRPC's own loop."""
    found = {"here": 0, "gRPC": 0}
    resolve, make = Accepting.resolve_handler, accepting._AsStream.__init__

    def here(self, details):
        found["here"] += 1
        return resolve(self, details)

    def as_stream(self, path, accepting):
        make(self, path, accepting)
        inner = self.stream_stream

        async def stream_stream(requests, context):
            found["gRPC"] += 1
            found["here"] -= 1
            return await inner(requests, context)

        self.stream_stream = stream_stream

    monkeypatch.setattr(Accepting, "resolve_handler", here)
    monkeypatch.setattr(accepting._AsStream, "__init__", as_stream)
    return found


def test_grpc_is_known_inside_and_nearly_all_calls_are_taken_here(tmp_path, monkeypatch):
    """With the release that is locked: of 330 calls gRPC's own loop takes one in 33, and each is answered as asked."""
    found = takers(monkeypatch)

    async def story():
        async with loaded(tmp_path) as stand:
            assert stand.server._accepting.works
            for _ in range(10):
                await all_answered(stand, AT_ONCE + 1)

    asyncio.run(story())
    assert found["here"] + found["gRPC"] == 10 * (AT_ONCE + 1)
    assert 0 < found["gRPC"] <= 20


@pytest.mark.parametrize("unknown", ["none", "other arguments", "no core"])
def test_another_release_of_grpc_takes_calls_by_itself(tmp_path, monkeypatch, caplog, unknown):
    """Whatever of its insides is not as it is known: all is answered, by its own loop, and the log says so once."""
    if unknown == "none":
        monkeypatch.setattr(accepting.importlib, "import_module", lambda name: object())
    elif unknown == "other arguments":
        monkeypatch.setattr(accepting, "_HANDLE", ("method_name",))
    else:
        monkeypatch.setattr(accepting, "_SERVER_PARTS", ("what_there_never_was",))
    found = takers(monkeypatch)
    caplog.set_level("INFO")

    async def story():
        async with loaded(tmp_path) as stand:
            assert not stand.server._accepting.works
            await all_answered(stand, 40)

    asyncio.run(story())
    assert found == {"here": 0, "gRPC": 0}
    assert caplog.text.count("takes calls one at a time") == 1


def test_where_taking_fails_grpc_goes_on(tmp_path, monkeypatch, caplog):
    """An error in the midst of it is told in the log, and costs no call after it."""
    insides = accepting._insides()

    class Broken:
        _RequestCallError = insides._RequestCallError
        _schedule_rpc_coro = staticmethod(insides._schedule_rpc_coro)

        @staticmethod
        def _handle_rpc(method_name, method_resolver, interceptors, rpc_state, loop, concurrency_exceeded):
            raise RuntimeError("other insides")

    monkeypatch.setattr(accepting, "_insides", lambda: Broken)

    async def story():
        async with loaded(tmp_path) as stand:
            codes = [await code_of(stand.predict(asked(value), timeout=0.2)) for value in range(3 * AT_ONCE)]
            assert [code for code, _ in codes].count(grpc.StatusCode.OK) >= 2 * AT_ONCE - 2
            assert not any(task.get_coro().cr_frame for task in stand.server._accepting._calls)
            await all_answered(stand, 20)

    asyncio.run(story())
    assert "taken by gRPC's own loop from now on" in caplog.text


def test_whoever_takes_a_call_asks_who_calls(tmp_path, monkeypatch):
    """Of strangers each is refused, of those with a token each answered; gRPC's own loop has had some of both."""
    found = takers(monkeypatch)

    async def story():
        guard = CallGuard(Guard(RULES))
        async with loaded(tmp_path, guard=guard) as stand:
            for _ in range(4):
                calls = [stand.predict(asked(1), metadata=RUN if index % 2 else ()) for index in range(AT_ONCE + 1)]
                codes = [code for code, _ in await asyncio.gather(*map(code_of, calls))]
                assert set(codes[::2]) == {grpc.StatusCode.UNAUTHENTICATED}
                assert set(codes[1::2]) == {grpc.StatusCode.OK}

    asyncio.run(story())
    assert found["gRPC"] > 0


def test_nothing_is_left_of_a_server_that_has_ended(tmp_path):
    """No task that takes calls, none that answered one, and no call's bytes."""

    async def story():
        async with loaded(tmp_path) as stand:
            await all_answered(stand, 100)
            taking = stand.server._accepting
            await asyncio.gather(*taking._calls)
            assert len(taking._tasks) == 2 * AT_ONCE
        assert not taking._tasks
        assert not taking._calls
        gc.collect()
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
        assert not any("_take" in name or "_rpc" in name for name in names), names

    asyncio.run(story())


def test_a_request_that_is_taken_is_held_by_nobody(tmp_path):
    """A call that was answered is over: who stands ready for the next one keeps nothing of it."""

    async def story():
        async with loaded(tmp_path) as stand:
            await all_answered(stand, 10)
            method = stand.channel.unary_unary(PREDICT.path)
            assert (await code_of(method(b"\xff" * 100)))[0] is grpc.StatusCode.INVALID_ARGUMENT
            await asyncio.gather(*stand.server._accepting._calls)
            await asyncio.sleep(0.05)  # Also those that gRPC's own loop has taken.
            gc.collect()
            insides = accepting._insides()
            states = [each for each in gc.get_objects() if isinstance(each, insides.RPCState)]
            # Those that stand ready here, and in gRPC's own loop: one for each method, one for all others, and the
            # last one that it took.
            assert len(states) <= 2 * AT_ONCE + 4

    asyncio.run(story())


class Either(grpc.GenericRpcHandler):
    """Answers by a handler of streams, as what is passed on is, or knows no method."""

    def __init__(self):
        self.known = True

    def service(self, handler_call_details):
        async def answer(_requests, context):
            await context.write(b"passed on " + await context.read())

        return grpc.stream_stream_rpc_method_handler(answer) if self.known else None


def test_whoever_takes_a_call_lets_any_kind_of_handler_answer():
    """Unary calls that a handler of streams answers, and methods that nobody has: by both loops alike."""

    async def story():
        either = Either()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((either,))
        taking = Accepting((either,), ("/a.Service/Call",))
        taking.register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        taking.begin()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/a.Service/Call")
            for _ in range(2):
                answers = await asyncio.gather(*(call(b"%d" % number) for number in range(AT_ONCE + 1)))
                assert answers == [b"passed on %d" % number for number in range(AT_ONCE + 1)]
            either.known = False
            codes = await asyncio.gather(*(code_of(call(b"")) for _ in range(2 * AT_ONCE)))
            assert {code for code, _ in codes} == {grpc.StatusCode.UNIMPLEMENTED}
        await server.stop(1)
        await taking.end()

    asyncio.run(story())


def test_a_stop_waits_for_no_half_of_a_request(tmp_path):
    """Whoever takes its call: of 40 requests whose bytes never come none is under way, and the stop is quick."""

    async def story():
        async with loaded(tmp_path) as stand:
            method = stand.channel.stream_unary(PREDICT.path)
            calls = [method() for _ in range(AT_ONCE + 8)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            await all_answered(stand, 4)
            await asyncio.wait_for(stand.server._rpcs.quiet(grace_s=60), 30)
            assert not stand.server._rpcs._under_way
            for call in calls:
                call.cancel()

    asyncio.run(story())
