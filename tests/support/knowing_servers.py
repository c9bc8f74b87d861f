"""For tests of what a device knows of servers: ours with its catalog, and one without, as TensorFlow Serving is."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import loaded

from fallback_server.protocol import tensors
from fallback_server.protocol.methods import GET_MODEL_STATUS, PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

WAIT_S = 30


def until(condition, wait_s=WAIT_S):
    """Polls until it holds."""
    end_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end_s, "it never came to hold"
        threading.Event().wait(0.01)


class Running:
    """A stand of the fallback server in an event loop of its own thread.

    Attributes:
        stand: See `support.grpc_stand.Stand`.
        address: `127.0.0.1:port`.
    """

    def __init__(self, stand, loop):
        self.stand = stand
        self.address = f"127.0.0.1:{stand.port}"
        self._loop = loop

    def change(self, what):
        """Runs something in the server's loop."""

        async def run():
            what()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT_S)


@contextmanager
def running_stand(path, executor=None, **options):
    """Our real server over one model `m`, version 1, of y = 2 x."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    scope = loaded(executor or FakeExecutor(factor=2), path, **options)
    try:
        stand = asyncio.run_coroutine_threadsafe(scope.__aenter__(), loop).result(WAIT_S)
        try:
            yield Running(stand, loop)
        finally:
            asyncio.run_coroutine_threadsafe(scope.__aexit__(None, None, None), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


class PlainServer:
    """Predict and GetModelStatus, and no service of ours.

    Attributes:
        states: By model and version, the state's number.
        asked: The models whose state was asked for.
        predicted: How many Predicts came.
        address: `127.0.0.1:port`.
    """

    def __init__(self, states, port=0):
        self.states = states
        self.asked = []
        self.predicted = 0
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        for method, behaviour in ((PREDICT, self._predict), (GET_MODEL_STATUS, self._status)):
            handler = grpc.unary_unary_rpc_method_handler(
                behaviour, method.request.FromString, method.response.SerializeToString
            )
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(method.service, {method.name: handler})]
            )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(0).wait(WAIT_S)

    def _predict(self, request, context):
        del context
        self.predicted += 1
        response = pb.PredictResponse(outputs={"y": tensors.encode(tensors.decode(request.inputs["x"]) * 2)})
        response.model_spec.version.value = request.model_spec.version.value or 1
        return response

    def _status(self, request, context):
        name = request.model_spec.name
        self.asked.append(name)
        if name not in self.states:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        response = pb.GetModelStatusResponse()
        for version, state in self.states[name].items():
            response.model_version_status.add(version=version, state=state)
        return response


@contextmanager
def plain_server(states, port=0):
    """A PlainServer for the length of a `with`."""
    server = PlainServer(states, port)
    try:
        yield server
    finally:
        server.stop()
