"""What the native server has beside what both transports are held to."""

import asyncio
import gzip
import logging
import stat
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import SlowExecutor, code_of, loaded

from fallback_server.batching.options import BatchingOptions
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode
from fallback_server.transport.grpc_server import GrpcServer, PortUnavailable

pytestmark = pytest.mark.usefixtures("fast")

CODE = grpc.StatusCode


def request(value=1.0, rows=1):
    inputs = {"x": encode(np.full((rows, 2), value, np.float32))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs=inputs)


def native(tmp_path, executor=None, **options):
    return loaded(executor, tmp_path, native=True, **options)


def look(folder):
    if not folder.exists():
        return None
    return stat.S_IMODE(folder.stat().st_mode), [path.name for path in folder.iterdir()]


def test_the_socket_behind_it_is_for_nobody_else(tmp_path):
    """Its folder is its owner's alone, and gone with the server."""

    async def story():
        async with native(tmp_path) as stand:
            folder = stand.server._private.path
            assert look(folder) == (0o700, ["grpc.sock"])
            health = health_pb2_grpc.HealthStub(stand.channel)  # Its Watch comes from there.
            assert (await health.Watch(health_pb2.HealthCheckRequest()).read()).status == 1
        assert look(folder) is None

    asyncio.run(story())


class HeldExecutor(FakeExecutor):
    """Runs short, in this process; a run of the value 13 waits for `gate`."""

    in_process = True

    def __init__(self):
        super().__init__(factor=2)
        self.gate = threading.Event()
        self.threads = []

    def run(self, name, inputs):
        self.threads.append(threading.current_thread().name)
        if 13 in inputs["x"]:
            assert self.gate.wait(30)
        return super().run(name, inputs)


def test_a_model_that_hangs_in_a_receiver_stops_nobody(tmp_path):
    """Short runs are the receivers' own; while one of them hangs, others answer what else comes."""
    executor = HeldExecutor()

    async def story():
        async with native(tmp_path, executor, batching=BatchingOptions(), inline_s=1.0) as stand:
            for _ in range(50):  # Until it is known to be short.
                await stand.predict(request(), timeout=20)
            assert executor.threads[-1].startswith("receiver-")
            hanging = asyncio.ensure_future(stand.predict(request(13), timeout=60))
            while not executor.threads or len(executor.threads) < 51:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.005)
            for _ in range(20):
                asked = pb.GetModelMetadataRequest(model_spec=pb.ModelSpec(name="m"), metadata_field=["signature_def"])
                await stand.unary(methods.GET_MODEL_METADATA)(asked, timeout=20)
                reply = await stand.predict(request(3), timeout=20)
                assert decode(reply.outputs["y"]).tolist() == [[6, 6]]
            executor.gate.set()
            assert decode((await hanging).outputs["y"]).tolist() == [[26, 26]]

    try:
        asyncio.run(story())
    finally:
        executor.gate.set()


def test_answers_that_are_large_are_on_their_way_before_it_ends(tmp_path):
    """A stop waits until what was answered is sent: closing a connection cuts off what is still to be."""

    async def story():
        executor = SlowExecutor(factor=2)
        async with native(tmp_path, executor) as stand:
            asked = [asyncio.ensure_future(stand.predict(request(1, rows=250_000))) for _ in range(1)]
            assert await asyncio.to_thread(executor.entered.wait, 30)
            stopping = asyncio.ensure_future(stand.server.stop(grace_s=30))
            await asyncio.sleep(0)
            executor.gate.set()
            for reply in await asyncio.gather(*asked):
                assert decode(reply.outputs["y"]).shape == (250_000, 2)
            await stopping

    asyncio.run(story())


def test_the_bound_holds_for_answers_and_for_what_is_packed(tmp_path):
    """An answer over the bound is refused, and so is a message that is small only as long as it is compressed."""

    async def story():
        async with native(tmp_path, max_message_bytes=60_000) as stand:
            asked = request(rows=10_000)
            call = stand.channel.unary_unary(methods.PREDICT.path)
            data = asked.SerializeToString()
            assert len(gzip.compress(data)) < 2000
            code, text = await code_of(call(data, compression=grpc.Compression.Gzip))
            assert code is CODE.RESOURCE_EXHAUSTED
            assert text == f"SERVER: Received message larger than max ({len(data)} vs. 60000)"
            fits = request(rows=7000)
            reply = await stand.predict(fits, timeout=20)
            stand.server._fronts[0]._max_bytes = fits.ByteSize()  # The answer is larger by the signature's name.
            told = f"SERVER: Sent message larger than max ({reply.ByteSize()} vs. {fits.ByteSize()})"
            assert await code_of(stand.predict(fits, timeout=20)) == (CODE.RESOURCE_EXHAUSTED, told)

    asyncio.run(story())


def test_what_it_gives_up_is_run_for_nobody(tmp_path):
    """A grace that is over leaves calls unanswered: their callers hear of it, and the data plane too."""

    async def story():
        executor = SlowExecutor()
        async with native(tmp_path, executor) as stand:
            running = asyncio.ensure_future(code_of(stand.predict(request(1))))
            assert await asyncio.to_thread(executor.entered.wait, 30)
            waiting = asyncio.ensure_future(code_of(stand.predict(request(2))))
            while stand.server.waiting() < 2:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.005)
            await stand.server.stop(grace_s=0)
            assert {code for code, _ in await asyncio.gather(running, waiting)} == {CODE.UNAVAILABLE}
            assert stand.server.waiting() == 0
            executor.gate.set()
        assert executor.values == [1]

    asyncio.run(story())


def test_a_watch_passes_through(tmp_path, caplog):
    """Streams of our own come from the server behind it, as they are."""
    caplog.set_level(logging.WARNING, "fallback_server")

    async def story():
        async with native(tmp_path) as stand:
            watch = stand.channel.unary_stream(
                methods.CATALOG_WATCH.path,
                request_serializer=edge_pb2.CatalogRequest.SerializeToString,
                response_deserializer=edge_pb2.CatalogUpdate.FromString,
            )(edge_pb2.CatalogRequest())
            assert (await watch.read()).models[0].name == "m"
            stand.control.labels["next"] = 1
            stand.control.changed()
            assert dict((await watch.read()).models[0].labels)["next"] == 1

    asyncio.run(story())
    assert not caplog.records


def test_a_start_that_fails_leaves_nothing(tmp_path):
    """Neither port nor folder: where the socket beside the port can't be had, the port is free again."""

    async def story():
        async with native(tmp_path) as stand:
            made = [GrpcServer(stand.plane, stand.control, native=True) for _ in range(2)]
            port = await made[0].start(host="127.0.0.1", port=0)
            await made[0].stop(grace_s=1)
            with pytest.raises(PortUnavailable, match="can't listen on unix:"):
                await made[1].start(host="127.0.0.1", port=port, socket_path=str(tmp_path / "no" / "where"))
            assert not made[1]._private.path.exists()
            again = GrpcServer(stand.plane, stand.control, native=True)
            assert await again.start(host="127.0.0.1", port=port) == port
            for server in (again, made[1]):
                await server.stop(grace_s=1)

    asyncio.run(story())


def test_what_is_told_of_its_differences(tmp_path):
    """It reads gzip and no deflate, and its callers' metadata have a bound that is not gRPC's."""

    async def story():
        async with native(tmp_path) as stand:
            assert await code_of(stand.predict(request(), compression=grpc.Compression.Gzip)) == (CODE.OK, "")
            code, text = await code_of(stand.predict(request(), compression=grpc.Compression.Deflate))
            assert (code, "deflate" in text) == (CODE.UNIMPLEMENTED, True)
            assert await code_of(stand.predict(request(), metadata=[("k", "v" * 15_000)])) == (CODE.OK, "")
            code, text = await code_of(stand.predict(request(), metadata=[("k", "v" * 17_000)]))
            assert (code, "431" in text) == (CODE.UNKNOWN, True)

    asyncio.run(story())
