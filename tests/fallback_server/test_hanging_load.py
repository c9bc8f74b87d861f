"""Real loads and runs that take for ever, beside what is well."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest
from support.fallback_process import Client, ServerProcess
from support.fallback_workers import record, wait_until

from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode

pytestmark = pytest.mark.slow

RECORDS = 1000
"""Of a good part of a second each."""


@pytest.fixture
def repository(models, tmp_path):
    shutil.copytree(models / "scale" / "1", tmp_path / "scale" / "1")
    shutil.copytree(models / "slow", tmp_path / "hung")
    log = pb.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(encode(np.ones((1, 3), np.float32)))
    extra = tmp_path / "hung" / "1" / "assets.extra"
    extra.mkdir()
    (extra / "tf_serving_warmup_requests").write_bytes(record(log.SerializeToString()) * RECORDS)
    return tmp_path


def workers(server, title):
    processes = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in processes if process.name() == title]


def test_it_keeps_no_other_from_being_served_and_ends_with_its_folder_and_with_the_server(repository):
    """Ready without it, and it is named; its process is gone with its folder, and at the end: without any error."""
    server = ServerProcess(
        "--port=0", "--rest_api_port=0", "--no-mdns", f"--model_repository={repository}", "--max_start_wait_s=1"
    )
    client = Client(server.address)
    try:
        wait_until(lambda: client.states("scale") == {1: "AVAILABLE"})
        assert client.states("hung") == {1: "LOADING"}
        (told,) = [line for line in server.log if "no load has ended for 1 s" in line]
        assert "{name: hung version: 1}" in told
        wait_until(lambda: workers(server, "hung/1"))
        shutil.move(repository / "hung", repository / ".hung")
        wait_until(lambda: client.states("hung") == {1: "END"})
        wait_until(lambda: not workers(server, "hung/1"))
        shutil.move(repository / ".hung", repository / "hung")
        wait_until(lambda: workers(server, "hung/1"))
        wait_until(lambda: client.states("hung") == {1: "LOADING"})
        server.terminate()
        assert server.wait() == 0
        assert [line for line in server.log if " ERROR " in line] == []
    finally:
        client.close()
        server.close()


def test_a_run_that_hangs_holds_its_version_for_so_long_alone(models, tmp_path):
    """A version is to go whose worker is stuck in a request: the request is told so, and the version comes back."""
    shutil.copytree(models / "scale" / "1", tmp_path / "scale" / "1")
    server = ServerProcess("--port=0", "--no-mdns", f"--model_repository={tmp_path}", "--max_unload_wait_s=2")
    client = Client(server.address)
    request = pb.PredictRequest(inputs={"x": encode(np.ones((1, 3), np.float32))})
    request.model_spec.name = "scale"
    try:
        wait_until(lambda: client.states("scale") == {1: "AVAILABLE"})
        (worker,) = workers(server, "scale/1")
        worker.suspend()
        with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(methods.PREDICT.bind(channel), request, timeout=60)
            wait_until(stuck.running)
            shutil.move(tmp_path / "scale", tmp_path / ".scale")
            wait_until(lambda: client.states("scale") == {1: "UNLOADING"})
            with pytest.raises(grpc.RpcError, match="taken out of service, and waits for the request no longer"):
                stuck.result(30)
        wait_until(lambda: client.states("scale") == {1: "END"})
        shutil.move(tmp_path / ".scale", tmp_path / "scale")
        wait_until(lambda: client.states("scale") == {1: "AVAILABLE"})
        assert any("held by 1 requests 2 s after it was to be unloaded" in line for line in server.log)
    finally:
        client.close()
        server.close()
