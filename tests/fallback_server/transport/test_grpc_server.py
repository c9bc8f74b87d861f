import asyncio
import contextlib
import dataclasses
import gc
import logging
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import OPTIONS, SlowExecutor, code_of, loaded, standing

from fallback_server.predict_call import PredictCall
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode
from fallback_server.transport import large
from fallback_server.transport.grpc_server import GrpcServer, PortUnavailable

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode


def request(value=1.0):
    inputs = {"x": encode(np.full((1, 2), value, np.float32))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs=inputs)


def test_a_loading_version_is_unavailable_and_health_follows(tmp_path):
    """Before the load: UNAVAILABLE, naming the state, and NOT_SERVING. After it: an answer, and SERVING."""

    async def story():
        async with standing(FakeExecutor(factor=3), tmp_path) as stand:
            health = health_pb2_grpc.HealthStub(stand.channel)
            asked = health_pb2.HealthCheckRequest(service="PredictionService")
            assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            text = "Servable not ready for request: Latest(m); version 1 is LOADING"
            assert await code_of(stand.predict(request())) == (CODE.UNAVAILABLE, text)
            await asyncio.to_thread(stand.load)
            await stand.server.set_serving(serving=True)
            assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
            reply = await stand.predict(request(2))
            assert decode(reply.outputs["y"]).tolist() == [[6, 6]]

    asyncio.run(story())


def test_a_full_queue_is_resource_exhausted_and_a_cancelled_request_is_never_run(tmp_path):
    """One runs, one waits, the third is refused at once; the waiting one's caller leaves, and it is skipped."""

    async def story():
        executor = SlowExecutor()
        async with standing(executor, tmp_path) as stand:
            await asyncio.to_thread(stand.load)
            running = asyncio.ensure_future(code_of(stand.predict(request(1))))
            assert await asyncio.to_thread(executor.entered.wait, 10)
            waiting = stand.predict(request(2))
            while stand.server.waiting() < 2:  # noqa: ASYNC110  the server tells nobody when it has come
                await asyncio.sleep(0.01)
            assert (await code_of(stand.predict(request(3), timeout=20)))[0] is CODE.RESOURCE_EXHAUSTED
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            while stand.server.waiting() > 1:  # noqa: ASYNC110  the server tells nobody when it hears of it
                await asyncio.sleep(0.01)
            executor.gate.set()
            assert (await running)[0] is CODE.OK
            while (await code_of(stand.predict(request(4))))[0] is not CODE.OK:
                pass
            assert executor.values == [1, 4]

    asyncio.run(story())


def test_a_failing_model_is_internal_and_tells_nothing(tmp_path, caplog):
    """The caller learns that it failed; the log learns why."""

    async def story():
        async with standing(FakeExecutor(poison=13), tmp_path) as stand:
            await asyncio.to_thread(stand.load)
            assert await code_of(stand.predict(request(13))) == (CODE.INTERNAL, "the model failed to run")
            assert await code_of(stand.predict(request(1))) == (CODE.OK, "")

    asyncio.run(story())
    assert "secret path" in caplog.text


def test_a_second_server_on_the_same_port_is_refused(tmp_path):
    """Two servers never share a port unnoticed."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            second = GrpcServer(stand.plane, stand.control)
            with pytest.raises(PortUnavailable, match=f"can't listen on 127.0.0.1:{stand.port}"):
                await second.start(host="127.0.0.1", port=stand.port)
            await second.stop(grace_s=0)

    asyncio.run(story())


def test_other_calls_are_unimplemented(tmp_path):
    """A call of TensorFlow Serving's that this server doesn't have says so."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            run = stand.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
            assert (await code_of(run(b"")))[0] is CODE.UNIMPLEMENTED

    asyncio.run(story())


def test_a_call_that_ends_before_its_request(tmp_path, transport):
    """A stream that is closed at once is no request."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            call = stand.channel.stream_unary(PREDICT.path)(iter(()))
            told = CODE.INVALID_ARGUMENT, "the call ended before its PredictRequest"
            # The native server says so itself.
            assert await code_of(call) == (
                (CODE.INTERNAL, "Missing request message.") if transport == "native" else told
            )

    asyncio.run(story())


@pytest.mark.parametrize("way", ["content", "typed"])
def test_large_tensors_go_and_come(tmp_path, way):
    """Megabytes in and out, in a thread: the same values, and small calls beside them."""

    async def story():
        x = np.random.default_rng(0).random((large.LARGE_BYTES // 4, 2), np.float32)
        asked = pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs={"x": encode(x)})
        if way == "typed":
            asked.inputs["x"].ClearField("tensor_content")
            asked.inputs["x"].float_val.extend(x.reshape(-1).tolist())
        async with loaded(path=tmp_path) as stand:
            reply, small = await stand.predict(asked), await stand.predict(request(3))
            np.testing.assert_array_equal(decode(reply.outputs["y"]), x * 2)
            assert reply.model_spec.name == "m"
            assert decode(small.outputs["y"]).tolist() == [[6, 6]]

    asyncio.run(story())


def test_a_broken_large_message_is_the_callers_fault(tmp_path):
    """What is cut by hand is refused by name too."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            raw = stand.channel.unary_unary(PREDICT.path)
            code, text = await code_of(raw(b"\xff" * (large.LARGE_BYTES + 1)))
            assert (code, text) == (CODE.INVALID_ARGUMENT, "the request is no message of protobuf's wire format")

    asyncio.run(story())


def test_the_bound_on_messages_is_told_with_both_figures(tmp_path):
    """A larger message is RESOURCE_EXHAUSTED, in and out, with value and bound."""

    async def story():
        async with loaded(path=tmp_path, max_message_bytes=2000) as stand:
            asked = pb.PredictRequest(model_spec=pb.ModelSpec(name="m"))
            asked.inputs["x"].CopyFrom(encode(np.zeros((400, 2), np.float32)))
            code, text = await code_of(stand.predict(asked))
            assert code is CODE.RESOURCE_EXHAUSTED
            assert str(asked.ByteSize()) in text
            assert "2000" in text

    asyncio.run(story())


@pytest.mark.parametrize("rows", [7000, 200_000])
def test_an_answer_over_the_bound_is_counted_as_what_its_caller_got(tmp_path, caplog, rows):
    """RESOURCE_EXHAUSTED with both figures, for whoever counts too; and the log has no fault to tell."""
    asked = pb.PredictRequest(model_spec=pb.ModelSpec(name="m"))
    asked.inputs["x"].CopyFrom(encode(np.ones((rows, 2), np.float32)))
    bound = asked.ByteSize()
    told = []

    async def story():
        async with loaded(path=tmp_path, max_message_bytes=bound) as stand:
            stand.plane._observe = lambda _, servable_id, answer, __: told.append((servable_id.version, answer))
            for _ in range(3):
                code, text = await code_of(stand.predict(asked))
                assert code is CODE.RESOURCE_EXHAUSTED
                size = int(re.fullmatch(rf"SERVER: Sent message larger than max \((\d+) vs\. {bound}\)", text)[1])
                assert size > bound
                fits = pb.PredictRequest(model_spec=asked.model_spec)
                fits.inputs["x"].CopyFrom(encode(np.ones((rows - 20, 2), np.float32)))
                assert await code_of(stand.predict(fits)) == (CODE.OK, "")
        counted = Counter((version, type(answer).__name__) for version, answer in told)
        assert counted == {(1, "QueueFull"): 3, (1, "PredictReply"): 3}

    asyncio.run(story())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_refused_request_is_held_by_nothing(tmp_path):
    """Neither by what it was refused with nor by where that was raised, long before Python looks for such."""
    told = []

    async def story():
        async with loaded(path=tmp_path, max_message_bytes=100_000) as stand:
            stand.plane._observe = lambda call, *_: told.append(call.target.name)
            for name in ("m", "n"):
                asked = pb.PredictRequest(model_spec=pb.ModelSpec(name=name))
                assert (await code_of(stand.predict(asked)))[0] is not CODE.OK

    gc.collect()
    before = [id(one) for one in gc.get_objects() if isinstance(one, PredictCall)]
    gc.disable()
    try:
        asyncio.run(story())
        assert told == ["m", "n"]
        left = [one for one in gc.get_objects() if isinstance(one, PredictCall) and id(one) not in before]
        assert not [one for one in left if one.started_s]  # Templates have some that never came.
    finally:
        gc.enable()


def test_what_was_read_of_a_call_goes_with_it(tmp_path):
    """Answered, refused or given up, with a bound on messages: none waits for Python to look for what holds itself."""
    calls = []

    async def story():
        executor = SlowExecutor(factor=2)
        # On the loop a run would wait for a gate that the loop is to open.
        batching = dataclasses.replace(OPTIONS, max_inline_us=0)
        async with loaded(executor, tmp_path, batching=batching, max_message_bytes=100_000) as stand:
            stand.plane._observe = lambda call, *_: calls.append(call)
            executor.gate.set()
            assert await code_of(stand.predict(request(1))) == (CODE.OK, "")
            assert (await code_of(stand.predict(pb.PredictRequest(model_spec=pb.ModelSpec(name="m")))))[
                0
            ] is not CODE.OK
            executor.gate.clear()
            executor.entered.clear()
            leaving = stand.predict(request(3))
            assert await asyncio.to_thread(executor.entered.wait, 30)
            leaving.cancel()
            end_s = time.monotonic() + 30
            while stand.server.waiting():  # Nobody tells.
                assert time.monotonic() < end_s
                await asyncio.sleep(0.005)
            executor.gate.set()
        assert len(calls) == 3
        assert [call.refuses for call in calls] == [None] * 3

    asyncio.run(story())


def test_the_client_is_known_by_field_or_header(tmp_path):
    """The request's own client_id comes before the header, and both before nobody."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            asked = request()
            await stand.predict(asked)
            await stand.predict(asked, metadata=(("x-client-id", "header"),))
            asked.client_id = b"field"
            await stand.predict(asked, metadata=(("x-client-id", "header"),))
            keys = [key for what, key in stand.control.orders if what == "acquire"]
            assert keys == [b"", b"header", b"field"]

    asyncio.run(story())


@pytest.mark.parametrize(("said", "priority"), [(None, 0), ("high", 1), ("low", -1), ("normal", 0), ("7", 0)])
def test_a_priority_is_heard(tmp_path, said, priority):
    """What the metadata say, in words; anything else is normal."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            seen = []
            stand.plane._observe = lambda call, *_: seen.append(call.priority)
            await stand.predict(request(), metadata=() if said is None else (("x-priority", said),))
            while not seen:  # noqa: ASYNC110  the answer is sent before it is counted
                await asyncio.sleep(0.005)
            assert seen == [priority]

    asyncio.run(story())


def test_what_is_no_message_is_invalid_and_tells_nothing_of_the_inside(tmp_path):
    """Bytes that don't parse are the caller's fault, told without the names of our classes."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            raw = stand.channel.unary_unary(PREDICT.path)
            expected = (CODE.INVALID_ARGUMENT, "the request is no PredictRequest")
            assert await code_of(raw(b"\xff" * 10)) == expected

    asyncio.run(story())


@pytest.mark.parametrize("letter", ["n", "ж"])
def test_a_long_name_does_not_cost_the_code(tmp_path, letter):
    """A text that quotes a name of 100,000 letters is cut: trailers that long are dropped, and the code with them."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            asked = pb.PredictRequest(model_spec=pb.ModelSpec(name=letter * 100_000))
            code, text = await code_of(stand.predict(asked))
            assert code is CODE.NOT_FOUND
            assert text.startswith(f"Servable not found for request: Latest({letter}")
            assert text.endswith("... (cut)")

    asyncio.run(story())


def test_a_health_watch_hears_the_end_and_does_not_delay_it(tmp_path):
    """A Watch never ends by itself: it is told NOT_SERVING and ended, long before the grace."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            statuses = health_pb2.HealthCheckResponse
            await stand.server.set_serving(serving=True)
            watch = health_pb2_grpc.HealthStub(stand.channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == statuses.SERVING
            await stand.server.set_serving(serving=False)
            await asyncio.wait_for(stand.server.stop(grace_s=60), timeout=20)
            assert (await watch.read()).status == statuses.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF

    asyncio.run(story())


def test_a_burst_that_comes_at_once_is_answered_whole(tmp_path):
    """Calls that pile up while the event loop is held wait to be taken: gRPC's own bound would drop some unsaid."""

    def burst(port):
        asked = pb.PredictRequest(model_spec=pb.ModelSpec(name="unknown"))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            predict = PREDICT.bind(channel)
            calls = [predict.future(asked, timeout=60) for _ in range(4000)]
            return Counter(call.exception().code() for call in calls)

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            codes = asyncio.ensure_future(asyncio.to_thread(burst, stand.port))
            time.sleep(2)  # noqa: ASYNC251  the loop is to be held while they come
            assert await codes == {CODE.NOT_FOUND: 4000}

    asyncio.run(story())


def test_who_comes_while_it_stops_is_told_to_go_elsewhere(tmp_path):
    """A call in flight is answered; those that come on the same connection are UNAVAILABLE, and not CANCELLED."""

    async def story():
        executor = SlowExecutor()
        async with standing(executor, tmp_path) as stand:
            await asyncio.to_thread(stand.load)
            running = asyncio.ensure_future(stand.predict(request(1)))
            assert await asyncio.to_thread(executor.entered.wait, 10)
            stopping = asyncio.ensure_future(stand.server.stop(grace_s=60))
            await asyncio.sleep(0)
            codes = [await code_of(stand.predict(request(2))) for _ in range(20)]
            assert set(codes) == {(CODE.UNAVAILABLE, "the server is stopping")}
            executor.gate.set()
            assert decode((await running).outputs["y"]).tolist() == [[1, 1]]
            late = [code_of(stand.predict(request(2))) for _ in range(20)]
            assert {code for code, _ in await asyncio.gather(*late)} == {CODE.UNAVAILABLE}
            await asyncio.wait_for(stopping, 30)

    asyncio.run(story())


def test_who_asks_again_and_again_is_never_told_that_it_cancelled(tmp_path):
    """Callers that ask as soon as they are answered, up to and past the end: all are answered or UNAVAILABLE.

    What comes once gRPC's server is told to stop, and before its clients know, it would itself answer with CANCELLED.
    """
    ended = threading.Event()

    def ask(channel):
        codes = Counter()
        predict = PREDICT.bind(channel)
        while not ended.is_set():
            try:
                predict(pb.PredictRequest(model_spec=pb.ModelSpec(name="unknown")), timeout=60)
            except grpc.RpcError as error:
                codes[error.code()] += 1
        return codes

    async def story():
        async with contextlib.AsyncExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(32))
            stack.callback(ended.set)
            stand = await stack.enter_async_context(standing(FakeExecutor(), tmp_path))
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [
                stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{stand.port}", options)) for _ in range(4)
            ]
            loop = asyncio.get_running_loop()
            asking = [loop.run_in_executor(pool, ask, channels[place % 4]) for place in range(32)]
            await asyncio.sleep(0.5)
            await asyncio.wait_for(stand.server.stop(grace_s=60), 30)
            ended.set()
            counts = sum(await asyncio.gather(*asking), Counter())
            assert set(counts) == {CODE.NOT_FOUND, CODE.UNAVAILABLE}, counts

    asyncio.run(story())
