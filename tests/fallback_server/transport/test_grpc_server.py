import asyncio
import contextlib
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor, GatedLoader

from fallback_server.app import PlainVersions
from fallback_server.batching.options import BatchingOptions
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId
from fallback_server.core.source import AspiredVersion
from fallback_server.dataplane import DataPlane
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode
from fallback_server.served_model import ServedModel
from fallback_server.transport.grpc_server import GrpcServer, PortUnavailable

OPTIONS = BatchingOptions(max_batch_size_rows=1, max_enqueued_batches=1, num_batch_threads=1)
CODE = grpc.StatusCode


class SlowExecutor(FakeExecutor):
    """Waits for `gate` at each run."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.values = []

    def run(self, name, inputs):
        self.values.append(float(inputs["x"][0, 0]))
        self.entered.set()
        assert self.gate.wait(20)
        return super().run(name, inputs)


class Stand:
    """A gRPC server on loopback over one fake executor, whose load waits for `loader.gate`."""

    def __init__(self, executor, path):
        self.executor = executor
        self.loader = GatedLoader(ServedModel(ServableId("m", 1), executor, OPTIONS))
        self.manager = Manager(make_loader=lambda *_: self.loader, options=ManagerOptions())
        self.plane = DataPlane(
            versions=PlainVersions(self.manager), options=OPTIONS, clock=asyncio.get_running_loop().time
        )
        self.server = GrpcServer(self.plane, max_tensor_bytes=1000)
        self.manager.set_aspired({ServableId("m", 1): AspiredVersion(path=path, fingerprint=())})

    def load(self):
        self.loader.gate.set()
        assert self.manager.wait_idle(timeout_s=10)


@contextlib.asynccontextmanager
async def standing(executor, path):
    stand = Stand(executor, path)
    port = await stand.server.start(host="127.0.0.1", port=0)
    stand.plane.scheduler.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stand.channel, stand.port = channel, port
        stand.predict = channel.unary_unary(
            PREDICT.path,
            request_serializer=PREDICT.request.SerializeToString,
            response_deserializer=PREDICT.response.FromString,
        )
        yield stand
    await stand.server.stop(grace_s=1)
    assert stand.plane.scheduler.stop(timeout_s=5)
    stand.loader.gate.set()
    assert stand.manager.stop(timeout_s=5)


def request(value=1.0):
    inputs = {"x": encode(np.full((1, 2), value, np.float32))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs=inputs)


async def code_of(awaitable):
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return CODE.OK, ""


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
            codes = set()
            while CODE.RESOURCE_EXHAUSTED not in codes:  # until the waiting one has arrived
                codes.add((await code_of(stand.predict(request(3), timeout=0.2)))[0])
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            while len(stand.server._waiting) > 1:  # noqa: ASYNC110  the server tells nobody when it hears of it
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
            second = GrpcServer(stand.plane, max_tensor_bytes=1000)
            with pytest.raises(PortUnavailable, match=f"can't listen on 127.0.0.1:{stand.port}"):
                await second.start(host="127.0.0.1", port=stand.port)
            await second.stop(grace_s=0)

    asyncio.run(story())


def test_other_calls_are_unimplemented(tmp_path):
    """Calls of TensorFlow Serving's that this server doesn't have say so."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            classify = stand.channel.unary_unary("/tensorflow.serving.PredictionService/Classify")
            assert (await code_of(classify(b"")))[0] is CODE.UNIMPLEMENTED

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
