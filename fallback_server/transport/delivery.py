"""Hands packages to devices: what is in them, and their files in pieces, from any offset on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fallback_server.core.errors import PermissionDenied, QueueFull, ServerStopping
from fallback_server.core.target import ModelTarget
from fallback_server.package_shelf import Shelf
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport.changes import Changes
from fallback_server.transport.rpc import Context, Rpcs
from fallback_server.transport.services import Handlers

CHUNK_BYTES = 256 * 1024
"""Of one piece: small beside what a connection has on its way, large beside what a message costs."""

MAX_CALLS = 64
"""Calls at a time; each holds an open file and a piece of it."""

MAX_STREAM_S = 600.0
"""How long one call may take: a caller that does not read keeps its place no longer, one that does asks again."""

_THREADS = 2

T = TypeVar("T")


class DeliveryService:
    """Describe and Fetch. Lives in the event loop, and reads in threads of its own.

    Args:
        shelf: The packages; None where callers may have none.
        changes: Says when the server stops; whoever fetches then goes on elsewhere, or later.
    """

    def __init__(self, shelf: Shelf | None, changes: Changes) -> None:
        self._shelf = shelf
        self._changes = changes
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="delivery")
        self._calls = 0

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.DESCRIBE_PACKAGE: rpcs.message(methods.DESCRIBE_PACKAGE, self._describe),
            methods.FETCH_PACKAGE: rpcs.responses(methods.FETCH_PACKAGE, self._fetch, limit_s=MAX_STREAM_S),
        }

    def close(self) -> None:
        """Ends the threads when they have done what they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _describe(self, request: pb.PackageRequest, context: Context) -> pb.PackageDescription:
        del context
        shelf = self._allowed("Describe")
        target = ModelTarget(name=request.model, version=request.version or None, label=request.label or None)
        with self._place():
            found = await self._in_thread(shelf.find, target)
        files = [
            pb.PackageFile(path=path, bytes=entry.size_bytes, sha256=entry.sha256)
            for path, entry in found.files.items()
        ]
        return pb.PackageDescription(model=found.model, version=found.version, digest=found.digest, files=files)

    async def _fetch(self, request: pb.FetchRequest, context: Context) -> AsyncGenerator[pb.Chunk, None]:
        del context
        shelf = self._allowed("Fetch")
        target = ModelTarget(name=request.model, version=request.version)
        with self._place():
            file = await self._in_thread(shelf.open, target, request.digest, request.path, request.offset)
            with file:
                while data := await self._in_thread(file.read, CHUNK_BYTES):
                    if self._changes.closed:
                        raise ServerStopping("the server is stopping: ask for the rest elsewhere, or later")
                    yield pb.Chunk(data=data)

    def _allowed(self, what: str) -> Shelf:
        if self._shelf is None:
            raise PermissionDenied(f"{what} is refused: this server was started with --allow_package_delivery=false")
        return self._shelf

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._calls >= MAX_CALLS:
            raise QueueFull(f"{self._calls} calls fetch packages; no more are taken")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
