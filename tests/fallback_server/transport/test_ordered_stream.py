import asyncio
import gc
import time
import weakref

import grpc
import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import SlowExecutor, loaded

from fallback_server.batching.options import BatchingOptions
from fallback_server.protocol import methods
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.transport import ordered_stream, rpc
from fallback_server.transport.ordered_stream import MAX_STREAM_REQUESTS

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode
THREADS = BatchingOptions(enabled=False, num_batch_threads=4, max_enqueued_batches=1000, max_inline_us=0)
"""None runs on the loop: there it would wait for a gate that the loop is to open."""


class FirstWaits(SlowExecutor):
    """Waits for `gate` where the value is 0, and answers all others at once."""

    def run(self, name, inputs):
        if inputs["x"][0, 0] == 0:
            return super().run(name, inputs)
        self.values.append(float(inputs["x"][0, 0]))
        return FakeExecutor.run(self, name, inputs)


def request(value, *, model="m", **options):
    message = pb.ModelInferRequest(model_name=model, id=str(value), **options)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(np.full((1, 2), value, np.float32).tobytes())
    return message


def told(story, tmp_path, executor, **options):
    async def run():
        async with loaded(executor, tmp_path, **{"batching": THREADS, **options}) as stand:
            await asyncio.wait_for(story(stand), 60)

    try:
        asyncio.run(run())
    finally:
        executor.gate.set()


def opened(stand):
    return stand.channel.stream_stream(
        methods.MODEL_STREAM_INFER.path,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )()


async def until(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


def test_answers_come_in_the_order_of_the_requests(tmp_path):
    """Later ones run while the first does, and neither their answers nor an error overtake it."""
    executor = FirstWaits()

    async def story(stand):
        stream = opened(stand)
        for value in (0, 1, 2):
            await stream.write(request(value))
        await stream.write(request(3, model="nobody"))
        await stream.write(request(4))
        await until(lambda: sorted(executor.values) == [0, 1, 2, 4])
        executor.gate.set()
        answers = [await stream.read() for _ in range(5)]
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
        assert [bool(answer.error_message) for answer in answers] == [False, False, False, True, False]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == CODE.OK

    told(story, tmp_path, executor)


def test_what_waits_for_the_first_answer_is_bounded(tmp_path):
    """No more is read than may wait; the rest is when there is room, and all are answered."""
    executor, count = FirstWaits(), MAX_STREAM_REQUESTS + 20

    async def story(stand):
        stream = opened(stand)
        for value in range(count):
            await stream.write(request(value))
        await until(lambda: len(executor.values) == MAX_STREAM_REQUESTS)
        await stand.unary(methods.SERVER_LIVE)(pb.ServerLiveRequest())
        assert len(executor.values) == MAX_STREAM_REQUESTS
        executor.gate.set()
        await stream.done_writing()
        assert [(await stream.read()).infer_response.id for _ in range(count)] == [str(each) for each in range(count)]
        assert await stream.code() == CODE.OK

    told(story, tmp_path, executor)


def test_large_messages_that_wait_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    """As requests, and as answers; one that is larger than the bound is answered alone."""
    executor, count = FirstWaits(), 20

    def long(value):
        # An answer tells the id too, so it is nearly as large: as many fit before it is there as after it.
        message = request(value)
        message.id = f"{value:200}"
        return message

    async def story(stand):
        alone = opened(stand)
        await alone.write(long(1))
        monkeypatch.setattr(ordered_stream, "MAX_STREAM_BYTES", 5 * len((await alone.read()).SerializeToString()))
        alone.cancel()
        executor.values.clear()
        stream = opened(stand)
        for value in range(count):
            await stream.write(long(value))
        await until(lambda: len(executor.values) >= 6)
        await stand.unary(methods.SERVER_LIVE)(pb.ServerLiveRequest())
        assert len(executor.values) == 6
        executor.gate.set()
        monkeypatch.setattr(ordered_stream, "MAX_STREAM_BYTES", 1)
        await stream.done_writing()
        assert [int((await stream.read()).infer_response.id) for _ in range(count)] == list(range(count))

    told(story, tmp_path, executor)


def test_what_a_stream_of_large_messages_leaves_behind_is_given_back(tmp_path, monkeypatch):
    """At its end, also where its caller leaves, and not what a small one leaves."""
    monkeypatch.setattr(rpc, "GIVE_BACK_BYTES", 8 * len(request(0).SerializeToString()))
    given = []
    monkeypatch.setattr(rpc, "give_back", lambda: given.append(True))
    executor = FirstWaits()

    async def story(stand):
        small, large = opened(stand), opened(stand)
        await small.write(request(1))
        await small.read()
        await small.done_writing()
        assert await small.code() == CODE.OK
        for value in range(9):
            await large.write(request(value))
        await until(lambda: sorted(executor.values) == [0, 1, *range(1, 9)])
        assert not given
        large.cancel()
        await until(lambda: given)
        executor.gate.set()

    told(story, tmp_path, executor)


def test_a_stream_that_was_cancelled_holds_no_answers(tmp_path):
    """They are free at once, and not when Python next looks for what refers to itself."""
    executor = FirstWaits()

    async def story(stand):
        gc.collect()
        gc.disable()
        try:
            stream = opened(stand)
            for value in range(9):
                await stream.write(request(value))
            await until(lambda: sorted(executor.values) == list(range(9)))
            held = [weakref.ref(each) for each in gc.get_objects() if isinstance(each, ordered_stream._Held)]
            stream.cancel()
            await until(lambda: not any(each._bytes for each in [ref() for ref in held] if each is not None))
        finally:
            gc.enable()
        executor.gate.set()

    told(story, tmp_path, executor)


def test_a_stop_ends_a_stream_and_answers_what_it_has_taken(tmp_path):
    """An idle one at once, one with a request when that is answered: neither waits for the grace to be over."""
    executor = FirstWaits()

    async def story(stand):
        idle, busy = opened(stand), opened(stand)
        await idle.write(request(1))
        assert (await idle.read()).infer_response.id == "1"
        await busy.write(request(0))
        await until(executor.entered.is_set)
        stopping = asyncio.create_task(stand.server.stop(grace_s=3600))
        with pytest.raises(grpc.aio.AioRpcError):
            await idle.read()
        text = "the server is stopping: ask for the rest elsewhere, or later"
        assert (await idle.code(), await idle.details()) == (CODE.UNAVAILABLE, text)
        assert not busy.done()
        executor.gate.set()
        assert (await busy.read()).infer_response.id == "0"
        with pytest.raises(grpc.aio.AioRpcError):
            await busy.read()
        assert await busy.code() == CODE.UNAVAILABLE
        await stopping

    told(story, tmp_path, executor)
