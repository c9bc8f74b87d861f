"""uvicorn in the event loop that is there: its own socket, no signal handlers, a bounded stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, cast

import uvicorn

from fallback_server.dataplane import DataPlane
from fallback_server.descriptors import rest_connections
from fallback_server.metrics import Metrics
from fallback_server.transport.rest.app import RestApp, with_cors
from fallback_server.transport.rest.backend import Backend, Models
from fallback_server.transport.rest.connections import Connection, ConnectionLimits, Connections, sound
from fallback_server.transport.rest.listener import ACCEPTS, listen
from fallback_server.transport.rest.opening import Opening
from fallback_server.transport.rest.rest_guard import RestGuard
from fallback_server.transport.tls import TlsKeeper

_RECENT_S = 0.5
"""Who has asked within this is likely to ask again, and to hear then that the server is stopping."""

_LONGEST_QUIET_S = 1.0
_LOOK_EVERY_S = 0.01

DEFAULT_MAX_BODY_BYTES = 2**31 - 1


class _Uvicorn(uvicorn.Server):
    """uvicorn, which takes no signals, as they are the program's, and lets no client hold a connection for ever."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.server_state = self._connections = connections

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn calls it, ten times a second."""
        self._connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """TensorFlow Serving's and the Open Inference Protocol's REST interfaces. Lives in the event loop that makes it.

    Args:
        dataplane: Runs requests.
        control: Knows the models.
        metrics: Served at `metrics_path`.
        cors: Whether pages of any origin may call.
        timeout_s: How long an answer may take once the request is there, with its body; None for ever.
        metrics_path: Where Prometheus finds the metrics; None serves none.
        max_body_bytes: The largest body of a request.
        threads: How many large messages are read or written at a time.
        guard: Knows who may do what; by default everybody may do everything.
        tls: What TLS is spoken with; None for plain text.
        limits: Which connections may stay; by default as many as the process' descriptors allow, at most 4096.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        control: Models,
        metrics: Metrics,
        *,
        cors: bool = False,
        timeout_s: float | None = 30.0,
        metrics_path: str | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        threads: int = 2,
        guard: RestGuard | None = None,
        tls: TlsKeeper | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        if limits is None:
            limits = ConnectionLimits(connections=rest_connections())
        self._backend = Backend(
            dataplane, control, threads=threads, max_body_bytes=max_body_bytes, stall_s=limits.stall_s, guard=guard
        )
        self.app = RestApp(
            self._backend,
            metrics,
            metrics_path=metrics_path,
            timeout_s=timeout_s,
        )
        config = uvicorn.Config(
            sound(with_cors(self.app) if cors else self.app),
            access_log=False,
            backlog=ACCEPTS,
            http=Connection if tls is None else cast("Any", functools.partial(Opening, tls.context())),
            interface="asgi3",
            lifespan="off",
            log_config=None,
            log_level="error",  # What clients send that is no HTTP is theirs to know, and would fill the log.
            loop="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=math.ceil(limits.idle_s),
            ws="none",
        )
        self.connections = Connections(limits)
        self._uvicorn = _Uvicorn(config, self.connections)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, *, host: str, port: int) -> int:
        """Listens; returns the port, which is another than the given one when that is 0.

        Raises:
            PortUnavailable: it can't.
        """
        listener = listen(host, port)
        bound: int = listener.getsockname()[1]
        self._serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[listener]))
        while not self._uvicorn.started and not self._serving.done():  # noqa: ASYNC110  uvicorn tells nobody
            await asyncio.sleep(0.001)
        if self._serving.done():
            self._serving.result()
        return bound

    async def set_serving(self, *, serving: bool) -> None:
        """What `/v2/health/ready` says."""
        self._backend.serving = serving

    async def stop(self, *, grace_s: float) -> None:
        """Takes nothing more, waits for what is in flight, and cancels what outlasts the grace.

        May be called again, with a shorter grace, while a first call waits.
        """
        if self._serving is None:
            return
        begun_s = asyncio.get_running_loop().time()
        self._backend.stopping = True
        await self._quiet(grace_s=grace_s)
        self._backend.give_up_bodies()
        self._uvicorn.should_exit = True
        left_s = max(0.0, grace_s - (asyncio.get_running_loop().time() - begun_s))
        done, _ = await asyncio.wait([self._serving], timeout=left_s)
        if not done:
            for task in list(self._uvicorn.server_state.tasks):
                task.cancel("the grace is over")
            self._uvicorn.config.timeout_graceful_shutdown = 1
            await asyncio.wait([self._serving], timeout=1.0)
            self._uvicorn.force_exit = True
            await asyncio.wait([self._serving], timeout=1.0)
        self._backend.close()

    async def _quiet(self, *, grace_s: float) -> None:
        """Takes no new connections, and waits until those who asked lately have asked again, at most a second.

        uvicorn closes connections with the requests that are in their sockets: so their clients are told before.
        """
        for listening in self._uvicorn.servers:
            listening.close()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while (now_s := loop.time()) - begun_s < min(grace_s, _LONGEST_QUIET_S):
            if not self.connections.expecting(now_s - _RECENT_S):
                return
            await asyncio.sleep(_LOOK_EVERY_S)
