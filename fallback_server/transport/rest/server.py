"""uvicorn in the event loop that is there: its own socket, no signal handlers, a bounded stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from fallback_server.dataplane import DataPlane
from fallback_server.metrics import Metrics
from fallback_server.transport.grpc_server import PortUnavailable
from fallback_server.transport.rest.app import RestApp, with_cors
from fallback_server.transport.rest.backend import Backend, Models

_KEEP_ALIVE_S = 75
"""Longer than clients keep a connection that they don't use, so that none sends into one that is being closed."""

_MAX_CONNECTIONS = 4096
_BACKLOG = 1024

DEFAULT_MAX_BODY_BYTES = 2**31 - 1


class _Uvicorn(uvicorn.Server):
    """uvicorn, which takes no signals: they are the program's."""

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
        timeout_s: How long a request may take; None for ever.
        metrics_path: Where Prometheus finds the metrics; None serves none.
        max_body_bytes: The largest body of a request.
        threads: How many large messages are read or written at a time.
        allow_remote_control: Whether models may be loaded and unloaded by whoever can connect.
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
        allow_remote_control: bool = True,
    ) -> None:
        self._backend = Backend(dataplane, control, threads=threads, max_body_bytes=max_body_bytes)
        self.app = RestApp(
            self._backend,
            metrics,
            metrics_path=metrics_path,
            timeout_s=timeout_s,
            allow_remote_control=allow_remote_control,
        )
        config = uvicorn.Config(
            with_cors(self.app) if cors else self.app,
            access_log=False,
            backlog=_BACKLOG,
            interface="asgi3",
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
            log_config=None,
            log_level="warning",
            loop="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            ws="none",
        )
        self._uvicorn = _Uvicorn(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, *, host: str, port: int) -> int:
        """Listens; returns the port, which is another than the given one when that is 0.

        Raises:
            PortUnavailable: it can't.
        """
        listener = _listen(host, port)
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
        self._uvicorn.should_exit = True
        done, _ = await asyncio.wait([self._serving], timeout=grace_s)
        if not done:
            for task in list(self._uvicorn.server_state.tasks):
                task.cancel("the grace is over")
            self._uvicorn.config.timeout_graceful_shutdown = 1
            await asyncio.wait([self._serving], timeout=1.0)
            self._uvicorn.force_exit = True
            await asyncio.wait([self._serving], timeout=1.0)
        self._backend.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, on IPv4 and IPv6 where the host means both.

    Raises:
        PortUnavailable: the address is taken, or none of this machine's.
    """
    flags = socket.AI_PASSIVE
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM, flags=flags)[
            0
        ]
        # With its protocol: asyncio turns Nagle's delay off only on sockets that say they are TCP's.
        listener = socket.socket(family, kind, proto)
    except (OSError, OverflowError) as error:
        raise PortUnavailable(f"can't listen on {host}:{port} for REST: {error}") from error
    try:
        # A restarted server need not wait for old connections; a second one is refused all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortUnavailable(f"can't listen on {host}:{port} for REST: {error}") from error
    listener.setblocking(False)
    return listener
