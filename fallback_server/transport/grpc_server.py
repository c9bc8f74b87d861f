"""gRPC on asyncio: one event loop takes requests and sends answers, and never runs a model."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2_grpc

from fallback_server.core.errors import InvalidInput, ServerError
from fallback_server.dataplane import DataPlane, PredictCall, PredictReply
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import messages
from fallback_server.transport.faults import translate
from fallback_server.transport.health import HealthService

_log = logging.getLogger(__name__)

_OPTIONS = (
    *methods.UNLIMITED_MESSAGES,
    # Otherwise a second server on the same port would start, and take a part of the first one's connections.
    ("grpc.so_reuseport", 0),
)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Answer = PredictReply | ServerError


class PortUnavailable(Exception):
    """The address can't be listened on: taken, or none of this machine's."""


class GrpcServer:
    """TensorFlow Serving's calls and gRPC's health, on one port. Lives in the event loop that starts it.

    Args:
        dataplane: Answers.
        max_tensor_bytes: The largest tensor that is unpacked out of a request.
    """

    def __init__(self, dataplane: DataPlane, *, max_tensor_bytes: int) -> None:
        self._dataplane = dataplane
        self._max_tensor_bytes = max_tensor_bytes
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: dict[PredictCall, asyncio.Future[Answer]] = {}
        self._health = HealthService()
        self._server = grpc.aio.server(options=_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add(methods.PREDICT, self._predict)
        self._add(methods.GET_MODEL_METADATA, self._get_model_metadata)
        self._add(methods.GET_MODEL_STATUS, self._get_model_status)

    async def start(self, *, host: str, port: int) -> int:
        """Listens; returns the port, which is another than the given one when that is 0.

        Raises:
            PortUnavailable: it can't.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortUnavailable(f"can't listen on {address}: {error}") from error
        await self.set_serving(serving=False)
        await self._server.start()
        return bound

    async def set_serving(self, *, serving: bool) -> None:
        """What health checks hear."""
        await self._health.set_serving(serving=serving)

    async def stop(self, *, grace_s: float) -> None:
        """Takes nothing more, waits for what is in flight, and gives up on what outlasts the grace."""
        self._health.close()
        await self._server.stop(grace_s)

    def _add(
        self, method: methods.Method[Request, Response], answer: Callable[[Request, Context], Awaitable[Response]]
    ) -> None:
        # No serializers: what they raise would reach the caller past the rim, as UNKNOWN and with its inner names.
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_guarded(method, answer))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(method.service, {method.name: handler}),)
        )

    async def _predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        left_s = context.time_remaining()
        call = messages.read_predict(
            request,
            deadline_s=None if left_s is None else self._dataplane.clock() + left_s,
            max_tensor_bytes=self._max_tensor_bytes,
        )
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[call] = future
        try:
            self._dataplane.predict([call], self._settle)
            answer = await future
        finally:
            # Cancelled, or past its deadline: gRPC cancels this coroutine, and the task is skipped in its queue.
            call.cancelled = True
            del self._waiting[call]
        if isinstance(answer, ServerError):
            raise answer
        return messages.write_predict(answer)

    async def _get_model_metadata(
        self, request: pb.GetModelMetadataRequest, context: Context
    ) -> pb.GetModelMetadataResponse:
        del context
        target = messages.read_target(request)
        messages.check_metadata_fields(request.metadata_field)
        return messages.write_metadata(*self._dataplane.signature_defs(target))

    async def _get_model_status(self, request: pb.GetModelStatusRequest, context: Context) -> pb.GetModelStatusResponse:
        del context
        return messages.write_states(self._dataplane.states(messages.read_target(request)))

    def _settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        """In any thread: one hop to the event loop for a whole batch."""
        if threading.get_ident() == self._thread:
            self._apply(answers)
            return
        try:
            self._loop.call_soon_threadsafe(self._apply, answers)
        except RuntimeError:
            _log.debug("%d answers came after the server had stopped", len(answers))

    def _apply(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        for call, answer in answers:
            future = self._waiting.get(call)
            if future is not None and not future.done():
                future.set_result(answer)


def _guarded(
    method: methods.Method[Request, Response], answer: Callable[[Request, Context], Awaitable[Response]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """Reads the request, writes the response, and turns whatever is raised into gRPC's status."""

    async def guarded(data: bytes, context: Context) -> bytes:
        try:
            response = await answer(_parsed(method, data), context)
            return response.SerializeToString()
        except Exception as error:  # noqa: BLE001  no fault of one request may go further than its status
            fault, text = translate(error)
            _log.debug("%s: %s: %s", method.path, fault.name, text)
        await context.abort(fault.code, text)
        raise AssertionError("abort raises")

    return guarded


def _parsed(method: methods.Method[Request, Response], data: bytes) -> Request:
    try:
        return method.request.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the request is no {method.name}Request") from error
