"""Takes calls as they come: several stand ready for the next ones, where gRPC's own loop takes one at a time.

That asks for a call in a task of its own, waits for it together with all else that it waits for, and asks for the next
one a turn of the event loop later, when whatever else came has been seen to: a large part of what a small call costs.
Here a task for each of `AT_ONCE` calls asks again at once. What follows is gRPC's own, call by call.

None of that is for users of gRPC: where a release of it has other insides, its own loop takes all calls as it would
without. It takes a few of them in any case.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

_log = logging.getLogger(__name__)

AT_ONCE = 32
"""Calls of a method that may be taken in one turn of the loop. Each holds some hundred bytes until then."""

_SERVER_PARTS = ("_request_registered_call", "is_running")
_HANDLE = ("method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded")
_SCHEDULE = ("rpc_coro", "rpc_state", "loop", "method_name")


class _Details(NamedTuple):
    """What gRPC tells of a call before its handler is found."""

    method: str
    invocation_metadata: Any


class Accepting:
    """Of one server of gRPC, in its event loop: `register`, start it, `begin`, stop it, `end`.

    Args:
        handlers: The server's, in their order; those of the methods say nothing else when they are asked again.
        paths: Of the methods that come often, `/service/method`: unary calls whose handlers take them as streams of
            one, too, or are of streams.
    """

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], paths: Sequence[str]) -> None:
        self._handlers = handlers
        self._paths = paths
        self._insides = _insides()
        self._core: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def works(self) -> bool:
        """Whether calls are taken here, between `begin` and the server's end."""
        return bool(self._tasks)

    def register(self, server: grpc.aio.Server) -> None:
        """Tells gRPC which methods are asked for by name. Before the server is started."""
        core = getattr(server, "_server", None)
        if self._insides is None or not all(hasattr(core, part) for part in _SERVER_PARTS):
            _log.info("grpcio %s is not known inside: it takes calls one at a time", grpc.__version__)
            return
        for path in self._paths:
            service, method = path[1:].split("/")
            server.add_registered_method_handlers(service, {method: _AsStream(path, self)})
        self._core = core

    def begin(self) -> None:
        """Takes calls from now on. The server runs."""
        if self._core is None:
            return
        self._loop = asyncio.get_running_loop()
        for path in self._paths:
            for _ in range(AT_ONCE):
                self._keep(self._tasks, self._loop.create_task(self._take(path)))

    async def end(self) -> None:
        """The server was stopped: waits for what was taken."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._calls, return_exceptions=True)

    def resolve_handler(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """As gRPC asks for it: the handler of a call."""
        for handlers in self._handlers:
            found = handlers.service(handler_call_details)
            if found is not None:
                return found
        return None

    async def _take(self, path: str) -> None:
        assert self._loop is not None
        insides, core, loop, name = self._insides, self._core, self._loop, path.encode()
        try:
            while core.is_running():
                try:
                    state = await core._request_registered_call(name)  # noqa: SLF001  see above
                except insides._RequestCallError:  # noqa: SLF001  the server ends, or this one call did
                    continue
                answering = insides._handle_rpc(path, self, (), state, loop, False)  # noqa: SLF001  likewise
                scheduled = insides._schedule_rpc_coro(answering, state, loop, path)  # noqa: SLF001
                self._keep(self._calls, loop.create_task(scheduled))
                del state, answering, scheduled  # They hold the call, and its request, until the next one comes.
        except Exception:  # noqa: BLE001  the server goes on without
            _log.exception("%s: calls are taken by gRPC's own loop from now on", path)

    @staticmethod
    def _keep(tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        """The loop itself keeps no task alive."""
        tasks.add(task)
        task.add_done_callback(tasks.discard)


class _AsStream(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """The handler of calls that gRPC's own loop takes: who calls is known when they begin, and the request is not read.

    gRPC asks for the handler of a registered method once for all calls, and so with none of what a call says. As
    streams they are the same on the wire, and whatever kind of handler is found then can answer.
    """

    request_streaming = response_streaming = True
    request_deserializer = response_serializer = None
    unary_unary = unary_stream = stream_unary = None

    def __init__(self, path: str, accepting: Accepting) -> None:
        async def stream_stream(requests: object, context: Any) -> None:
            details: Any = _Details(path, context.invocation_metadata())
            handler: Any = accepting.resolve_handler(details)
            if handler is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{path} is not served here")
            elif handler.response_streaming:
                await handler.stream_stream(requests, context)
            else:
                await context.write(await handler.stream_unary(requests, context))

        self.stream_stream: Any = stream_stream


def _insides() -> Any:
    """The part of gRPC that takes calls; None where it is not as it is known."""
    try:
        found: Any = importlib.import_module("grpc._cython.cygrpc")
        known = (
            _arguments(found._handle_rpc) == _HANDLE  # noqa: SLF001
            and _arguments(found._schedule_rpc_coro) == _SCHEDULE  # noqa: SLF001
            and issubclass(found._RequestCallError, Exception)  # noqa: SLF001
        )
    except (ImportError, AttributeError, TypeError):
        return None
    return found if known else None


def _arguments(function: Any) -> tuple[str, ...]:
    code = function.__code__
    return tuple(code.co_varnames[: code.co_argcount])
