"""Passes calls on to the server that this process belongs to, over a UNIX socket: what is not answered here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc

from fallback_server.access.certificates import Certificate
from fallback_server.core import errors
from fallback_server.core.errors import ServerError
from fallback_server.protocol.methods import UNLIMITED_MESSAGES
from fallback_server.protocol.status import Fault
from fallback_server.transport.callers import CALLER_METADATA, caller_metadata
from fallback_server.transport.faults import PassedOn
from fallback_server.transport.rpc import STOPPING_TEXT, Caller, Context, aborted

Metadata = tuple[tuple[str, str | bytes], ...]

_OWN = ("grpc-", ":")
_NOT_PASSED = ("user-agent", "content-type", "te", CALLER_METADATA)
"""Metadata that each connection has of its own; and what nobody but a process of this server may say."""

_AGAIN_MS = 1000
"""Between two tries to connect, at most: the other server is on this machine."""

_LOOK_S = 0.01

ERRORS: dict[Fault, Callable[[str], ServerError]] = {
    Fault.INVALID_INPUT: errors.InvalidInput,
    Fault.NOT_FOUND: errors.ModelNotFound,
    Fault.NOT_READY: errors.NotReady,
    Fault.QUEUE_FULL: errors.QueueFull,
    Fault.DEADLINE: errors.DeadlineExceeded,
    Fault.PRECONDITION: errors.PreconditionFailed,
    Fault.PERMISSION: errors.PermissionDenied,
    Fault.UNAUTHENTICATED: errors.Unauthenticated,
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
        secret: By which the other server believes who calls; see `callers`.
        certificate_of: What the connection of a call has shown; by default nothing.

    Attributes:
        stopping: Whether the other server is about to: what it cuts off is then told as that, so clients ask others.
    """

    def __init__(
        self,
        path: str,
        secret: bytes,
        certificate_of: Callable[[Caller], Certificate | None] = lambda _: None,
    ) -> None:
        self.stopping = False
        self._certificate_of = certificate_of
        self._secret = secret
        self._streams = 0
        self._channel = grpc.aio.insecure_channel(
            f"unix:{path}",
            options=(*UNLIMITED_MESSAGES, ("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", _AGAIN_MS)),
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
        call = passes(data, metadata=self._passed(caller), timeout=caller.time_remaining())
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            code, text = self._refusal(error.code(), error.details() or "")
            raise error_of(code, text) from error
        return answer

    async def unread(self, method: str, context: Context) -> bytes:
        """The answer to a unary call of which nothing was read here: its request goes on as the other server reads it.

        Args:
            method: Its path.
            context: Of the call, which came as a stream.

        Raises:
            ServerError: as the other server says, with its text; it may do so before there is a request.
        """
        passes: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = self._channel.stream_unary(method)
        call = passes(metadata=self._passed(context), timeout=context.time_remaining())
        missing: list[ServerError] = []

        async def send() -> None:
            try:
                await _sent(context, call)
            except ServerError as error:  # The request was not waited for any longer.
                missing.append(error)
                call.cancel()

        sending = asyncio.ensure_future(send())
        self._streams += 1
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            code, text = self._refusal(error.code(), error.details() or "")
            raise error_of(code, text) from error
        except asyncio.CancelledError:
            if missing:
                raise missing[0] from None
            raise
        finally:
            self._streams -= 1
            sending.cancel()
            call.cancel()  # Of one that is over it does nothing.
        return answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """As gRPC asks for it: what passes a call on."""
        method = str(handler_call_details.method)

        async def handle(_requests: object, context: Context) -> None:
            self._streams += 1
            try:
                await self._stream(method, context)
            finally:
                self._streams -= 1

        return grpc.stream_stream_rpc_method_handler(handle)

    async def quiet(self, *, grace_s: float) -> None:
        """Waits until no stream is under way, at most the grace."""
        end_s = time.monotonic() + grace_s
        while time.monotonic() < end_s:
            if not self._streams:
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Ends the connection, and what goes over it."""
        await self._channel.close()

    async def _stream(self, method: str, context: Context) -> None:
        passes: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = passes(metadata=self._passed(context), timeout=context.time_remaining())
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
            await aborted(context, *self._refusal(code, text), trailing)

    def _passed(self, caller: Caller) -> Metadata:
        """The caller's own metadata, and who that is."""
        own = [
            (key, value)
            for key, value in caller.invocation_metadata() or ()
            if not key.startswith(_OWN) and key not in _NOT_PASSED
        ]
        return (*own, caller_metadata(self._secret, caller.peer(), self._certificate_of(caller)))

    def _refusal(self, code: grpc.StatusCode, text: str) -> tuple[grpc.StatusCode, str]:
        if self.stopping and code is grpc.StatusCode.CANCELLED:
            return grpc.StatusCode.UNAVAILABLE, STOPPING_TEXT
        return code, text


def error_of(code: grpc.StatusCode, text: str) -> ServerError:
    """What travels as a code and a text again, as they came."""
    fault = Fault.of(code)
    return ERRORS[fault](text) if fault.code is code else PassedOn(code, text)


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
