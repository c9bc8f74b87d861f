"""The composition root: puts the parts together, starts them in order, and stops them in the opposite order."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import signal
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import NamedTuple

from fallback_server.advertiser import Advertiser
from fallback_server.batching.options import BatchingOptions
from fallback_server.config import ServerOptions
from fallback_server.config_file import ConfigFile, batching_for
from fallback_server.control import Control
from fallback_server.core.archive import Unpacker
from fallback_server.core.loader import Loader, OnLost
from fallback_server.core.manager import Manager
from fallback_server.core.resources import MemoryBudget
from fallback_server.core.servable import ServableId
from fallback_server.core.source import FileSystemSource
from fallback_server.core.unpacking import UnpackOptions
from fallback_server.credentials import Credentials
from fallback_server.dataplane import DataPlane
from fallback_server.descriptors import raise_descriptor_limit
from fallback_server.executors.registry import AUTO, Registry, default_registry
from fallback_server.first_look import may_need_tensorflow
from fallback_server.local_token import LocalToken, bound_targets
from fallback_server.metrics import Metrics, observer
from fallback_server.package_shelf import Shelf
from fallback_server.poller import ConfigWatcher, Poller
from fallback_server.protocol.mdns import Announcement, apis_of
from fallback_server.sequences.figures import SequenceFigures
from fallback_server.served_model import ServedModel, ServedModelLoader
from fallback_server.signals import Signals
from fallback_server.statistics import KeptStatistics
from fallback_server.transport import callers
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.faults import code_of
from fallback_server.transport.grpc_server import GrpcServer
from fallback_server.transport.native import private_folder
from fallback_server.transport.native.choice import choose, installed
from fallback_server.transport.rest.rest_guard import RestGuard
from fallback_server.transport.rest.server import RestServer
from fallback_server.workers.hosting import HostingLoader, share_of
from fallback_server.workers.messages import Access, Begin
from fallback_server.workers.team import Team

_log = logging.getLogger(__name__)

_MDNS_STOP_S = 3.0
"""A withdrawal is three packets 125 ms apart; a network that takes longer is left alone."""

_NATIVE_INLINE = 4
"""So many times as long as in the event loop a run may take in a receiver of the native server: it holds up less."""

_WORKERS_S = 60.0
"""For workers to take connections before the server says that it does; one that can't is told in the log."""

_CLOSE_S = 6.0
"""For models to be unloaded by themselves; a class of the user's own has 5 s to close what it has open."""

_UNLOAD_S = 5.0
"""For threads to end and memory to be freed once nothing is in flight any more."""


class Ports(NamedTuple):
    """Where the server listens; REST's is None where there is none."""

    grpc: int
    rest: int | None


class Server:
    """One server, in the event loop that makes it.

    Args:
        options: Everything it is started with.
        signals: Those of the process.
        registry: What runs models; by default all that this server knows.
    """

    def __init__(self, options: ServerOptions, signals: Signals, registry: Registry | None = None) -> None:
        raise_descriptor_limit()
        self._options = options
        self._signals = signals
        network, source = options.network, options.source
        self._registry = default_registry(options.saved_model) if registry is None else registry
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()
        config_file = None
        if source.config_file is not None:
            config_file = ConfigFile(source.config_file, source.config_digest)
        self._credentials = Credentials(network, on_change=self._tell_access)
        self._local_token: LocalToken | None = None
        unpacker = Unpacker(unpack_dir=source.unpack_dir, options=UnpackOptions(max_bytes=source.max_unpacked_bytes))
        self._kept = KeptStatistics()
        self._manager: Manager[ServedModel] = Manager(
            make_loader=self._make_loader, options=options.manager, budget=MemoryBudget(), prepare=unpacker.prepare
        )
        self.control = Control(
            manager=self._manager,
            source=FileSystemSource(
                configs=source.configs,
                repository=source.repository,
                settle_s=source.poll_wait_s or 1.0,
                packed=unpacker,
            ),
            configs=source.configs,
            repository=source.repository,
            allow_labels_for_unavailable=source.allow_labels_for_unavailable,
            read_configs=None if config_file is None else config_file.read,
        )
        self._sequence_figures = SequenceFigures()
        self._metrics = Metrics(
            self.control.catalog,
            sequences=self._sequence_figures.snapshot,
            refused=self._credentials.guard.attempts.counts,
        )
        self._dataplane = DataPlane(
            versions=self.control,
            options=options.batching,
            clock=time.monotonic,
            check_method_names=options.check_method_names,
            observe=observer(self._metrics, code_of),
        )
        self._team: Team | None = None
        if network.workers > 1:
            self._team = Team(network.workers - 1, catalog=self.control.catalog, absorb=self._metrics.add)
            self._manager.on_move = self._team.changed
            self.control.watch(self._team.changed)
        self._native = self._chosen_native()
        self._grpc = self._grpc_server()
        self._rest: RestServer | None = None
        if network.rest_port is not None:
            self._rest = RestServer(
                self._dataplane,
                self.control,
                self._metrics,
                cors=network.cors,
                timeout_s=network.rest_timeout_s,
                metrics_path=options.metrics_path,
                max_body_bytes=network.max_message_bytes,
                threads=network.rest_threads,
                guard=RestGuard(self._credentials.guard, inference=self._credentials.asks),
                tls=self._credentials.tls if network.rest_tls else None,
            )
        self._poller = Poller(
            source=self.control,
            manager=self.control,
            wait_s=source.poll_wait_s,
            max_start_wait_s=source.max_start_wait_s,
            on_ready=functools.partial(self._loop.call_soon_threadsafe, self._ready.set),
        )
        self.control.wake = self._poller.wake
        self._config_watcher: ConfigWatcher | None = None
        if config_file is not None and source.config_poll_s:
            self._config_watcher = ConfigWatcher(config_file, reload=self.control.reload, wait_s=source.config_poll_s)
        self._advertiser: Advertiser | None = None
        self._apis: tuple[str, ...] = ()

    async def start(self) -> Ports:
        """Listens and begins to load. SIGTERM and SIGINT stop the server from now on, SIGHUP has it configured anew.

        A SIGHUP that came before is made up for: the configuration may have been read before it.

        Raises:
            PortUnavailable: it can't listen there.
        """
        self._signals.deliver_stops(lambda number: self._loop.call_soon_threadsafe(self._on_signal, number))
        network = self._options.network
        if self._options.executor in (AUTO, "tensorflow") and may_need_tensorflow(self._options.source):
            self._registry.start()  # Imported while the rest begins; else by the first load that needs it.
        socket_path = None if network.socket_path is None else str(network.socket_path)
        port = await self._grpc.start(host=network.host, port=network.port, socket_path=socket_path)
        rest_port = None
        if self._rest is not None and network.rest_port is not None:
            try:
                rest_port = await self._rest.start(host=network.host, port=network.rest_port)
            except BaseException:
                await self._grpc.stop(grace_s=0)
                raise
        ports = [each for each in (port, rest_port) if each is not None]
        self._local_token = LocalToken(
            [*bound_targets(ports), *([] if socket_path is None else [f"unix:{socket_path}"])]
        )
        self._credentials.guard.local = self._local_token.digest
        if self._team is not None:
            self._team.start(self._begin(port))
        self._credentials.start()  # Workers that have begun hear of what changes.
        self._dataplane.scheduler.start()
        self._poller.start()
        if self._config_watcher is not None:
            self._config_watcher.start()
        if network.mdns:
            self._apis = apis_of(rest_port=rest_port)
            self._advertiser = Advertiser(
                self._announcement(), host=network.host, port=port, interfaces=network.mdns_interfaces
            )
        self._signals.deliver_hangups(lambda: self._loop.call_soon_threadsafe(self._on_hangup))
        return Ports(port, rest_port)

    async def wait_ready(self) -> bool:
        """Waits until what was on disk at the start is loaded, or could not be, and only then begins to announce.

        Likewise until all workers take connections.

        Returns:
            False when a stop comes first.
        """
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([asyncio.ensure_future(self._wait_begun()), stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._stop.is_set():
            return False
        await self._set_serving(serving=True)
        if self._advertiser is not None:
            self._advertiser.start()
        return True

    async def _wait_begun(self) -> None:
        await self._ready.wait()
        if self._team is not None and not await asyncio.to_thread(self._team.wait_listening, timeout_s=_WORKERS_S):
            _log.error("the server is ready, though not all workers take connections after %.0f s", _WORKERS_S)

    async def run_until_stopped(self) -> bool:
        """Serves until a signal; False when something outlasted the grace and still runs in a thread."""
        await self._stop.wait()
        _log.info("stopping: requests in flight have %.1f s", self._options.grace_s)
        self._stop.clear()
        await self._set_serving(serving=False)
        if self._advertiser is not None:
            await asyncio.to_thread(self._advertiser.stop, timeout_s=_MDNS_STOP_S)
        await self._drain()
        return await asyncio.to_thread(self._stop_threads)

    async def _set_serving(self, *, serving: bool) -> None:
        await self._grpc.set_serving(serving=serving)
        if self._rest is not None:
            await self._rest.set_serving(serving=serving)

    async def _drain(self) -> None:
        """Finishes what is in flight; a second signal cuts the grace short."""
        draining = asyncio.ensure_future(self._stop_transports(self._options.grace_s))
        hurry = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            _log.warning("stopping at once: a second signal came")
            await self._stop_transports(0)
        hurry.cancel()
        await draining

    async def _stop_transports(self, grace_s: float) -> None:
        stops: list[Awaitable[object]] = [self._grpc.stop(grace_s=grace_s)]
        if self._team is not None:
            stops.append(asyncio.to_thread(self._team.drain, grace_s=grace_s))
        if self._rest is not None:
            stops.append(self._rest.stop(grace_s=grace_s))
        await asyncio.gather(*stops)

    def _stop_threads(self) -> bool:
        if self._team is not None:
            self._team.close()
        self._credentials.stop(timeout_s=_UNLOAD_S)
        if self._local_token is not None:
            self._local_token.close()
        if self._config_watcher is not None:
            self._config_watcher.stop(timeout_s=_UNLOAD_S)
        self._poller.stop(timeout_s=_UNLOAD_S)
        batches = self._dataplane.scheduler.stop(timeout_s=_UNLOAD_S)
        # Models of the user's own are closed in their turn; what takes longer, or hangs, is ended.
        late = threading.Timer(_CLOSE_S, self._registry.close)
        late.name, late.daemon = "late", True
        late.start()
        loads = self._manager.stop(timeout_s=_CLOSE_S + _UNLOAD_S)
        late.cancel()
        self._registry.close()
        return batches and loads

    def _on_signal(self, number: signal.Signals) -> None:
        _log.info("%s", number.name)
        self._stop.set()

    def _on_hangup(self) -> None:
        task = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        _log.info("SIGHUP: the configuration is read again")
        try:
            await asyncio.to_thread(self._credentials.reload)
        except Exception as error:  # noqa: BLE001  as below
            _log.error("keys, certificates or access rules can't be applied; what was, stays: %s", error)
        try:
            names = await asyncio.to_thread(self.control.reload)
        except Exception as error:  # noqa: BLE001  a mistake in a file must not end what serves
            _log.error("the configuration can't be applied; what was, stays: %s", error)
        else:
            _log.info("the configuration was applied: %s", ", ".join(names) or "no models")

    def _chosen_native(self) -> bool:
        network = self._options.network
        choice = choose(
            network.transport,
            tls=network.tls is not None,
            present=installed(),
            arguments=network.channel_arguments,
            max_message_bytes=network.max_message_bytes,
            socket_lack="" if network.transport == "grpcio" else private_folder.lack(),
        )
        _log.info("gRPC is spoken by %s: %s", "the native server" if choice.native else "grpcio", choice.reason)
        return choice.native

    def _grpc_server(self) -> GrpcServer:
        network = self._options.network
        return GrpcServer(
            self._dataplane,
            self.control,
            server_id=network.server_id,
            max_message_bytes=network.max_message_bytes,
            tls=self._credentials.tls,
            guard=CallGuard(
                self._credentials.guard,
                certificates=network.tls is not None and network.tls.client_verify,
                inference=self._credentials.asks,
            ),
            message_threads=network.grpc_threads,
            channel_arguments=network.channel_arguments,
            tensor_content=network.tensor_content,
            native=self._native,
            inline_s=self._inline_s,
            shared=self._team is not None,
            sequences=self._options.sequences,
            sequence_figures=self._sequence_figures,
            packages=Shelf(self.control, self._options.source.package_repository)
            if network.allow_package_delivery
            else None,
        )

    @property
    def _inline_s(self) -> float:
        return _NATIVE_INLINE * self._options.batching.max_inline_us / 1e6

    def _begin(self, port: int) -> Begin:
        """What workers are told, each with its number."""
        network = self._options.network
        return Begin(
            index=0,
            host=network.host,
            port=port,
            native=self._native,
            passes_to=str(self._grpc.private_path),
            secret=callers.secret(),
            access=self._access(),
            asks=self._credentials.asks,
            max_message_bytes=network.max_message_bytes,
            message_threads=network.grpc_threads,
            channel_arguments=network.channel_arguments,
            tensor_content=network.tensor_content,
            inline_s=self._inline_s,
            batching=share_of(self._options.batching, network.workers),
            check_method_names=self._options.check_method_names,
            log_level=logging.getLogger().getEffectiveLevel(),
        )

    def _announcement(self) -> Announcement:
        tls = self._credentials.tls
        return Announcement(
            server_id=self._options.network.server_id,
            apis=self._apis,
            tls=tls is not None,
            fingerprint="" if tls is None else tls.files.fingerprint,
        )

    def _access(self) -> Access:
        """What workers are told of who may do what."""
        held = self._credentials
        return Access(
            rules=held.rules,
            trust=held.trust,
            tls=None if held.tls is None else held.tls.files,
        )

    def _tell_access(self) -> None:
        if self._team is not None:
            self._team.take_access(self._access())
        if self._advertiser is not None:
            self._advertiser.tell(self._announcement())

    def _make_loader(self, servable_id: ServableId, path: Path, on_lost: OnLost[ServedModel]) -> Loader[ServedModel]:
        options = self._batching_of(servable_id.name)
        loader = ServedModelLoader(
            servable_id,
            path,
            registry=self._registry,
            options=options,
            on_lost=on_lost,
            warm=self._options.warm_up,
            batching_for=batching_for if options.per_model else None,
            observer=self._metrics,
            kept=self._kept,
            kind=self._executor_of(servable_id.name),
        )
        if self._team is None:
            return loader
        return HostingLoader(loader, servable_id, path, team=self._team, count=self._options.network.workers - 1)

    def _batching_of(self, name: str) -> BatchingOptions:
        """How a model's requests are merged: as the server says, but for what is said of the model."""
        options = self._options.batching
        config = next((config for config in self.control.configs() if config.name == name), None)
        if config is None:
            return options
        target_ms = options.target_latency_ms if config.target_latency_ms is None else config.target_latency_ms
        return dataclasses.replace(options, weight=config.weight, target_latency_ms=target_ms)

    def _executor_of(self, name: str) -> str:
        """What is to run a model's versions: as the model says, else as the server does."""
        said = next((config.executor for config in self.control.configs() if config.name == name), "")
        return said or self._options.executor
