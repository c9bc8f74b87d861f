"""Passes calls on to the server that this process belongs to, over a UNIX socket: what is not answered here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from fallback_server.core import errors
from fallback_server.core.errors import ServerError
from fallback_server.protocol.methods import UNLIMITED_MESSAGES
from fallback_server.protocol.status import Fault
from fallback_server.transport.rpc import Caller, Context, aborted

Metadata = tuple[tuple[str, str | bytes], ...]

_OWN = ("grpc-", ":")
_EACH_CONNECTIONS = ("user-agent", "content-type", "te")
"""Metadata that each connection has of its own."""

_ERRORS: dict[Fault, Callable[[str], ServerError]] = {
    Fault.INVALID_INPUT: errors.InvalidInput,
    Fault.NOT_FOUND: errors.ModelNotFound,
    Fault.NOT_READY: errors.NotReady,
    Fault.QUEUE_FULL: errors.QueueFull,
    Fault.DEADLINE: errors.DeadlineExceeded,
    Fault.PRECONDITION: errors.PreconditionFailed,
    Fault.PERMISSION: errors.PermissionDenied,
    Fault.UNIMPLEMENTED: errors.Unimplemented,
    Fault.UNKNOWN: errors.NotServed,
    Fault.DATA_LOSS: errors.DataLost,
    Fault.INTERNAL: errors.ExecutionFailed,
}
"""What travels as each fault again: code and text stay as they came."""


class Relay(grpc.GenericRpcHandler):
    """The other server, as seen from here. Lives in the event loop that makes it.

    It is also a handler of any call whatever, streams among them: bytes go on as they come, with metadata, deadline,
    status, and the word that the caller has left.

    Args:
        path: The socket.
    """

    def __init__(self, path: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{path}", options=(*UNLIMITED_MESSAGES, ("grpc.enable_retries", 0))
        )

    async def unary(self, method: str, data: bytes, caller: Caller) -> bytes:
        """The answer to a request.

        Args:
            method: Its path.
            data: The request.
            caller: Whose metadata and deadline go along.

        Raises:
            ServerError: as the other server says, with its text.
        """
        passes: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        call = passes(data, metadata=_passed(caller.invocation_metadata()), timeout=caller.time_remaining())
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise _ERRORS[Fault.of(error.code())](error.details() or "") from error
        return answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """As gRPC asks for it: what passes a call on."""
        method = str(handler_call_details.method)

        async def handle(_requests: object, context: Context) -> None:
            await self._stream(method, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def close(self) -> None:
        """Ends the connection, and what goes over it."""
        await self._channel.close()

    async def _stream(self, method: str, context: Context) -> None:
        passes: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = passes(metadata=_passed(context.invocation_metadata()), timeout=context.time_remaining())
        sending = asyncio.ensure_future(_sent(context, call))
        try:
            if begun := await call.initial_metadata():
                await context.send_initial_metadata(tuple(begun))
            while (data := await call.read()) is not grpc.aio.EOF:
                await context.write(data)
        except grpc.aio.AioRpcError as error:
            code, text, trailing = error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
        else:
            code, text, trailing = await call.code(), await call.details(), tuple(await call.trailing_metadata() or ())
        finally:
            sending.cancel()
            call.cancel()  # Of one that is over it does nothing.
        if code is grpc.StatusCode.OK:
            context.set_trailing_metadata(trailing)
        else:
            await aborted(context, code, text, trailing)


async def _sent(context: Context, call: Any) -> None:
    """Sends requests on until there are no more. That the call is over shows where its answers are read.

    By the call's inner object: what is public takes a message that comes too late for a fault of its own, and tells
    that in place of the status.
    """
    with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        await call.wait_for_connection()
        inner = call._cython_call  # noqa: SLF001  see above
        while (data := await context.read()) is not grpc.aio.EOF:
            await inner.send_serialized_message(data)
        await inner.send_receive_close()


def _passed(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The caller's own metadata."""
    return tuple(
        (key, value) for key, value in metadata or () if not key.startswith(_OWN) and key not in _EACH_CONNECTIONS
    )
