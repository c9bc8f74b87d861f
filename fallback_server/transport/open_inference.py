"""The Open Inference Protocol's GRPCInferenceService, with what Triton adds: a stream, its repository, statistics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import grpc
from google.protobuf import json_format

from fallback_server.access.rules import Scope
from fallback_server.control import Control
from fallback_server.core.errors import ModelNotFound, NotReady, Unimplemented
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.protocol import methods
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.transport import infer_messages as messages
from fallback_server.transport import model_facts as facts
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.calls import Calls, Inference
from fallback_server.transport.changes import Changes
from fallback_server.transport.counting import Refused
from fallback_server.transport.faults import translate
from fallback_server.transport.infer_messages import InferCall, InferReply
from fallback_server.transport.ordered_stream import ordered_stream
from fallback_server.transport.rpc import Caller, Context, MessageThreads, Rpcs, aborted
from fallback_server.transport.services import Handlers
from fallback_server.transport.settling import wait_settled
from fallback_server.transport.targets import read_target

_log = logging.getLogger(__name__)

_ABSENT = {
    "SystemSharedMemoryStatus": "tensors in shared memory",
    "SystemSharedMemoryRegister": "tensors in shared memory",
    "SystemSharedMemoryUnregister": "tensors in shared memory",
    "CudaSharedMemoryStatus": "tensors in shared memory",
    "CudaSharedMemoryRegister": "tensors in shared memory",
    "CudaSharedMemoryUnregister": "tensors in shared memory",
    "TraceSetting": "traces to set",
    "LogSettings": "log that can be set from outside",
}
"""Calls of Triton's service that are not here, and what they are about."""


class AbsentCalls(grpc.GenericRpcHandler):
    """Refuses the calls of Triton's service that are not here, each by its name: gRPC's own text names nothing."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """As gRPC asks for it: the handler of a call; None where it is none of these."""
        service, _, name = handler_call_details.method.strip("/").rpartition("/")
        what = _ABSENT.get(name) if service == methods.INFERENCE_SERVICE else None
        if what is None:
            return None

        async def refuse(_requests: object, context: Context) -> None:
            await aborted(context, grpc.StatusCode.UNIMPLEMENTED, f"{name} is not supported: this server has no {what}")

        return grpc.stream_stream_rpc_method_handler(refuse)


class InferenceService:
    """Inference, metadata, readiness, configuration, statistics and the repository.

    Args:
        calls: Answers inference.
        control: Answers the rest.
        changes: Tells when states have changed.
        threads: Read and write large messages.
        guard: Knows who may see, load and unload what.
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
        guard: CallGuard,
        serving: Callable[[], bool],
        version: str,
    ) -> None:
        self._calls = calls
        self._control = control
        self._changes = changes
        self._threads = threads
        self._guard = guard
        self._serving = serving
        self._version = version

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        self._inference = model_infer(self._calls.dataplane.refused)
        return {
            methods.SERVER_LIVE: rpcs.message(methods.SERVER_LIVE, self._live),
            methods.SERVER_READY: rpcs.message(methods.SERVER_READY, self._ready),
            methods.MODEL_READY: rpcs.message(methods.MODEL_READY, self._model_ready),
            methods.SERVER_METADATA: rpcs.message(methods.SERVER_METADATA, self._server_metadata),
            methods.MODEL_METADATA: rpcs.message(methods.MODEL_METADATA, self._model_metadata),
            methods.MODEL_CONFIG: rpcs.message(methods.MODEL_CONFIG, self._model_config),
            methods.MODEL_STATISTICS: rpcs.message(methods.MODEL_STATISTICS, self._statistics),
            methods.MODEL_INFER: self._calls.handler(rpcs, self._inference),
            methods.MODEL_STREAM_INFER: ordered_stream(
                methods.MODEL_STREAM_INFER, self._stream_answer, self._changes, self._threads.give_back
            ),
            methods.REPOSITORY_INDEX: rpcs.message(methods.REPOSITORY_INDEX, self._index),
            methods.REPOSITORY_MODEL_LOAD: rpcs.message(methods.REPOSITORY_MODEL_LOAD, self._load),
            methods.REPOSITORY_MODEL_UNLOAD: rpcs.message(methods.REPOSITORY_MODEL_UNLOAD, self._unload),
        }

    async def _live(self, request: pb.ServerLiveRequest, caller: Caller) -> pb.ServerLiveResponse:
        del request, caller
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: pb.ServerReadyRequest, caller: Caller) -> pb.ServerReadyResponse:
        del request, caller
        return pb.ServerReadyResponse(ready=self._serving())

    async def _model_ready(self, request: pb.ModelReadyRequest, caller: Caller) -> pb.ModelReadyResponse:
        """Ready is what would answer now."""
        self._guard.admit(caller, Scope.STATUS, [request.name])
        try:
            self._calls.dataplane.signatures(read_target(request.name, request.version))
        except (NotReady, ModelNotFound):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: pb.ServerMetadataRequest, caller: Caller) -> pb.ServerMetadataResponse:
        del request
        self._guard.admit_any(caller, Scope.STATUS, "ServerMetadata")
        return pb.ServerMetadataResponse(name=facts.SERVER_NAME, version=self._version, extensions=facts.EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, caller: Caller) -> pb.ModelMetadataResponse:
        self._guard.admit(caller, Scope.STATUS, [request.name])
        document = facts.metadata(self._control, read_target(request.name, request.version))
        return json_format.ParseDict(document, pb.ModelMetadataResponse())

    async def _model_config(self, request: pb.ModelConfigRequest, caller: Caller) -> pb.ModelConfigResponse:
        self._guard.admit(caller, Scope.STATUS, [request.name])
        target = read_target(request.name, request.version)
        with self._control.acquire(target) as handle:
            document = facts.configuration(target.name, handle.servable)
        return json_format.ParseDict({"config": document}, pb.ModelConfigResponse())

    async def _statistics(self, request: pb.ModelStatisticsRequest, caller: Caller) -> pb.ModelStatisticsResponse:
        """Of all models where none is named; in a thread, as there may be many."""
        target = read_target(request.name, request.version) if request.name else None
        if target is None:
            self._guard.admit_any(caller, Scope.STATUS, "ModelStatistics")
        else:
            self._guard.admit(caller, Scope.STATUS, [target.name])
        seen = self._guard.seen_by(caller)
        document = await asyncio.to_thread(facts.statistics, self._control, target, seen)
        return json_format.ParseDict(document, pb.ModelStatisticsResponse())

    async def _stream_answer(self, data: bytes, context: Context) -> bytes:
        """Its error, where a request fails: no fault of one may end the stream of the others."""
        asked: InferCall | None = None
        try:
            asked = await self._threads.run(self._inference.read, data, size=len(data))
            del data
            answered = await self._calls.answer(self._inference, asked, context)
            return await self._threads.run(messages.write_stream_infer, answered, size=messages.infer_bytes(answered))
        except Exception as error:  # noqa: BLE001  told above
            fault, text = translate(error)
            _log.debug("%s: %s: %s", methods.MODEL_STREAM_INFER.path, fault.name, text)
        return messages.write_stream_error("" if asked is None else asked.id, f"[{fault.code.name}] {text}")

    async def _index(self, request: pb.RepositoryIndexRequest, caller: Caller) -> pb.RepositoryIndexResponse:
        self._guard.admit_any(caller, Scope.STATUS, "RepositoryIndex")
        seen = self._guard.seen_by(caller)
        document = {"models": facts.repository(self._control, ready=request.ready, seen=seen)}
        return json_format.ParseDict(document, pb.RepositoryIndexResponse())

    async def _load(self, request: pb.RepositoryModelLoadRequest, caller: Caller) -> pb.RepositoryModelLoadResponse:
        """Answers when the model is served, or can't be."""
        self._guard.admit(caller, Scope.ADMIN, [request.model_name], "RepositoryModelLoad")
        if request.parameters:
            raise Unimplemented(f"load parameters are not supported: {', '.join(sorted(request.parameters))}")
        await asyncio.to_thread(self._control.load, request.model_name, who=self._guard.who(caller))
        await wait_settled([request.model_name], self._control.states, self._changes, self._control.lack)
        return pb.RepositoryModelLoadResponse()

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, caller: Caller
    ) -> pb.RepositoryModelUnloadResponse:
        """Answers at once; what is in flight is finished first."""
        self._guard.admit(caller, Scope.ADMIN, [request.model_name], "RepositoryModelUnload")
        facts.check_unload(messages.repository_parameters(request.parameters))
        await asyncio.to_thread(self._control.unload, request.model_name, who=self._guard.who(caller))
        return pb.RepositoryModelUnloadResponse()


def model_infer(refused: Refused) -> Inference[InferCall, InferReply]:
    """ModelInfer.

    Args:
        refused: Is told of what is refused before the data plane hears of it.
    """
    return Inference(
        method=methods.MODEL_INFER,
        read=lambda data: messages.read_infer(data, refused),
        calls=_asked_of,
        answered=_answered,
        write=messages.write_infer,
        weigh=messages.infer_bytes,
    )


def _asked_of(asked: InferCall, now_s: float) -> tuple[PredictCall]:
    if asked.timeout_s is not None:
        asked.call.deadline_s = now_s + asked.timeout_s
    return (asked.call,)


def _answered(asked: InferCall, caller: Caller, replies: Sequence[PredictReply]) -> InferReply:
    del caller
    return InferReply(reply=replies[0], id=asked.id)
