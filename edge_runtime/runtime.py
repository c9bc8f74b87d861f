"""The composition root: store, loaded versions, servers and models, put together and closed in order."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from converter.artifact import Signature
from edge_runtime.config import MDNS, RuntimeOptions, read_options
from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    InvalidConfig,
    PackageRefused,
    RuntimeClosed,
    ServerFailed,
    VersionNotAvailable,
)
from edge_runtime.model import Model, Target
from edge_runtime.routing.router import Router
from edge_runtime.store.store import Store
from edge_runtime.versions import Key, Loaded, LoadedVersions

if TYPE_CHECKING:
    from edge_runtime.remote.client import RemoteClient
    from edge_runtime.remote.discovery import Discovery

_log = logging.getLogger(__name__)

_DISCOVERY_S = 3.0
"""How long after the opening a request that needs a server waits for the first announcement. mDNS answers within
about a second; a server that registers at the same moment needs some two."""

MAX_MODELS = 1024
"""Model handles that a runtime keeps: each name and pin is one."""


class Runtime:
    """Runs packages on this device, with servers to fall back to. Thread-safe; close it, or use `with`."""

    def __init__(self, options: RuntimeOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Opens the store, and starts to look for servers; see `open`."""
        self.options = options
        self._clock = clock
        self._store = Store(options.store)
        self._versions = LoadedVersions(self._store, options, clock)
        self._models: dict[tuple[str, int | str | None], Model] = {}
        self._refused: set[Key] = set()
        self._lock = threading.Lock()
        self._name_locks: dict[str, threading.Lock] = {}
        self._stop = threading.Event()
        self._discovery: Discovery | None = None
        self._remote = self._open_remote() if options.fallbacks else None
        self._opened_s = clock()
        self._watcher = threading.Thread(target=self._watch, name="edge-store-watch", daemon=True)
        self._watcher.start()

    @classmethod
    def open(cls, source: str | os.PathLike[str], **options: Any) -> Self:
        """Opens a folder of packages, or what a TOML file says.

        Args:
            source: The folder, or the path of a `.toml` file with the fields of `RuntimeOptions`.
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
        return f"<Runtime {self._store!r}, {state}, {self._remote!r}>"

    @property
    def installed(self) -> dict[str, list[int]]:
        """The versions in the store, ascending, by model."""
        return self._store.installed()

    @property
    def servers(self) -> dict[str, str]:
        """The known servers: `host:port` and the state of their breaker (`closed` is the healthy one)."""
        if self._remote is None:
            return {}
        return {one.address: one.state.value for one in self._remote.endpoints.all()}

    def wait_for_server(self, timeout_s: float) -> bool:
        """Waits until a server is known; whether one is. For programs that want to start with one."""
        return self._remote is not None and self._remote.endpoints.wait_for_any(timeout_s)

    def model(self, name: str, *, version: int | None = None, label: str | None = None) -> Model:
        """A model. It is loaded here, if it is installed; the same arguments give the same object.

        Args:
            name: Its name.
            version: Only this version answers. Without it and a label: the latest that is installed, followed.
            label: The version that the label points to, followed.

        Raises:
            VersionNotAvailable: not installed, and the runtime has no fallback.
            PackageRefused, EngineFailed: it is installed and can't be loaded.
            InvalidConfig: both version and label, or a version below 1.
        """
        if version is not None and label is not None:
            raise InvalidConfig(f"model {name!r}: version {version} and label {label!r} exclude each other")
        if version is not None and version < 1:
            raise InvalidConfig(f"model {name!r}: version must be at least 1, got {version}")
        pin = version if version is not None else label
        with self._turn(name):
            model = self._models.get((name, pin))
            if model is None:
                model = Model(name, pin, self, self._clock)
                model.retarget(self._first_target(name, pin))
                with self._lock:
                    self._models[name, pin] = model
            return model

    def refresh(self) -> None:
        """Looks at the store now: followed models go over to a version that has come, and old ones are unloaded."""
        with self._lock:
            names = sorted({name for name, _ in self._models})
        for name in names:
            with self._turn(name):
                self._follow(name)

    def close(self) -> None:
        """Finishes what was accepted on the device, then closes everything. Later calls raise RuntimeClosed."""
        with self._lock:
            if self._stop.is_set():
                return
            self._stop.set()
        self._watcher.join()
        if self._discovery is not None:
            self._discovery.close()
        self._versions.close()
        if self._remote is not None:
            self._remote.close()
        for model in self._models.values():
            model.retarget(None)

    def signatures(self, target: Target, start_s: float, deadline_s: float | None) -> dict[str, Signature]:
        """See `edge_runtime.model.Describer`."""
        if self._remote is None:
            raise self._not_available(target.model, target.version or target.label, {})
        self._await_discovery(deadline_s)
        future = self._remote.describe(target.model, target.version, target.label, start_s, deadline_s)
        try:
            return future.result(None if deadline_s is None else max(deadline_s - self._clock(), 0.0))
        except ServerFailed as error:
            if error.lacking:
                raise self._not_available(target.model, target.version or target.label, error.asked) from error
            raise
        except TimeoutError as error:
            if isinstance(error, EdgeRuntimeError):
                raise
            future.cancel()
            spent_ms = (self._clock() - start_s) * 1e3
            raise DeadlineExceeded(target.subject, spent_ms, {"asking a server for signatures": spent_ms}) from None

    def _await_discovery(self, deadline_s: float | None) -> None:
        """Just after the opening no server may have been found yet: waits for the first, within the deadline."""
        if self._remote is None or self._discovery is None:
            return
        until_s = self._opened_s + _DISCOVERY_S
        if deadline_s is not None:
            until_s = min(until_s, deadline_s)
        self._remote.endpoints.wait_for_any(max(until_s - self._clock(), 0.0))

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """One thread at a time changes what the models of a name go to; other names are not held up by its loading."""
        with self._lock:
            if self._stop.is_set():
                raise RuntimeClosed("the runtime has been closed")
            if name not in self._name_locks and len(self._name_locks) >= MAX_MODELS:
                raise InvalidConfig(f"{MAX_MODELS} models are open; a runtime keeps no more")
            turn = self._name_locks.setdefault(name, threading.Lock())
        with turn:
            yield

    def _first_target(self, name: str, pin: int | str | None) -> Target:
        """Where a new model's requests go.

        A followed model whose latest version is damaged starts on the one before it, and the log says so; a pinned
        one is refused.
        """
        errors: list[EdgeRuntimeError] = []
        for version in self._candidates(name, pin):
            try:
                return self._device_target(name, version)
            except (PackageRefused, EngineFailed) as error:
                self._refuse(name, version, error)
                errors.append(error)
        if errors:
            raise errors[0]
        if self._remote is None:
            raise self._not_available(name, pin, {})
        return self._server_target(name, pin)

    def _candidates(self, name: str, pin: int | str | None) -> list[int]:
        """The installed versions that may answer for a pin, the best first."""
        versions = self._store.installed().get(name, [])
        if isinstance(pin, str):
            pin = self._store.labels(name).get(pin, 0)
        if pin is not None:
            return [pin] if pin in versions else []
        return sorted(versions, reverse=True)

    def _follow(self, name: str) -> None:
        """Brings the models of a name to what the store says now, then unloads what none of them uses."""
        for model in [one for (other, _), one in self._models.items() if other == name]:
            target = model.target
            for version in self._candidates(name, model.pin):
                if target is not None and target.package is not None and target.version == version:
                    break
                if (name, version) in self._refused:
                    continue
                try:
                    model.retarget(self._device_target(name, version))
                except (PackageRefused, EngineFailed) as error:
                    self._refuse(name, version, error)
                    continue
                _log.info("model %s now answers as version %d", name, version)
                break
        used = {one.target.version for (other, _), one in self._models.items() if other == name and one.target}
        self._versions.retire(name, keep=used)

    def _refuse(self, name: str, version: int, error: EdgeRuntimeError) -> None:
        """Says once that a version can't be loaded, and does not try it again: a version never changes."""
        if len(self._refused) < MAX_MODELS:
            self._refused.add((name, version))
        _log.warning("%s/%d can't be loaded and is passed over: %s", name, version, error)

    def _device_target(self, name: str, version: int) -> Target:
        loaded = self._versions.get(name, version)
        return Target(name, version, None, self._router(name, loaded), loaded.package)

    def _server_target(self, name: str, pin: int | str | None) -> Target:
        version, label = (None, pin) if isinstance(pin, str) else (pin, None)
        return Target(name, version, label, self._router(name, None), None)

    def _router(self, name: str, loaded: Loaded | None) -> Router:
        device = None if loaded is None else loaded.batcher
        return Router(device, self._remote, installed=lambda: self._installed_of(name), clock=self._clock)

    def _installed_of(self, name: str) -> list[int]:
        return self._store.installed().get(name, [])

    def _not_available(self, name: str, pin: int | str | None, asked: Mapping[str, str]) -> VersionNotAvailable:
        hint = "" if self._remote is not None else "The runtime was opened without a fallback server."
        return VersionNotAvailable(name, pin, self._installed_of(name), asked, hint)

    def _open_remote(self) -> RemoteClient:
        from edge_runtime.remote.client import RemoteClient  # noqa: PLC0415  loads grpc: only who falls back pays
        from edge_runtime.remote.endpoint import Endpoint  # noqa: PLC0415
        from edge_runtime.remote.endpoints import EndpointTable, Found  # noqa: PLC0415

        table = EndpointTable(lambda address: Endpoint(address, self._clock))
        for address in self.options.addresses:
            table.add(Found(key=address, address=address))
        if MDNS in self.options.fallbacks:
            from edge_runtime.remote.discovery import Discovery  # noqa: PLC0415  loads zeroconf

            self._discovery = Discovery(table)
        return RemoteClient(table, clock=self._clock, timeout_s=self.options.server_timeout_s)

    def _watch(self) -> None:
        """The watcher's thread: follows the store until the runtime is closed."""
        while not self._stop.wait(self.options.poll_interval_s):
            try:
                self.refresh()
            except RuntimeClosed:
                return
            except Exception:  # noqa: BLE001  a store that can't be read now may be readable at the next look
                _log.exception("the store could not be looked at")
