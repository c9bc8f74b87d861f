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
    begins, and decides where nobody has certificates. Those are known to the call alone, which is then asked first: it
    comes as a stream, of which gRPC reads nothing by itself. That costs callers who may a little of what small requests
    save by coming otherwise, see `rpc`; else a device that was revoked would have its requests kept, half or whole.

    Args:
        handlers: By method. They have no serializers of gRPC's.
        guard: Knows who may do what.
    """

    def __init__(self, handlers: Handlers, guard: CallGuard) -> None:
        self._handlers: dict[str, Handler] = {method.path: handler for method, handler in handlers.items()}
        self._guard = guard
        self._asked = {
            method.path: Asked(method.path, handler, self.check, self.turn_away)
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

    async def turn_away(self, path: str, context: Context, error: ServerError) -> bytes:
        """Ends a call that may not begin, and of which nothing was read.

        Args:
            path: Of its method.
            context: Of the call.
            error: Why.
        """
        del path
        return await aborted(context, *status_of(error))


class Asked(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """A handler behind a question. It takes all calls as streams, of which gRPC reads nothing before that is asked for.

    Args:
        path: The method's.
        handler: Behind it.
        check: See `Admission`, likewise the next.
        turn_away: See there.
    """

    request_streaming = True
    request_deserializer = None
    response_serializer = None
    unary_unary = None
    unary_stream = None

    def __init__(
        self,
        path: str,
        handler: Any,
        check: Callable[[str, Context], ServerError | None],
        turn_away: Callable[[str, Context, ServerError], Any],
    ) -> None:
        self.response_streaming = handler.response_streaming

        async def stream_unary(requests: object, context: Context) -> bytes:
            if (error := check(path, context)) is not None:
                return await turn_away(path, context, error)  # type: ignore[no-any-return]  # as `Admission` has it
            return await handler.stream_unary(requests, context)  # type: ignore[no-any-return]  # bytes, as all here

        async def stream_stream(requests: object, context: Context) -> None:
            if (error := check(path, context)) is not None:
                await turn_away(path, context, error)
                return
            await handler.stream_stream(requests, context)

        self.stream_unary: Any = stream_unary
        self.stream_stream: Any = stream_stream
