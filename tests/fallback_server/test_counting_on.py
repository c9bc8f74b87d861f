"""Figures of a version whose process dies, under a real server."""

import os
import signal
import time

import grpc
import numpy as np
import psutil
import pytest
from support.fallback_process import Client, ServerProcess

from fallback_server.protocol import methods
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import inference_pb2
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode


def workers(server):
    """Processes below the server's own, with those that make them."""
    return {child.pid for child in psutil.Process(server.process.pid).children(recursive=True)}


@pytest.mark.slow
def test_a_version_that_is_loaded_anew_goes_on_counting(tmp_path, models):
    """What it had answered before its process was killed is counted still."""
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale" / "1").symlink_to(models / "scale" / "1")
    server = ServerProcess(f"--model_repository={tmp_path}", "--port=0", "--no-mdns")
    client = Client(server.address)
    predict = client.channel.unary_unary(PREDICT.path, PREDICT.request.SerializeToString, PREDICT.response.FromString)
    method = methods.MODEL_STATISTICS
    told = client.channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
    request = pb.PredictRequest(model_spec=pb.ModelSpec(name="scale"), inputs={"x": encode(np.float32([[1, 2, 3]]))})

    def answered():
        try:
            predict(request, timeout=30)
        except grpc.RpcError:
            return False
        return True

    def successes():
        (stats,) = told(inference_pb2.ModelStatisticsRequest(name="scale"), timeout=30).model_stats
        return stats.inference_stats.success.count

    def until(condition):
        end_s = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end_s, server.log
            time.sleep(0.05)

    try:
        assert all(answered() for _ in range(3))
        until(lambda: successes() == 3)
        newest = max(workers(server))
        os.kill(newest, signal.SIGKILL)
        until(lambda: any("was lost" in line for line in server.log))
        until(answered)
        until(lambda: successes() == 4)
    finally:
        client.close()
        server.close()
