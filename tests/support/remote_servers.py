"""For tests of the far side: servers whose answers a test writes, a slow line, and waits that a test ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from edge_runtime.remote.timers import Timer
from fallback_server.protocol.methods import GET_MODEL_METADATA, PREDICT

WAIT_S = 10


@contextmanager
def answering(predict=None, metadata=None):
    """The address of a real gRPC server whose Predict and GetModelMetadata are the test's functions of the request.

    What they return is the answer, or a status code to end the call with, which may come with its words.
    """

    def answer(behaviour, request, context):
        said = behaviour(request)
        if isinstance(said, tuple):
            context.abort(*said)
        return context.abort(said, "the test wants it so") if isinstance(said, grpc.StatusCode) else said

    def handler(method, behaviour):
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: answer(behaviour, request, context),
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )

    handlers = {PREDICT.name: handler(PREDICT, predict), GET_MODEL_METADATA.name: handler(GET_MODEL_METADATA, metadata)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICT.service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(WAIT_S)


@contextmanager
def slow_line(address, delay_s):
    """The address of a TCP proxy that passes every byte on after `delay_s`."""
    host, port = address.split(":")
    loop = asyncio.new_event_loop()

    async def pump(reader, writer):
        while data := await reader.read(65536):
            loop.call_later(delay_s, writer.write, data)
        loop.call_later(delay_s, writer.close)

    async def connected(reader, writer):
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end():
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


class FakeLater:
    """Waits that end when the test says so.

    Attributes:
        waits_s: The waits that were asked for, in their order.
    """

    def __init__(self):
        self.waits_s = []
        self._waiting = []
        self._closed = False
        self._changed = threading.Condition()

    def call(self, delay_s, what):
        timer = Timer(what)
        with self._changed:
            if self._closed:
                return None
            self.waits_s.append(delay_s)
            self._waiting.append(timer)
            self._changed.notify_all()
        return timer

    @property
    def anybody_waits(self):
        """Whether a wait is to be ended."""
        return bool(self._waiting)

    def await_waits(self, count):
        """Until so many waits have been asked for."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.waits_s) >= count, WAIT_S)

    def pass_time(self):
        """Waits until somebody waits, and ends it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting, WAIT_S)
            what = self._waiting.pop(0).what
        if what is not None:
            what()

    def close(self):
        with self._changed:
            self._closed = True
        while self._waiting:
            what = self._waiting.pop().what
            if what is not None:
                what()
