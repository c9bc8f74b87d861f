"""Unary calls whose request is on its way: how many there may be, and who has to go where there are too many.

gRPC bounds the calls of a connection, but not those of all, nor the time that a request takes: a client that sends half
of one and has no deadline would hold its place for as long as it likes.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import grpc

from fallback_server.core.errors import DeadlineExceeded, QueueFull
from fallback_server.transport.farewell import Farewell
from fallback_server.transport.rpc import Context

MAX_UNREAD = 1024
"""Calls whose requests gRPC itself waits for, which nothing but their clients can end. Those beyond come as streams of
one request, for which we wait."""

MAX_READS = 4096
"""Requests that are waited for here; one more, and the one that has waited longest goes: at a moment's notice a request
comes soon, or it is large or its line is slow, and then its client asks again."""

REQUEST_S = 600.0
"""A request may take as long to come, which is 4.8 MB at 64 kbit/s. Streams may be silent for longer."""

_PRUNE_S = 0.1


class Arrivals:
    """Requests of one port that are on their way. Lives in the event loop.

    Args:
        max_unread: See `MAX_UNREAD`.
        max_reads: See `MAX_READS`.
        request_s: See `REQUEST_S`.
    """

    def __init__(
        self, *, max_unread: int = MAX_UNREAD, max_reads: int = MAX_READS, request_s: float = REQUEST_S
    ) -> None:
        self._max_unread = max_unread
        self._max_reads = max_reads
        self._request_s = request_s
        self._unread: set[asyncio.Task[Any]] = set()
        self._reads: dict[asyncio.Timeout, None] = {}  # In the order in which they began.
        self._pruned_s = float("-inf")

    def __len__(self) -> int:
        """How many there are, but for some whose clients have left."""
        return len(self._unread) + len(self._reads)

    def leaves_to_grpc(self) -> bool:
        """Whether gRPC may wait for the request of the call that this task answers; it is counted then."""
        if len(self._unread) >= self._max_unread and not self._pruned():
            return False
        task = asyncio.current_task()
        assert task is not None
        self._unread.add(task)
        return True

    def came(self) -> None:
        """The request of the call that this task answers is here."""
        task: Any = asyncio.current_task()
        self._unread.discard(task)

    async def read(self, context: Context) -> Any:
        """The request of a call; at the end of the call what gRPC has for that.

        Raises:
            DeadlineExceeded: it has not come in time.
            QueueFull: others had to have its place.
        """
        timeout = asyncio.timeout(self._request_s)
        try:
            async with timeout:
                self._reads[timeout] = None
                if len(self._reads) > self._max_reads:
                    self._give_up_one()
                return await context.read()
        except TimeoutError:
            if timeout in self._reads:
                raise DeadlineExceeded(f"the request did not come within {self._request_s:g} s") from None
            raise QueueFull(
                f"the request did not come, and more than {self._max_reads} others are on their way too"
            ) from None
        finally:
            self._reads.pop(timeout, None)

    def _give_up_one(self) -> None:
        # Whose own time has ended in this very turn of the loop goes by itself, and can't be told to once more.
        ended = sum(1 for _ in itertools.takewhile(asyncio.Timeout.expired, self._reads))
        if len(self._reads) - ended > self._max_reads:
            oldest = next(itertools.islice(self._reads, ended, None))
            del self._reads[oldest]
            oldest.reschedule(0.0)

    def _pruned(self) -> bool:
        """Forgets those whose clients have left; whether there is room then."""
        now_s = time.monotonic()
        if now_s - self._pruned_s < _PRUNE_S:
            return False
        self._pruned_s = now_s
        self._unread = {task for task in self._unread if not task.done()}
        return len(self._unread) < self._max_unread


class Arriving(grpc.GenericRpcHandler):
    """Handlers whose unary calls are counted until their requests are there, and held while clients are told the end.

    Args:
        inner: Has them: a bounded number, which stay the same.
        arrivals: Counts.
        farewell: Holds; None where nothing is.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, arrivals: Arrivals, farewell: Farewell | None = None) -> None:
        self._inner = inner
        self._arrivals = arrivals
        self._farewell = Farewell() if farewell is None else farewell
        self._counted: dict[grpc.RpcMethodHandler[Any, Any], tuple[_Unread, _Read]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """As gRPC asks for it, in the task that answers the call."""
        handler: Any = self._inner.service(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler  # type: ignore[no-any-return]  # one of these
        counted = self._counted.get(handler)
        if counted is None:
            told = self._arrivals, self._farewell
            counted = self._counted[handler] = _Unread(handler, *told), _Read(handler, *told)
        unread, read = counted
        return read if handler.request_streaming or not self._arrivals.leaves_to_grpc() else unread


class _Counted(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    request_streaming = response_streaming = False
    request_deserializer = response_serializer = None
    unary_unary: Any = None
    unary_stream = stream_stream = None
    stream_unary: Any = None


class _Unread(_Counted):
    """A unary call whose request gRPC waits for."""

    def __init__(self, handler: Any, arrivals: Arrivals, farewell: Farewell) -> None:
        async def unary_unary(data: bytes, context: Context) -> Any:
            arrivals.came()
            if farewell.holding:
                await farewell.wait(context.time_remaining())
            return await handler.unary_unary(data, context)

        async def stream_unary(requests: object, context: Context) -> Any:
            arrivals.came()  # It is waited for here.
            if farewell.holding:
                await farewell.wait(context.time_remaining())
            return await handler.stream_unary(requests, _TimedContext(context, arrivals))

        self.unary_unary = unary_unary
        self.stream_unary = stream_unary


class _Read(_Counted):
    """The same as a stream of one request, which is waited for here."""

    request_streaming = True

    def __init__(self, handler: Any, arrivals: Arrivals, farewell: Farewell) -> None:
        async def stream_unary(requests: object, context: Context) -> Any:
            if farewell.holding:
                await farewell.wait(context.time_remaining())
            return await handler.stream_unary(requests, _TimedContext(context, arrivals))

        self.stream_unary = stream_unary


class _TimedContext:
    """A call's context whose reads are counted."""

    __slots__ = ("_arrivals", "_context")

    def __init__(self, context: Context, arrivals: Arrivals) -> None:
        self._context = context
        self._arrivals = arrivals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        return await self._arrivals.read(self._context)
