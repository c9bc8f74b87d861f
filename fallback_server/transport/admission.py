"""The door of gRPC's port: who calls is asked before a byte of the request is read, and before a stream has a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from fallback_server.core.errors import ServerError
from fallback_server.transport.call_guard import CallGuard, refusal_of
from fallback_server.transport.faults import status_of
from fallback_server.transport.rpc import Context, aborted
from fallback_server.transport.services import Handlers

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Admission(grpc.GenericRpcHandler):
    """All calls, but for those of callers who may do nothing of their kind with any model.

    Which model is asked about later, by whoever has read the request. What a call's metadata show is known before it
    begins, and decides where nobody has certificates; those are known to the call alone, which is then asked first.

    Args:
        handlers: By method. They have no serializers of gRPC's.
        guard: Knows who may do what.
    """

    def __init__(self, handlers: Handlers, guard: CallGuard) -> None:
        self._handlers: dict[str, Handler] = {method.path: handler for method, handler in handlers.items()}
        self._guard = guard
        self._asked = {
            method.path: Asked(method.path, handler, self.check, self.turn_away, unread=not guard.certificates)
            for method, handler in handlers.items()
            if guard.asks(method.path)
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """As gRPC asks for it: the handler of a call; None where there is none of that name."""
        path = str(handler_call_details.method)
        asked = self._asked.get(path)
        if asked is None or self._guard.may_begin(handler_call_details.invocation_metadata, path):
            return self._handlers.get(path)
        return asked

    def check(self, path: str, context: Context) -> ServerError | None:
        """Why a call may not begin; None where it may."""
        return refusal_of(lambda: self._guard.admit_method(context, path))

    async def turn_away(self, path: str, context: Context, error: ServerError, data: bytes | None) -> bytes:
        """Ends a call that may not begin.

        Args:
            path: Of its method.
            context: Of the call.
            error: Why.
            data: Its request, where gRPC has read that; None where not.
        """
        del path, data
        return await aborted(context, *status_of(error))


class Asked(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """A handler behind a question.

    Args:
        path: The method's.
        handler: Behind it.
        check: See `Admission`, likewise the next.
        turn_away: See there.
        unread: Whether calls are taken as streams, of which gRPC reads nothing before that is asked for: worth it where
            nearly all are turned away. Else as the one behind takes them, which may change that.
    """

    request_deserializer = None
    response_serializer = None
    unary_stream = None

    def __init__(
        self,
        path: str,
        handler: Any,
        check: Callable[[str, Context], ServerError | None],
        turn_away: Callable[[str, Context, ServerError, bytes | None], Any],
        *,
        unread: bool,
    ) -> None:
        self._handler = handler
        self._unread = unread
        self.response_streaming = handler.response_streaming

        async def unary_unary(data: bytes, context: Context) -> bytes:
            if (error := check(path, context)) is not None:
                return await turn_away(path, context, error, data)  # type: ignore[no-any-return]  # as `Admission` has it
            return await handler.unary_unary(data, context)  # type: ignore[no-any-return]  # bytes, as all handlers here

        async def stream_unary(requests: object, context: Context) -> bytes:
            if (error := check(path, context)) is not None:
                return await turn_away(path, context, error, None)  # type: ignore[no-any-return]  # likewise
            return await handler.stream_unary(requests, context)  # type: ignore[no-any-return]  # likewise

        async def stream_stream(requests: object, context: Context) -> None:
            if (error := check(path, context)) is not None:
                await turn_away(path, context, error, None)
                return
            await handler.stream_stream(requests, context)

        self.unary_unary: Any = unary_unary
        self.stream_unary: Any = stream_unary
        self.stream_stream: Any = stream_stream

    @property
    def request_streaming(self) -> bool:  # type: ignore[override]  # gRPC reads it, and nothing writes it
        """As gRPC asks for it at each call."""
        return self._unread or bool(self._handler.request_streaming)
