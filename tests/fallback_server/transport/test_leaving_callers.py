import asyncio
import contextlib
import logging
import socket
import time

import grpc
import numpy as np
import pytest
from support.grpc_stand import SlowExecutor, code_of, loaded
from support.rest_stand import Gate, standing

from fallback_server.metrics import Metrics, observer
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2, inference_pb2
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode
from fallback_server.transport.faults import code_of as name_of

pytestmark = pytest.mark.usefixtures("transport")

BODY = b'{"inputs": [1]}'


def request(value):
    inputs = {"x": encode(np.full((1, 2), value, np.float32))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs=inputs)


def counts(metrics):
    """Of both families, by code."""
    lines = metrics.render()[0].decode().splitlines()
    return [
        {line.rsplit('="', 1)[1].split('"')[0]: int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)}
        for name in (":tensorflow:serving:request_count{", "edge_fallback_requests_total{")
    ]


def work(manager, name):
    with manager.acquire(name) as handle:
        statistics = handle.servable.statistics
        return statistics.work().answered, statistics.work().failed, dict(statistics.figures().errors)


async def until(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("timeout_s", "code", "name"),
    [(0.3, "DEADLINE_EXCEEDED", "DeadlineExceeded"), (60, "CANCELLED", "RequestCancelled")],
)
def test_what_counts_is_the_code_that_the_caller_got(tmp_path, timeout_s, code, name):
    """A run that ends when its caller's time is over, or the caller gone, is no success; one that is waited for is."""
    executor = SlowExecutor()

    async def story():
        async with loaded(executor, tmp_path) as stand:
            metrics = Metrics()
            stand.plane._observe = observer(metrics, name_of)
            call = stand.predict(request(1), timeout=timeout_s)
            assert await asyncio.to_thread(executor.entered.wait, 30)
            if code == "CANCELLED":
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await call
            else:
                assert (await code_of(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: not stand.server.waiting())
            executor.gate.set()
            await stand.predict(request(2))
            assert executor.values == [1, 2]
            await until(lambda: work(stand.manager, "m") == (1, 1, {name: 1}))
            assert counts(metrics) == [{code: 1, "OK": 1}] * 2

    try:
        asyncio.run(story())
    finally:
        executor.gate.set()


def test_a_client_that_closes_its_connection_is_counted_as_cancelled(tmp_path):
    """Over REST as over gRPC."""
    gate, metrics = Gate(), Metrics()
    with standing({("slow", 1): gate.executor}, tmp_path) as stand:
        plane = stand.server._backend.dataplane
        plane._observe = observer(metrics, name_of)
        with socket.create_connection(("127.0.0.1", stand.port)) as client:
            head = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(BODY) + BODY)
            assert gate.entered.wait(30)
        asyncio.run(until(lambda: not len(stand.server._backend._waiting)))
        gate.opened.set()
        asyncio.run(until(lambda: counts(metrics)[0]))
        assert counts(metrics) == [{"CANCELLED": 1}] * 2


def test_who_leaves_a_stream_is_no_error_of_the_server(tmp_path, caplog):
    """Also where the server is about to write: the log tells an operator of none of them."""
    caplog.set_level(logging.DEBUG, "fallback_server")

    async def story():
        async with loaded(None, tmp_path) as stand:
            watch = stand.channel.unary_stream(
                methods.CATALOG_WATCH.path,
                request_serializer=edge_pb2.CatalogRequest.SerializeToString,
                response_deserializer=edge_pb2.CatalogUpdate.FromString,
            )
            infer = stand.channel.stream_stream(methods.MODEL_STREAM_INFER.path)
            for turn in range(30):
                watching, asking = watch(edge_pb2.CatalogRequest()), infer()
                await watching.read()
                await asking.write(inference_pb2.ModelInferRequest(model_name="nobody").SerializeToString())
                watching.cancel()
                asking.cancel()
                stand.control.labels["turn"] = turn
                stand.server._changes.tell()
                # Any call: what was sent before it has come by then.
                await stand.unary(methods.SERVER_LIVE)(inference_pb2.ServerLiveRequest())

    asyncio.run(story())
    assert "the caller has left" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
