"""Real gRPC servers whose Predict a test writes, with all that came, and requests to them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from support.edge_models import rows

from edge_runtime.types import InferRequest
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

WAIT_S = 30
LONG_S = 3600.0


class FarServer:
    """Doubles `x`, row by row, unless `behaviour` says otherwise, what fits into `max_bytes` (-1 for no limit).

    Attributes:
        behaviour: Of a call's `x`: a status code to end it with, or None to answer.
        hold: While cleared, calls wait.
        calls: The rows of each call that came, in their order.
        metadata: What came beside each.
    """

    def __init__(self, behaviour=None, max_bytes=-1):
        self.behaviour = behaviour or (lambda x: None)
        self.hold = threading.Event()
        self.hold.set()
        self.calls = []
        self.metadata = []
        self._came = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", max_bytes)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict,
            request_deserializer=PREDICT.request.FromString,
            response_serializer=PREDICT.response.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(PREDICT.service, {PREDICT.name: handler})
        self._server.add_generic_rpc_handlers([handlers])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def await_calls(self, count):
        """Until so many calls have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.calls) >= count, WAIT_S)

    def stop(self):
        self.hold.set()
        self._server.stop(0).wait(WAIT_S)

    def _predict(self, request, context):
        x = tensors.decode(request.inputs["x"])
        with self._came:
            self.calls.append(len(x))
            self.metadata.append(dict(context.invocation_metadata()))
            self._came.notify_all()
        self.hold.wait(WAIT_S)
        code = self.behaviour(x)
        if code is not None:
            context.abort(code, "the test wants it so")
        response = pb.PredictResponse(outputs={"y": tensors.encode(x * 2)})
        response.model_spec.version.value = request.model_spec.version.value or 1
        return response


@contextmanager
def far_server(behaviour=None, max_bytes=-1):
    """A FarServer for the length of a `with`."""
    server = FarServer(behaviour, max_bytes)
    try:
        yield server
    finally:
        server.stop()


def row_request(start=0.0, *, count=1, within_s=None, **fields):
    """A request of `count` rows that differ from those of another start."""
    now_s = time.monotonic()
    given = {
        "model": "scale",
        "version": 1,
        "signature": "serving_default",
        "inputs": {"x": rows(count, start)},
        "rows": count,
        "batched": True,
        "start_s": now_s,
        "deadline_s": None if within_s is None else now_s + within_s,
        "reason": "overloaded",
    }
    return InferRequest(**{**given, **fields})


def until(said, what="it"):
    """Waits until a condition holds."""
    end_s = time.monotonic() + WAIT_S
    while not said():
        assert time.monotonic() < end_s, f"{what} did not come about"
        time.sleep(0.002)
