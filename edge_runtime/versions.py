"""The versions that are loaded on the device: each once, shared by whoever asks for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from converter.artifact import Manifest, Package, Variant, version_path
from edge_runtime.bare import OneStore
from edge_runtime.config import RuntimeOptions
from edge_runtime.crew.crew import Crew
from edge_runtime.crew.device import DeviceTable, cores
from edge_runtime.crew.opening import Opener
from edge_runtime.crew.supervisor import Supervisor
from edge_runtime.engine.engine import Engine
from edge_runtime.environment import Environment, environment
from edge_runtime.errors import PackageRefused, RuntimeClosed
from edge_runtime.memory import give_back
from edge_runtime.pixels import Pixels, pixel_inputs
from edge_runtime.profiles import ProfileBook
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.store import lease
from edge_runtime.store.lease import Lease
from edge_runtime.store.store import Store
from edge_runtime.store.uses import UseLog
from edge_runtime.telemetry import event
from edge_runtime.types import EngineReport

if TYPE_CHECKING:
    from edge_runtime.probing import Prober

_log = logging.getLogger(__name__)

_HOST_S = 30.0
"""How often the clock governor is looked at."""

Stamp = tuple[int, int, int]
"""What tells one publication of a version from another at its place: the manifest's inode, time and size."""

NOWHERE: Stamp = (0, 0, 0)
"""The stamp of a version that can't be looked at."""

Key = tuple[str, int, Stamp]
"""Model, version, and which publication of it."""


def stamp_of(store: Store | OneStore, model: str, version: int) -> Stamp:
    """The stamp of what lies at the version's place now; `NOWHERE` if nothing can be seen there."""
    if isinstance(store, OneStore):
        return store.stamp(model, version)
    try:
        status = (version_path(store.path, model, version) / "manifest.json").stat()
    except OSError:
        return NOWHERE
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A version that is ready.

    Attributes:
        package: What it was loaded from.
        crew: Its engines.
        key: What it is known by.
        pixels: The inputs that take pixels.
        opener: Opens further engines of it.
        lease: Has other processes see that it is open; None where that can't be.
    """

    package: Package
    crew: Crew
    key: Key
    pixels: Pixels
    opener: Opener
    lease: Lease | None = None

    @property
    def batcher(self) -> Batcher:
        """Where its requests go."""
        return self.crew.batcher

    @property
    def engines(self) -> tuple[EngineReport, ...]:
        """See `Model.engines`."""
        return self.crew.reports

    def close(self) -> None:
        """Finishes what was taken, and frees the engines."""
        self.crew.close()
        if self.lease is not None:
            self.lease.close()


class Hall:
    """What all versions of a runtime share: devices, their supervisor, and what is known of the machine.

    Attributes:
        monitor: Looks at temperatures and clocks, from its `start` on.
    """

    def __init__(self, options: RuntimeOptions, clock: Callable[[], float], *, root: Path = Path("/")) -> None:
        """Opens nothing.

        Args:
            options: The runtime's.
            clock: Monotonic seconds.
            root: Where the machine's file system begins.
        """
        from devices import find_edge_tpus  # noqa: PLC0415  likewise
        from edge_runtime.engine.enumeration import edge_tpus  # noqa: PLC0415  no cost for who imports only
        from edge_runtime.thermal import Monitor  # noqa: PLC0415  likewise

        self.options = options
        self.clock = clock
        self.cores = cores()
        engines = [options.engines or 0, *(own.engines or 0 for own in options.models.values())]
        self.devices = DeviceTable(clock, cpu_permits=max(self.cores, *engines))
        self.monitor = Monitor(self.devices.adapt, clock=clock, root=root)
        in_order = partial(edge_tpus, root, lambda: self.prober().trials)
        self.supervisor = Supervisor(clock, lambda: find_edge_tpus(root), in_order)
        self._prober: Prober | None = None
        self._root = root
        self._lock = threading.Lock()
        self._match: tuple[tuple[str, ...], str | None] | None = None

    def __repr__(self) -> str:
        return f"<Hall {self.devices!r}, {self.supervisor!r}>"

    def preferred(self) -> tuple[tuple[str, ...], str | None]:
        """The device strings that this machine's profile prefers, and the profile's name. Looked at once."""
        with self._lock:
            if self._match is None:
                from devices import load_profiles, match, probe  # noqa: PLC0415  not where the user names devices

                found = match(probe(self._root), load_profiles())
                self._match = (found.delegates, found.profile.name if found.profile else None)
            return self._match

    def environment(self) -> Environment:
        """What measurements depend on besides the engine, as it is now."""
        return environment(self._root)

    def prober(self) -> Prober:
        """What tries libraries, for all versions."""
        from edge_runtime.probing import Prober  # noqa: PLC0415  only who has a delegate's library pays

        with self._lock:
            if self._prober is None:
                self._prober = Prober(self.options.cache)
            return self._prober

    def close(self) -> None:
        """Ends the monitor, the supervisor, trials that are under way, and all worker processes."""
        self.monitor.close()
        with self._lock:
            prober = self._prober
        if prober is not None:
            prober.close()
        self.supervisor.close()
        self.devices.close()


def load(store: Store | OneStore, key: Key, hall: Hall) -> Loaded:
    """Makes the engines of a version and measures them.

    Raises:
        EngineFailed: no device can load or run it.
        PackageRefused: it is damaged, lacks the variant, or a file's tensors are not the manifest's.
    """
    model, version, _ = key
    # Before it is read: from then on it is not removed to make room.
    held = lease.take(version_path(store.path, model, version)) if isinstance(store, Store) else None
    try:
        return _load(store, key, hall, held)
    except BaseException:
        if held is not None:
            held.close()
        raise


def _load(store: Store | OneStore, key: Key, hall: Hall, held: Lease | None) -> Loaded:
    model, version, _ = key
    package = store.open(model, version)
    options = hall.options
    place = store.path if isinstance(store, OneStore) else version_path(store.path, model, version)
    pixels = pixel_inputs(package.manifest)
    opener = Opener(
        package,
        options,
        pixels=pixels,
        prober=hall.prober,
        book=ProfileBook(place, package.digest, options.cache),
        environment=hall.environment,
        clock=hall.clock,
        locate=lambda device: hall.devices.locate(device, hall.supervisor.present()),
        look=hall.monitor.look_now,
    )
    preferred, target = hall.preferred()
    crew = Crew(
        opener,
        options,
        devices=hall.devices,
        supervisor=hall.supervisor,
        delegates=options.of(model).delegates or preferred,
        target=target,
        cores=hall.cores,
        clock=hall.clock,
    )
    crew.start(patient=bool(options.fallbacks))
    event(_log, logging.INFO, "version_loaded", f"loaded {package}: {crew!r}", model=model, version=version)
    return Loaded(package, crew, key, pixels, opener, held)


def stream_variant(manifest: Manifest, wanted: str | None) -> Variant:
    """The variant whose state a stream keeps, on the CPU: the wanted one, else what the package chooses there.

    Raises:
        PackageRefused: there is none for a CPU.
    """
    chosen = wanted or manifest.chosen["default"]
    fitting = [one for one in manifest.variants if one.delegate == "cpu"]
    for one in sorted(fitting, key=lambda one: one.name != chosen):
        return one
    raise PackageRefused(f"{manifest.model}/{manifest.version}: streams run on the CPU, and no variant is for it")


class LoadedVersions:
    """A table of loaded versions. Thread-safe; loading one never blocks who wants another."""

    def __init__(self, store: Store | OneStore, hall: Hall) -> None:
        """Loads nothing yet."""
        self._store = store
        self._hall = hall
        self._uses = UseLog(store.path if isinstance(store, Store) else None, hall.clock)
        self._lock = threading.Lock()
        self._loaded: dict[Key, Loaded] = {}
        self._leaving: dict[Loaded, Key] = {}
        self._closed = False
        self._host: Environment | None = None

    def __repr__(self) -> str:
        return "<LoadedVersions " + ", ".join(repr(one.crew) for one in list(self._loaded.values())) + ">"

    @property
    def keys(self) -> list[Key]:
        """What is loaded."""
        with self._lock:
            return list(self._loaded)

    def all(self) -> list[Loaded]:
        """The versions that are loaded."""
        with self._lock:
            return list(self._loaded.values())

    def get(self, model: str, version: int) -> Loaded:
        """The version, loaded now if it is not yet. One thread at a time asks for the versions of a model.

        Raises:
            PackageRefused, EngineFailed: it can't be loaded.
            RuntimeClosed: the table has been closed.
        """
        key = (model, version, stamp_of(self._store, model, version))
        with self._lock:
            found = self._loaded.get(key)
        if found is not None:
            return found
        self._look_at_host()
        loaded = load(self._store, key, self._hall)
        with self._lock:
            closed = self._closed
            if not closed:
                self._loaded[key] = loaded
        if closed:
            loaded.close()
            raise RuntimeClosed("the runtime has been closed")
        self._uses.begins(model, version)
        return loaded

    def note_uses(self) -> None:
        """Writes down which versions are in use, for whoever makes room in the store; each at most once a minute."""
        for loaded in self.all():
            model, version, _ = loaded.key
            self._uses.goes_on(model, version, partial(_requests, loaded.batcher))

    def _look_at_host(self, *, again: bool = False) -> None:
        """Has everything measured anew when the clock governor was changed; looked at now and then."""
        host = self._hall.environment()
        with self._lock:
            before, self._host = self._host, host
            if self._closed or not host.governor or (before is not None and not again):
                return
        if before is not None and before != host:
            _log.info("the clock governor went from %s to %s: times are measured anew", before.governor, host.governor)
            for loaded in self.all():
                loaded.crew.renew()
        self._hall.supervisor.at(self._hall.clock() + _HOST_S, partial(self._look_at_host, again=True))

    def retire(self, model: str, keep: Collection[Key]) -> None:
        """Unloads the model's versions that are not in `keep`; each finishes its requests first."""
        self._unload([key for key in self.keys if key[0] == model and key not in keep])

    def close(self) -> None:
        """Unloads everything, and loads nothing more."""
        with self._lock:
            self._closed = True
        self._unload(self.keys)

    def _unload(self, keys: Collection[Key]) -> None:
        """Unloads these, and what an interrupted call before has left."""
        with self._lock:
            for key in keys:
                if (one := self._loaded.get(key)) is not None:
                    self._leaving[one] = key
                    del self._loaded[key]
            leaving = list(self._leaving.items())
        for one, key in leaving:
            one.close()
            with self._lock:
                told = self._leaving.pop(one, None) is None
            if not told:
                self._uses.ends(key[0], key[1])
                event(_log, logging.INFO, "version_unloaded", f"unloaded {one.package}", model=key[0], version=key[1])
        if leaving:
            del one
            leaving.clear()
            give_back()  # Else each next version finds other gaps between what lives longer.


def _requests(batcher: Batcher) -> int:
    return batcher.stats().requests


def stream_engine(loaded: Loaded, hall: Hall) -> Engine:
    """An engine of its own for a stream, on the CPU.

    Raises:
        EngineFailed, PackageRefused: it can't be made.
    """
    from devices import device_string  # noqa: PLC0415  when a stream is opened, not at import

    own = hall.options.of(loaded.package.manifest.model)
    variant = stream_variant(loaded.package.manifest, own.variant)
    cpu = hall.devices.get(device_string("cpu"))
    return loaded.opener.open((cpu,), variant, own.threads or 1, keeps_state=True)
