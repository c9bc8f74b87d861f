"""The composition root: store, loaded versions, servers and models, put together and closed in order."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from converter.artifact import Signature
from edge_runtime.bare import OneStore, open_store
from edge_runtime.config import Fetch, RuntimeOptions, read_options
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import (
    EdgeRuntimeError,
    EngineFailed,
    InvalidConfig,
    PackageRefused,
    RuntimeClosed,
    ServerFailed,
    VersionNotAvailable,
)
from edge_runtime.fetch_policy import checked_fetch, in_order
from edge_runtime.memory import have_few_heaps
from edge_runtime.model import Model
from edge_runtime.pins import checked_pin, labels_text, why_none
from edge_runtime.refused import RefusedVersions
from edge_runtime.routing import cascade
from edge_runtime.routing.policy import REASON_VERSION_DAMAGED, REASON_VERSION_MISSING
from edge_runtime.routing.router import Router
from edge_runtime.store.store import Store
from edge_runtime.stream import Stream, StreamLimit
from edge_runtime.target import Target
from edge_runtime.telemetry import Meter, ModelStats, RuntimeStats, TrustStats, model_stats
from edge_runtime.versions import Hall, Loaded, LoadedVersions, stamp_of, stream_engine

if TYPE_CHECKING:
    from edge_runtime.fetching import Fetcher
    from edge_runtime.metrics import MetricsServer
    from edge_runtime.servers import Servers

_log = logging.getLogger(__name__)

MAX_MODELS = 1024
"""Model handles that a runtime keeps: each name and pin is one."""


class Runtime:
    """Runs packages on this device, with servers to fall back to. Thread-safe; close it, or use `with`."""

    def __init__(
        self, options: RuntimeOptions, *, clock: Callable[[], float] = time.monotonic, root: Path = Path("/")
    ) -> None:
        """Opens the store, and starts to look for servers; see `open`.

        Args:
            options: What is wanted.
            clock: Monotonic seconds.
            root: Where the machine's file system begins: its Edge TPUs and its profile are looked for below it.
        """
        have_few_heaps()
        self.options = options = options.anchored()
        self._clock = clock
        self._store = open_store(options.store, require_signature=options.require_signature)
        fetches = checked_fetch(options, folder=isinstance(self._store, Store))
        self._hall = Hall(options, clock, root=root)
        self._versions = LoadedVersions(self._store, self._hall)
        self._streams = StreamLimit(options.max_streams)
        self._meters: dict[tuple[str, int | None], Meter] = {}
        self._models: dict[tuple[str, int | str | None], Model] = {}
        self._refused = RefusedVersions(self._store, clock)
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False
        self._name_locks: dict[str, threading.Lock] = {}
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._servers = self._open_servers() if options.fallbacks else None
        self._remote = None if self._servers is None else self._servers.remote
        self._origin = Origin()
        self._fetcher: Fetcher | None = None
        self._metrics = self._serve_metrics(options.metrics) if options.metrics else None
        self._hall.monitor.start()
        self._watcher = threading.Thread(target=self._watch, name="edge-store-watch", daemon=True)
        self._watcher.start()
        self._fetcher = self._open_fetcher() if fetches else None

    @classmethod
    def open(cls, source: str | os.PathLike[str], **options: Any) -> Self:
        """Opens a folder of packages, one package's directory, a bare `.tflite` file, or what a TOML file says.

        Args:
            source: The folder, directory or file (see `edge_runtime.bare`), or the path of a `.toml` file with the
                fields of `RuntimeOptions`.
            options: Fields of `RuntimeOptions`; they win over the file. `fallback` is `"mdns"`, `"host:port"`, a list
                of these, or None.

        Raises:
            InvalidConfig: an option is unknown, of a wrong type or out of bounds, or the folder is missing.
        """
        return cls(read_options(source, options))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._stop.is_set() else repr(self._versions)
        servers = "no fallback" if self._servers is None else repr(self._servers)
        return f"<Runtime {self._store!r}, {state}, {servers}>"

    @property
    def installed(self) -> dict[str, list[int]]:
        """The versions in the store, ascending, by model."""
        return self._store.installed()

    @property
    def servers(self) -> dict[str, str]:
        """The known servers: `host:port` and the state of their breaker (`closed` is the healthy one)."""
        return {} if self._servers is None else self._servers.states

    def wait_for_server(self, timeout_s: float) -> bool:
        """Waits until a server is known; whether one is. For programs that want to start with one."""
        return self._servers is not None and self._servers.wait_for_any(timeout_s)

    def model(self, name: str | None = None, *, version: int | None = None, label: str | None = None) -> Model:
        """A model. It is loaded here, if it is installed; the same arguments give the same object.

        Args:
            name: Its name. None for the only one, where a bare file or one package was opened.
            version: Only this version answers. Without it and a label: the latest that is installed, followed.
            label: The version that the label points to, followed.

        Raises:
            VersionNotAvailable: not installed, and the runtime has no fallback.
            PackageRefused, EngineFailed: it is installed and can't be loaded.
            InvalidConfig: both version and label, a version below 1, or no name for a folder of packages.
        """
        if name is None:
            if not isinstance(self._store, OneStore):
                raise InvalidConfig(f"{self._store.path} is a folder of packages: say which model")
            name = self._store.model
        pin = checked_pin(name, version, label)
        with self._turn(name):
            model = self._models.get((name, pin))
            if model is None:
                if len(self._models) >= MAX_MODELS:
                    raise InvalidConfig(f"{MAX_MODELS} models are open; a runtime keeps no more")
                model = Model(name, pin, self, self._clock)
                model.retarget(self._first_target(name, pin))
                with self._lock:
                    if self._stop.is_set():
                        raise RuntimeClosed("the runtime has been closed")
                    self._models[name, pin] = model
                if self._fetcher is not None:
                    self._fetcher.wake()
            return model

    def stats(self) -> RuntimeStats:
        """What has become of the requests so far, and what the queues and engines are at now."""
        with self._lock:
            meters = dict(self._meters)
        found: dict[tuple[str, int | None], ModelStats] = {
            key: model_stats(*key, meter) for key, meter in meters.items()
        }
        for loaded in self._versions.all():
            model, version, _ = loaded.key
            found[model, version] = model_stats(
                model,
                version,
                meters.get((model, version)),
                queue=loaded.batcher.stats(),
                engines=loaded.engines,
                faults=loaded.crew.faults,
            )
        in_order = sorted(found, key=lambda key: (key[0], key[1] or 0))
        return RuntimeStats(
            models=tuple(found[key] for key in in_order),
            servers=self.servers,
            climate=self._hall.monitor.climate.stats(),
            endpoints=() if self._servers is None else self._servers.stats,
            fetch=None if self._fetcher is None else self._fetcher.stats,
            trust=TrustStats() if self._servers is None else self._servers.trust,
        )

    def refresh(self) -> None:
        """Looks at the store now: followed models go over to a version that has come, and old ones are unloaded."""
        with self._lock:
            names = sorted({name for name, _ in self._models})
        for name in names:
            with self._turn(name):
                try:
                    self._follow(name)
                except EdgeRuntimeError as error:
                    self._say_once(name, f"model {name}: the store can't be followed: {error}")

    def close(self) -> None:
        """Finishes what was accepted on the device, then closes everything. Later calls raise RuntimeClosed.

        Called again, or by another thread meanwhile, it returns when everything is closed. In a process that was forked
        from the one that opened it, it does nothing: everything is the other's.
        """
        if not self._origin.is_here:
            return
        with self._closing:
            if self._closed:
                return
            with self._lock:
                self._stop.set()
            if self._metrics is not None:
                self._metrics.close()
            if self._fetcher is not None:
                self._fetcher.close()
            self._watcher.join()
            if self._servers is not None:
                self._servers.stop_looking()
            self._streams.close()
            self._versions.close()
            self._hall.close()
            if self._servers is not None:
                self._servers.close()
            with self._lock:
                models = list(self._models.values())
            for model in models:
                model.retarget(None)
            # Only now: whoever was interrupted (Ctrl-C) before this closes the rest when it is called again.
            self._closed = True

    def signatures(self, target: Target, start_s: float, deadline_s: float | None) -> dict[str, Signature]:
        """See `edge_runtime.target.Describer`."""
        if self._servers is None:
            raise self._not_available(target.model, target.version or target.label, {})
        self._origin.check(target.subject)
        try:
            return self._servers.signatures(target, start_s, deadline_s)
        except ServerFailed as error:
            if error.lacking:
                raise self._not_available(target.model, target.version or target.label, error.asked) from error
            raise

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """One thread at a time changes what the models of a name go to; other names are not held up by its loading."""
        with self._lock:
            if self._stop.is_set():
                raise RuntimeClosed("the runtime has been closed")
            turn = self._name_locks.setdefault(name, threading.Lock())
        try:
            with turn:
                yield
        finally:
            with self._lock:
                # A lock is kept for names that are open, not for every name that was ever asked for.
                if not turn.locked() and all(name != other for other, _ in self._models):
                    self._name_locks.pop(name, None)

    def _first_target(self, name: str, pin: int | str | None) -> Target:
        """Where a new model's requests go.

        Versions that can't be loaded are passed over, and the log says so: a followed model starts on the one before,
        and where none is left a server answers for the best of them, if there is one.
        """
        errors: list[tuple[int, EdgeRuntimeError]] = []
        for version in self._candidates(name, pin, first=True):
            try:
                return self._device_target(name, version)
            except (PackageRefused, EngineFailed) as error:
                self._refuse(name, version, error)
                errors.append((version, error))
        if errors and self._remote is None:
            raise errors[0][1]
        if errors:
            return self._server_target(name, errors[0][0], REASON_VERSION_DAMAGED)
        if self._remote is None:
            raise self._not_available(name, pin, {})
        return self._server_target(name, pin, REASON_VERSION_MISSING)

    def _labels_of(self, name: str) -> dict[str, int]:
        """A model's labels where it can do without; none where they can't be read."""
        try:
            return self._store.labels(name)
        except InvalidConfig as error:
            self._say_once(name, f"model {name} goes on without labels: {error}")
            return {}

    def _candidates(self, name: str, pin: int | str | None, *, first: bool = False) -> list[int]:
        """The installed versions that may answer for a pin, the best first; a server may be the first to."""
        versions = self._installed_of(name)
        if isinstance(pin, str):
            labels = self._labels_of(name) if first and self._remote else self._store.labels(name)
            pin = labels.get(pin, 0)
        if pin is not None:
            return [pin] if pin in versions else []
        fetch = self.options.of(name).fetch
        return in_order(fetch, self._labels_of(name) if fetch == "follow" else {}, versions)

    def _follow(self, name: str) -> None:
        """Brings the models of a name to what the store says now, then unloads what none of them uses."""
        with self._lock:
            models = [model for (other, _), model in self._models.items() if other == name]
        for model in models:
            self._follow_one(model)
        targets = [model.target for model in models]
        self._versions.retire(name, keep={one.key for one in targets if one is not None and one.key is not None})

    def _follow_one(self, model: Model) -> None:
        name, target = model.name, model.target
        candidates = self._candidates(name, model.pin)
        for version in candidates:
            key = (name, version, stamp_of(self._store, name, version))
            if target is not None and target.key == key:
                return
            if self._refused.leaves_alone(key):
                continue
            try:
                follower = self._device_target(name, version)
                if target is not None and _runs(target) and not _runs(follower):
                    # It was kept for a device that may come back; the one that runs here is worth more meanwhile.
                    why = "; ".join(f"{one.device}: {one.reason}" for one in follower.engines)
                    raise EngineFailed(f"no device runs it now, and {target.subject} runs: {why}")  # noqa: TRY301
                model.retarget(follower)
            except (PackageRefused, EngineFailed) as error:
                self._refuse(name, version, error)
                continue
            _log.info("model %s now answers as version %d", name, version)
            return
        why = "" if candidates else why_none(self._store.path, model.pin)
        if why and target is not None and target.package is not None:
            self._say_once(name, f"model {name}: {why}; {target.subject} goes on")

    def _refuse(self, name: str, version: int, error: EdgeRuntimeError) -> None:
        """Says that a version can't be loaded, and leaves it alone for a while."""
        if self._refused.refuse(name, version, error) and self._fetcher is not None:
            self._fetcher.wake()
        self._say_once(name, f"{name}/{version} can't be loaded and is passed over: {error}")

    def _say_once(self, name: str, text: str) -> None:
        """A warning, unless it is what was said last of this model: the watcher would repeat it every second."""
        if self._said.get(name) != text:
            if len(self._said) >= MAX_MODELS:
                self._said.clear()
            self._said[name] = text
            _log.warning("%s", text)

    def _device_target(self, name: str, version: int) -> Target:
        loaded = self._versions.get(name, version)
        self._refused.loaded(loaded.key)
        router = self._router(name, loaded, REASON_VERSION_MISSING)
        options = self.options.of(name)
        target = Target(
            name,
            version,
            None,
            router,
            package=loaded.package,
            key=loaded.key,
            pixels=loaded.pixels,
            reports=lambda: loaded.engines,
            open_stream=lambda signature, now: self._open_stream(target, loaded, signature, now),
            meter=self._meter(name, version),
            policy=options.policy or "prefer_device",
            cascade=cascade.over(
                router,
                self._remote,
                loaded.package.manifest,
                lambda: loaded.engines,
                options.cascade or "off",
                clock=self._clock,
                pixels=loaded.pixels,
                outage=None if self._servers is None else self._servers.outage,
            ),
        )
        return target

    def _server_target(self, name: str, pin: int | str | None, reason: str) -> Target:
        if isinstance(pin, str):
            # The device's own label wins: a server's label of the same name may point elsewhere.
            pin = self._labels_of(name).get(pin, pin)
        version, label = (None, pin) if isinstance(pin, str) else (pin, None)
        router = self._router(name, None, reason)
        policy = self.options.of(name).policy or "prefer_device"
        return Target(name, version, label, router, meter=self._meter(name, version), policy=policy)

    def _serve_metrics(self, address: str) -> MetricsServer:
        from edge_runtime.metrics import serve_metrics  # noqa: PLC0415  loads an HTTP server: only who asks for it pays

        try:
            return serve_metrics(self, address)
        except BaseException:
            if self._servers is not None:
                self._servers.close()
            raise

    def _open_stream(
        self, target: Target, loaded: Loaded, signature: str | None, current_version: Callable[[], int | None]
    ) -> Stream:
        return self._streams.open(
            target,
            lambda: stream_engine(loaded, self._hall),
            signature=signature,
            limit_s=max(self.options.watchdog_min_s, self.options.watchdog_factor * loaded.batcher.costs.seconds(1)),
            current_version=current_version,
            clock=self._clock,
        )

    def _meter(self, name: str, version: int | None) -> Meter:
        """What counts a version's requests; one for all targets of the version."""
        with self._lock:
            if len(self._meters) >= MAX_MODELS:
                # The version that was asked first is told of no more: a runtime may follow a model for years.
                del self._meters[next(iter(self._meters))]
            return self._meters.setdefault((name, version), Meter())

    def _router(self, name: str, loaded: Loaded | None, absent: str) -> Router:
        device = None if loaded is None else loaded.batcher
        return Router(
            device,
            self._remote,
            installed=lambda: self._installed_of(name),
            clock=self._clock,
            absent=absent,
            outage=None if self._servers is None else self._servers.outage,
            hedging=self._servers.hedging() if self._servers is not None and self.options.of(name).hedge else None,
            pixels=None if loaded is None else loaded.pixels,
        )

    def _installed_of(self, name: str) -> list[int]:
        return self._store.installed().get(name, [])

    def _not_available(self, name: str, pin: int | str | None, asked: Mapping[str, str]) -> VersionNotAvailable:
        hint = "" if self._remote is not None else "The runtime was opened without a fallback server."
        if isinstance(pin, str):
            hint = f"Labels: {labels_text(self._labels_of(name))}. {hint}".strip()
        return VersionNotAvailable(name, pin, self._installed_of(name), asked, hint)

    def _open_servers(self) -> Servers:
        from edge_runtime.servers import Servers  # noqa: PLC0415  loads grpc: only who falls back pays

        return Servers(self.options, self._clock)

    def _open_fetcher(self) -> Fetcher | None:
        from edge_runtime.fetching import Fetcher  # noqa: PLC0415  only who fetches pays

        if self._remote is None or not isinstance(self._store, Store):
            return None
        fetcher = Fetcher(
            self._store,
            self._remote.endpoints,
            self._wanted,
            bytes_s=self.options.fetch_bytes_s,
            clock=self._clock,
            changed=self.refresh,
            damaged=self._refused.damaged,
        )
        fetcher.start()
        return fetcher

    def _wanted(self) -> list[tuple[str, int | str | None, Fetch]]:
        """The models that are asked for, and what may be fetched of each."""
        with self._lock:
            keys = list(self._models)
        return [(name, pin, self.options.of(name).fetch or "never") for name, pin in keys]

    def _watch(self) -> None:
        """The watcher's thread: follows the store until the runtime is closed."""
        while not self._stop.wait(self.options.poll_interval_s):
            try:
                self.refresh()
                self._versions.note_uses()
            except RuntimeClosed:
                return
            except Exception as error:  # noqa: BLE001  a store that can't be read now may be readable at the next look
                self._say_once("", f"the store could not be looked at: {type(error).__name__}: {error}")


def _runs(target: Target) -> bool:
    """Whether a device is ready to run what it names."""
    return any(one.state == "ready" for one in target.engines)
