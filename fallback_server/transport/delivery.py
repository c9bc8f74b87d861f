"""Hands packages to devices: what is in them, and their files in pieces, from any offset on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from fallback_server.access.rules import Scope
from fallback_server.core.errors import DataLost, PermissionDenied, ServerStopping
from fallback_server.core.printable import quoted
from fallback_server.core.target import ModelTarget
from fallback_server.package_shelf import Shelf
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.changes import Changes
from fallback_server.transport.places import UNKNOWN, Places, address_of, place_of
from fallback_server.transport.rpc import Caller, Context, Rpcs
from fallback_server.transport.services import Handlers

CHUNK_BYTES = 256 * 1024
"""Of one piece: small beside what a connection has on its way, large beside what a message costs."""

MAX_CALLS = 64
"""Calls of Fetch at a time, each of which holds an open file and a piece of it; and as many of Describe."""

MAX_STREAM_S = 600.0
"""How long one call may take: a caller that reads asks for the rest."""

STALL_S = 60.0
"""How long a caller may leave a piece untaken; longer than a device waits for one."""

UNKNOWN_STREAM_S = 60.0
UNKNOWN_STALL_S = 30.0
"""Of callers whose address is not known: who reads has a piece in less even at 128 kbit/s, and asks for the rest."""

_THREADS = 2

T = TypeVar("T")

_log = logging.getLogger(__name__)


class DeliveryService:
    """Describe and Fetch. Lives in the event loop, and reads in threads of its own.

    Args:
        shelf: The packages; None where callers may have none.
        changes: Says when the server stops; whoever fetches then goes on elsewhere, or later.
        guard: Knows who may have what.
    """

    def __init__(self, shelf: Shelf | None, changes: Changes, guard: CallGuard) -> None:
        self._shelf = shelf
        self._guard = guard
        self._changes = changes
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="delivery")
        self._describes = Places("Describe", MAX_CALLS)
        self._fetches = Places("Fetch", MAX_CALLS)

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        fetch, method = self._fetch, methods.FETCH_PACKAGE
        known: Any = rpcs.responses(method, fetch, limit_s=MAX_STREAM_S, stall_s=STALL_S)
        unknown: Any = rpcs.responses(method, fetch, limit_s=UNKNOWN_STREAM_S, stall_s=UNKNOWN_STALL_S)

        async def handle(requests: object, context: Context) -> None:
            handler = unknown if address_of(context) == UNKNOWN else known
            await handler.stream_stream(requests, context)

        return {
            methods.DESCRIBE_PACKAGE: rpcs.message(methods.DESCRIBE_PACKAGE, self._describe),
            method: grpc.stream_stream_rpc_method_handler(handle),
        }

    def close(self) -> None:
        """Ends the threads when they have done what they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _describe(self, request: pb.PackageRequest, caller: Caller) -> pb.PackageDescription:
        shelf = self._allowed("Describe", caller, request.model)
        target = ModelTarget(name=request.model, version=request.version or None, label=request.label or None)
        with self._describes.taken(*place_of(caller)):
            found = await self._in_thread(shelf.find, target)
        files = [
            pb.PackageFile(path=path, bytes=entry.size_bytes, sha256=entry.sha256)
            for path, entry in found.files.items()
        ]
        return pb.PackageDescription(model=found.model, version=found.version, digest=found.digest, files=files)

    async def _fetch(self, request: pb.FetchRequest, context: Context) -> AsyncGenerator[pb.Chunk, None]:
        shelf = self._allowed("Fetch", context, request.model)
        target = ModelTarget(name=request.model, version=request.version)
        with self._fetches.taken(*place_of(context)):
            file = await self._in_thread(shelf.open, target, request.digest, request.path, request.offset)
            with file:
                left_bytes = os.fstat(file.fileno()).st_size - request.offset
                while left_bytes > 0:
                    data = await self._in_thread(file.read, min(left_bytes, CHUNK_BYTES))
                    if self._changes.closed:
                        raise ServerStopping("the server is stopping: ask for the rest elsewhere, or later")
                    if not data:
                        raise _cut_off(request, left_bytes)
                    self._allowed("Fetch", context, request.model)  # Who may do what may have changed since.
                    left_bytes -= len(data)
                    yield pb.Chunk(data=data)

    def _allowed(self, what: str, caller: Caller, model: str) -> Shelf:
        """Whoever has a package has the model, and what is said of it: that takes what running and seeing it take."""
        for scope in (Scope.STATUS, Scope.PREDICT):
            self._guard.admit(caller, scope, [model], what)
        if self._shelf is None:
            raise PermissionDenied(f"{what} is refused: this server was started with --allow_package_delivery=false")
        return self._shelf

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _cut_off(request: pb.FetchRequest, left_bytes: int) -> DataLost:
    file = f"{quoted(request.path)} of {request.model}/{request.version}"
    _log.warning("%s was cut short while it was fetched: %d bytes are missing", file, left_bytes)
    return DataLost(f"{file} was cut short while it was read: {left_bytes} bytes are missing")
