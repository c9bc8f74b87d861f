"""The versions that are loaded on the device: each once, shared by whoever asks for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from converter.artifact import Manifest, Package, PackageError, Signature, Variant, version_path
from edge_runtime.bare import OneStore
from edge_runtime.config import RuntimeOptions
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, PackageRefused, RuntimeClosed
from edge_runtime.inputs import default_signature, zeros
from edge_runtime.pixels import Pixels, pixel_inputs
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.cost import CostTable, measure
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.slot import Slot
from edge_runtime.store.store import Store

_log = logging.getLogger(__name__)

_MEASURE_BUDGET_S = 0.5
"""How long batch sizes are tried at load. What is too slow to be measured in it gains nothing from batches."""

Stamp = tuple[int, int, int]
"""What tells one publication of a version from another at its place: the manifest's inode, time and size."""

NOWHERE: Stamp = (0, 0, 0)
"""The stamp of a version that can't be looked at."""

Key = tuple[str, int, Stamp]
"""Model, version, and which publication of it."""


def stamp_of(store: Store | OneStore, model: str, version: int) -> Stamp:
    """The stamp of what lies at a version's place now. A version never changes, but it can be replaced on purpose."""
    if isinstance(store, OneStore):
        return store.stamp(model, version)
    try:
        status = (version_path(store.path, model, version) / "manifest.json").stat()
    except OSError:
        return NOWHERE
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True)
class Loaded:
    """A version that is ready.

    Attributes:
        package: What it was loaded from.
        variant: The name of the variant that runs.
        batcher: Its engines and their queue.
        key: What it is known by.
        pixels: The inputs that take pixels.
    """

    package: Package
    variant: str
    batcher: Batcher
    key: Key
    pixels: Pixels


def load(package: Package, key: Key, options: RuntimeOptions, clock: Callable[[], float]) -> Loaded:
    """Makes the engines of a package and measures them.

    Raises:
        EngineFailed: LiteRT can't load or run the variant.
        PackageRefused: it lacks the variant, the file differs from its digest, or its tensors from the manifest.
    """
    manifest = package.manifest
    variant = choose_variant(manifest, options.variant)
    try:
        content = package.read(variant.file)
        pixels = pixel_inputs(manifest)
        spec = SessionSpec(
            subject=f"{package}, {variant.file}", signatures=variant.signatures, threads=options.threads or 1
        )
        engines = [
            Engine(open_session(spec, content), variant, manifest.signatures, pixels=pixels)
            for _ in range(options.engines or 1)
        ]
        seconds = _measure(engines[0], default_signature(manifest.signatures), options, clock)
    except EdgeRuntimeError:
        raise
    except PackageError as error:
        raise PackageRefused(f"{package}: {error}") from error
    except Exception as error:  # whatever a damaged file does to LiteRT is that package's fault, not the store's
        raise EngineFailed(f"{package}, variant {variant.name!r}: {type(error).__name__}: {error}") from error
    costs = CostTable(seconds, clock)
    batcher = Batcher(
        manifest.signatures,
        version=manifest.version,
        max_queued_requests=options.max_queued_requests,
        max_queued_bytes=options.max_queued_bytes,
        clock=clock,
    )
    gate = Gate(options.engines or 1, "cpu")
    for engine in engines:
        batcher.add(Slot(engine, gate, costs))
    _log.info("loaded %s, variant %s, on %s: %r", package, variant.name, engines[0].place, costs)
    return Loaded(package, variant.name, batcher, key, pixels)


def choose_variant(manifest: Manifest, wanted: str | None) -> Variant:
    """The wanted variant, else the one that the package chooses.

    Raises:
        PackageRefused: the package lacks the wanted one.
    """
    try:
        return manifest.variant(wanted or manifest.chosen["default"])
    except KeyError:
        names = [variant.name for variant in manifest.variants]
        raise PackageRefused(
            f"{manifest.model}/{manifest.version} has no variant {wanted!r}; there are {names}"
        ) from None


def _measure(
    engine: Engine, signature: Signature, options: RuntimeOptions, clock: Callable[[], float]
) -> dict[int, float]:
    sizes = sorted({1, *options.batch_sizes}) if signature.batch_axis is not None else [1]

    def run(rows: int) -> None:
        engine.run(signature.name, zeros(signature, rows))

    return measure(run, sizes, clock, _MEASURE_BUDGET_S)


class LoadedVersions:
    """A table of loaded versions. Thread-safe; loading one never blocks who wants another."""

    def __init__(self, store: Store | OneStore, options: RuntimeOptions, clock: Callable[[], float]) -> None:
        """Loads nothing yet."""
        self._store = store
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: dict[Key, Loaded] = {}
        self._closed = False

    def __repr__(self) -> str:
        return "<LoadedVersions " + ", ".join(str(one.package) for one in list(self._loaded.values())) + ">"

    @property
    def keys(self) -> list[Key]:
        """What is loaded."""
        with self._lock:
            return list(self._loaded)

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
        loaded = load(self._store.open(model, version), key, self._options, self._clock)
        with self._lock:
            if not self._closed:
                self._loaded[key] = loaded
                return loaded
        loaded.batcher.close()
        raise RuntimeClosed("the runtime has been closed")

    def retire(self, model: str, keep: Collection[Key]) -> None:
        """Unloads the model's versions that are not in `keep`; each finishes its requests first."""
        self._unload([key for key in self.keys if key[0] == model and key not in keep])

    def close(self) -> None:
        """Unloads everything, and loads nothing more."""
        with self._lock:
            self._closed = True
        self._unload(self.keys)

    def _unload(self, keys: Collection[Key]) -> None:
        for key in keys:
            with self._lock:
                one = self._loaded.pop(key, None)
            if one is not None:
                one.batcher.close()
                _log.info("unloaded %s", one.package)
