"""What strangers may send of a call that everybody may make: a few bytes, soon, and not too many of them at a time.

gRPC knows one bound on messages, for all methods, and takes a request in before anybody hears of it. Health and whether
a server lives are asked in a few bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from fallback_server.core.errors import DeadlineExceeded, QueueFull, ServerError
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.faults import status_of
from fallback_server.transport.places import Places, address_of
from fallback_server.transport.rpc import GIVE_BACK_BYTES, Context, MessageThreads, aborted
from fallback_server.transport.scopes import SCOPES

MAX_BYTES = 2**16
"""A model's name has far less."""

MAX_READS = 32
"""Requests of strangers that are on their way; of one address half of what is free, see `Places`."""

READ_S = 5.0
"""So long gRPC may take in what is sent, which may be as fast as the line is."""


class Strangers(grpc.GenericRpcHandler):
    """Handlers of which those that everybody may call wait for a stranger's request as said above.

    Args:
        inner: Has them.
        guard: Knows who is a stranger.
        threads: Give back what was sent in vain.
        max_reads: See `MAX_READS`.
        read_s: See `READ_S`.
    """

    def __init__(
        self,
        inner: grpc.GenericRpcHandler,
        guard: CallGuard,
        threads: MessageThreads,
        *,
        max_reads: int = MAX_READS,
        read_s: float = READ_S,
    ) -> None:
        self._inner = inner
        self._guard = guard
        self._threads = threads
        self._read_s = read_s
        self._places = Places("a request of who shows nothing", max_reads)
        self._bounded: dict[str, _Bounded] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """As gRPC asks for it: the handler of a call; None where there is none of that name."""
        path = str(handler_call_details.method)
        if not self._guard.inference or SCOPES.get(path) != ():
            return self._inner.service(handler_call_details)
        found = self._bounded.get(path)
        if found is None:
            handler = self._inner.service(handler_call_details)
            if handler is None:
                return None
            found = self._bounded[path] = _Bounded(handler, self)
        return found

    async def met(self, context: Context) -> Any:
        """A call's context, by which its request is read: of a stranger's that is here then.

        Raises:
            ServerError: it is too large, did not come soon, or there are too many of its kind.
        """
        if not self._guard.is_stranger(context):
            return context
        ends: list[Callable[[object], None]] = []
        try:
            with self._places.taken(address_of(context), ends.append):
                given = _Given(context, await self._read(context))
        except ServerError:
            for end in (*ends, self._give_back):  # What was sent lies there until gRPC is done with the call.
                context.add_done_callback(end)  # type: ignore[arg-type]  # takes any callable
            raise
        ends[0](None)
        return given

    async def _read(self, context: Context) -> Any:
        try:
            async with asyncio.timeout(self._read_s):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not come within {self._read_s:g} s") from None
        size = len(data) if isinstance(data, bytes) else 0
        if size > MAX_BYTES:
            del data  # Which the error would keep, with this frame.
            raise QueueFull(f"SERVER: Received message larger than max ({size} vs. {MAX_BYTES})")
        return data

    def _give_back(self, _context: object) -> None:
        self._threads.give_back(GIVE_BACK_BYTES)


class _Bounded(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    request_streaming = True
    request_deserializer = response_serializer = None
    unary_unary = unary_stream = None

    def __init__(self, handler: Any, strangers: Strangers) -> None:
        self.response_streaming = handler.response_streaming

        async def answer(handle: Callable[[object, Any], Any], requests: object, context: Context) -> Any:
            try:
                given = await strangers.met(context)
            except ServerError as error:
                return await aborted(context, *status_of(error))
            return await handle(requests, given)

        async def stream_unary(requests: object, context: Context) -> Any:
            return await answer(handler.stream_unary, requests, context)

        async def stream_stream(requests: object, context: Context) -> Any:
            return await answer(handler.stream_stream, requests, context)

        self.stream_unary: Any = stream_unary
        self.stream_stream: Any = stream_stream


class _Given:
    """A call's context whose one request was read."""

    __slots__ = ("_context", "_left")

    def __init__(self, context: Context, request: Any) -> None:
        self._context = context
        self._left = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        request, self._left = self._left, grpc.aio.EOF
        return request
