"""The composition root: puts the parts together, starts them in order, and stops them in the opposite order."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fallback_server.advertiser import Advertiser
from fallback_server.config import ServerOptions
from fallback_server.core.errors import InvalidInput, ModelNotFound
from fallback_server.core.handle import ServableHandle
from fallback_server.core.loader import OnLost
from fallback_server.core.manager import Manager
from fallback_server.core.servable import ServableId, ServableState
from fallback_server.core.source import FileSystemSource
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane
from fallback_server.executors.registry import Registry, default_registry
from fallback_server.poller import Poller
from fallback_server.protocol.mdns import Announcement
from fallback_server.served_model import ServedModel, ServedModelLoader
from fallback_server.transport.grpc_server import GrpcServer

_log = logging.getLogger(__name__)

_MDNS_STOP_S = 3.0
"""A withdrawal is three packets 125 ms apart; a network that takes longer is left alone."""

_UNLOAD_S = 5.0
"""For threads to end and memory to be freed once nothing is in flight any more."""


class PlainVersions:
    """The manager's versions as they are: no labels, nothing shared out."""

    def __init__(self, manager: Manager[ServedModel]) -> None:
        self._manager = manager

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """See `Versions`."""
        del client_key
        if target.label is not None:
            raise InvalidInput(f"Unrecognized servable version label: {target.label}")
        return self._manager.acquire(target.name, target.version)

    def shadow(self, name: str, answered: int) -> ServableHandle[ServedModel] | None:
        """See `Versions`."""
        del name, answered
        return None

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """See `DataPlane.states`."""
        if not target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        states = self._manager.states(target.name)
        if target.version is not None:
            states = tuple(state for state in states if state.servable_id.version == target.version)
            if not states:
                raise ModelNotFound(f"Could not find version {target.version} of model {target.name}")
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return states

    def index(self) -> tuple[ServableState, ...]:
        """Nothing: nobody knows the names."""
        return ()

    def catalog(self) -> tuple[object, ...]:
        """Nothing, likewise."""
        return ()

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Nobody tells."""
        del on_change
        return lambda: None


class Server:
    """One server, in the event loop that makes it.

    Args:
        options: Everything it is started with.
        registry: What runs models; by default all that this server knows.
    """

    def __init__(self, options: ServerOptions, registry: Registry | None = None) -> None:
        self._options = options
        self._registry = default_registry(options.saved_model) if registry is None else registry
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._manager: Manager[ServedModel] = Manager(make_loader=self._make_loader, options=options.manager)
        versions = PlainVersions(self._manager)
        self._dataplane = DataPlane(versions=versions, options=options.batching, clock=time.monotonic)
        self._grpc = GrpcServer(
            self._dataplane,
            versions,  # type: ignore[arg-type]
            server_id=options.network.server_id,
        )
        self._poller = Poller(
            source=FileSystemSource(
                configs=options.source.configs,
                repository=options.source.repository,
                settle_s=options.source.poll_wait_s or 1.0,
            ),
            manager=self._manager,
            wait_s=options.source.poll_wait_s,
            on_ready=functools.partial(self._loop.call_soon_threadsafe, self._ready.set),
        )
        self._advertiser: Advertiser | None = None

    async def start(self) -> int:
        """Listens and begins to load; returns the port. SIGTERM and SIGINT stop the server from now on.

        Raises:
            PortUnavailable: it can't listen there.
        """
        network = self._options.network
        port = await self._grpc.start(host=network.host, port=network.port)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self._dataplane.scheduler.start()
        self._poller.start()
        if network.mdns:
            announcement = Announcement(server_id=network.server_id)
            self._advertiser = Advertiser(announcement, host=network.host, port=port)
        return port

    async def wait_ready(self) -> bool:
        """Waits until what was on disk at the start is loaded, or could not be, and only then begins to announce.

        Returns:
            False when a stop comes first.
        """
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._stop.is_set():
            return False
        await self._grpc.set_serving(serving=True)
        if self._advertiser is not None:
            self._advertiser.start()
        return True

    async def run_until_stopped(self) -> bool:
        """Serves until a signal; False when something outlasted the grace and still runs in a thread."""
        await self._stop.wait()
        _log.info("stopping: requests in flight have %.1f s", self._options.grace_s)
        self._stop.clear()
        await self._grpc.set_serving(serving=False)
        if self._advertiser is not None:
            await asyncio.to_thread(self._advertiser.stop, timeout_s=_MDNS_STOP_S)
        await self._drain()
        return await asyncio.to_thread(self._stop_threads)

    async def _drain(self) -> None:
        """Finishes what is in flight; a second signal cuts the grace short."""
        draining = asyncio.ensure_future(self._grpc.stop(grace_s=self._options.grace_s))
        hurry = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            _log.warning("stopping at once: a second signal came")
            await self._grpc.stop(grace_s=0)
        hurry.cancel()
        await draining

    def _stop_threads(self) -> bool:
        self._poller.stop(timeout_s=_UNLOAD_S)
        batches = self._dataplane.scheduler.stop(timeout_s=_UNLOAD_S)
        loads = self._manager.stop(timeout_s=_UNLOAD_S)
        return batches and loads

    def _on_signal(self, number: signal.Signals) -> None:
        _log.info("%s", number.name)
        self._stop.set()

    def _make_loader(self, servable_id: ServableId, path: Path, on_lost: OnLost[ServedModel]) -> ServedModelLoader:
        del on_lost
        return ServedModelLoader(servable_id, path, registry=self._registry, options=self._options.batching)
