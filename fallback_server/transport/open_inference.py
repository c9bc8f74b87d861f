"""The Open Inference Protocol's GRPCInferenceService, with Triton's stream and its calls on the repository."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from fallback_server.control import Control
from fallback_server.core.errors import ModelNotFound, NotReady, Unimplemented
from fallback_server.core.servable import State
from fallback_server.protocol import methods
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.transport import infer_messages as messages
from fallback_server.transport.calls import Calls
from fallback_server.transport.changes import Changes
from fallback_server.transport.faults import translate
from fallback_server.transport.infer_messages import InferCall, InferReply
from fallback_server.transport.rpc import Context, MessageThreads, Rpcs
from fallback_server.transport.services import Handlers, RemoteControl
from fallback_server.transport.settling import wait_settled

_log = logging.getLogger(__name__)

SERVER_NAME = "edge-fallback-server"
EXTENSIONS = ("model_repository", "binary_tensor_data", "parameters")

MAX_STREAM_REQUESTS = 64
"""Of one stream, that are under way at a time; the next is not read before one of them is answered."""


class InferenceService:
    """Inference, metadata, readiness and the repository.

    Args:
        calls: Answers inference.
        control: Answers the rest.
        changes: Tells when states have changed.
        threads: Read and write large messages.
        remote_control: Whether callers may load and unload.
        serving: Whether the server as a whole is ready.
        version: Of the server.
    """

    def __init__(
        self,
        calls: Calls,
        control: Control,
        changes: Changes,
        threads: MessageThreads,
        *,
        remote_control: RemoteControl,
        serving: Callable[[], bool],
        version: str,
    ) -> None:
        self._calls = calls
        self._control = control
        self._changes = changes
        self._threads = threads
        self._remote_control = remote_control
        self._serving = serving
        self._version = version

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.SERVER_LIVE: rpcs.message(methods.SERVER_LIVE, self._live),
            methods.SERVER_READY: rpcs.message(methods.SERVER_READY, self._ready),
            methods.MODEL_READY: rpcs.message(methods.MODEL_READY, self._model_ready),
            methods.SERVER_METADATA: rpcs.message(methods.SERVER_METADATA, self._server_metadata),
            methods.MODEL_METADATA: rpcs.message(methods.MODEL_METADATA, self._model_metadata),
            methods.MODEL_INFER: rpcs.unary(
                methods.MODEL_INFER,
                self._infer,
                read=messages.read_infer,
                write=messages.write_infer,
                weigh=messages.infer_bytes,
            ),
            methods.MODEL_STREAM_INFER: grpc.stream_stream_rpc_method_handler(self._stream),
            methods.REPOSITORY_INDEX: rpcs.message(methods.REPOSITORY_INDEX, self._index),
            methods.REPOSITORY_MODEL_LOAD: rpcs.message(methods.REPOSITORY_MODEL_LOAD, self._load),
            methods.REPOSITORY_MODEL_UNLOAD: rpcs.message(methods.REPOSITORY_MODEL_UNLOAD, self._unload),
        }

    async def _live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        del request, context
        return pb.ServerReadyResponse(ready=self._serving())

    async def _model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Ready is what would answer now."""
        del context
        try:
            self._calls.dataplane.signatures(messages.read_target(request.name, request.version))
        except (NotReady, ModelNotFound):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        del request, context
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        del context
        target = messages.read_target(request.name, request.version)
        _, signatures, platform = self._calls.dataplane.signatures(target)
        states = self._control.states(target)
        versions = sorted(state.servable_id.version for state in states if state.state is State.AVAILABLE)
        return messages.write_metadata(request.name, signatures, platform, versions)

    async def _infer(self, asked: InferCall, context: Context) -> InferReply:
        if asked.timeout_s is not None:
            asked.call.deadline_s = self._calls.dataplane.clock() + asked.timeout_s
        return InferReply(reply=await self._calls.predict(asked.call, context), id=asked.id)

    async def _stream(self, _requests: object, context: Context) -> None:
        """Answers each request when it is done, in whatever order that is, and goes on after one that failed."""
        slots = asyncio.Semaphore(MAX_STREAM_REQUESTS)
        writing = asyncio.Lock()
        under_way: set[asyncio.Task[None]] = set()

        async def one(data: bytes) -> None:
            try:
                answer = await self._stream_answer(data, context)
                async with writing:
                    await context.write(answer)
            finally:
                slots.release()

        try:
            while True:
                await slots.acquire()
                data = await context.read()
                if not isinstance(data, bytes):
                    break
                task = asyncio.create_task(one(data))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            if under_way:
                await asyncio.wait(under_way)
        finally:
            for task in under_way:
                task.cancel()

    async def _stream_answer(self, data: bytes, context: Context) -> bytes:
        asked: InferCall | None = None
        try:
            asked = await self._threads.run(messages.read_infer, data, size=len(data))
            del data
            answered = await self._infer(asked, context)
            return await self._threads.run(messages.write_stream_infer, answered, size=messages.infer_bytes(answered))
        except Exception as error:  # noqa: BLE001  no fault of one request may end the stream of the others
            fault, text = translate(error)
            _log.debug("%s: %s: %s", methods.MODEL_STREAM_INFER.path, fault.name, text)
        return messages.write_stream_error("" if asked is None else asked.id, f"[{fault.code.name}] {text}")

    async def _index(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        del context
        return messages.write_index(self._control.index(), ready=request.ready)

    async def _load(self, request: pb.RepositoryModelLoadRequest, context: Context) -> pb.RepositoryModelLoadResponse:
        """Answers when the model is served, or can't be."""
        del context
        self._remote_control.check("RepositoryModelLoad")
        if request.parameters:
            raise Unimplemented(f"load parameters are not supported: {', '.join(sorted(request.parameters))}")
        await asyncio.to_thread(self._control.load, request.model_name)
        await wait_settled([request.model_name], self._control.states, self._changes)
        return pb.RepositoryModelLoadResponse()

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Answers at once; what is in flight is finished first."""
        del context
        self._remote_control.check("RepositoryModelUnload")
        await asyncio.to_thread(self._control.unload, request.model_name)
        return pb.RepositoryModelUnloadResponse()
