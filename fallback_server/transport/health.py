"""gRPC's health service, whose watchers don't keep the server from ending."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from grpc_health.v1 import health, health_pb2

HEALTH_NAMES = ("", "ModelService", "PredictionService")
"""The server as a whole, and the names that TensorFlow Serving gives its services."""

_LAST_WORD_S = 0.2
"""For NOT_SERVING to reach the watchers before their calls end."""


class HealthService(health.aio.HealthServicer):
    """As gRPC has it; but a Watch ends when the server does, not when its caller leaves: that would be never."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = asyncio.Event()

    async def set_serving(self, *, serving: bool) -> None:
        """What health checks hear."""
        status = health_pb2.HealthCheckResponse
        for name in HEALTH_NAMES:
            await self.set(name, status.SERVING if serving else status.NOT_SERVING)

    def close(self) -> None:
        """Ends every Watch, those to come too."""
        self._closed.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802  gRPC's name
        """Tells each change until the caller leaves, or the server closes."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait([watch, closed], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([watch], timeout=_LAST_WORD_S)
        finally:
            closed.cancel()
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
