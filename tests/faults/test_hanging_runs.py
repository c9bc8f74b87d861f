"""A model that loops on what some requests hold, in a real server."""

import time

import grpc
import numpy as np
import pytest
from support.fallback_process import ServerProcess
from support.fault_servers import FLAGS
from support.harmful_models import looping_model

from fallback_server.protocol import methods, tensors
from fallback_server.protocol.proto import serving_pb2 as pb

pytestmark = pytest.mark.slow

BACK_S = 60.0
"""Of a busy machine, for a second's bound and a load."""


def test_runs_that_loop_are_ended_when_their_callers_have_left(tmp_path):
    """As many as the model has threads: then it answers again, by another process, and the log has said why."""
    (tmp_path / "loop" / "1").mkdir(parents=True)
    (tmp_path / "loop" / "1" / "model.tflite").write_bytes(looping_model(by_value=True))
    server = ServerProcess("--port=0", *FLAGS, f"--model_repository={tmp_path}", "--max_abandoned_run_s=1")
    try:
        with grpc.insecure_channel(server.address) as channel:
            call = methods.PREDICT.bind(channel)

            def asked(value, timeout_s):
                request = pb.PredictRequest()
                request.model_spec.name = "loop"
                request.inputs["x"].CopyFrom(tensors.encode(np.float32([value])))
                try:
                    call(request, timeout=timeout_s)
                except grpc.RpcError as error:
                    return error.code().name
                return "OK"

            assert asked(0, 20) == "OK"
            assert [asked(1, 0.5) for _ in range(2)] == ["DEADLINE_EXCEEDED"] * 2
            end_s = time.monotonic() + BACK_S
            told = set()
            while (code := asked(0, 5)) != "OK" and time.monotonic() < end_s:
                told.add(code)
            assert code == "OK"
            assert told <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        assert any("loop/1: a run has gone on for" in line for line in server.log)
    finally:
        server.close()
