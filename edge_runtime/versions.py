"""The versions that are loaded on the device: each once, shared by whoever asks for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from converter.artifact import VARIABLE, Manifest, Package, Signature, Variant
from edge_runtime.config import RuntimeOptions
from edge_runtime.engine.interpreter import Engine
from edge_runtime.errors import PackageRefused
from edge_runtime.inputs import default_signature
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.cost import CostTable, measure
from edge_runtime.store.store import Store
from edge_runtime.types import Arrays

_log = logging.getLogger(__name__)

_MEASURE_BUDGET_S = 0.5
"""How long batch sizes are tried at load. What is too slow to be measured in it gains nothing from batches."""

Key = tuple[str, int]
"""Model and version."""


@dataclass(frozen=True)
class Loaded:
    """A version that is ready.

    Attributes:
        package: What it was loaded from.
        variant: The name of the variant that runs.
        batcher: Its engines and their queue.
    """

    package: Package
    variant: str
    batcher: Batcher


def load(package: Package, options: RuntimeOptions, clock: Callable[[], float]) -> Loaded:
    """Makes the engines of a package and measures them.

    Raises:
        EngineFailed: LiteRT can't load or run the variant.
        PackageRefused: it lacks the variant, or the variant's tensors can't be brought to the signatures'.
    """
    manifest = package.manifest
    variant = choose_variant(manifest, options.variant)
    engines = [
        Engine(package.file(variant), variant, manifest.signatures, threads=options.threads)
        for _ in range(options.engines)
    ]
    costs = CostTable(_measure(engines[0], default_signature(manifest.signatures), options, clock))
    batcher = Batcher(
        engines,
        manifest.signatures,
        version=manifest.version,
        costs=costs,
        max_queued_requests=options.max_queued_requests,
        max_queued_bytes=options.max_queued_bytes,
        clock=clock,
    )
    _log.info("loaded %s, variant %s, on %s: %r", package, variant.name, engines[0].place, costs)
    return Loaded(package, variant.name, batcher)


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
        engine.run(signature.name, _zeros(signature, rows))

    return measure(run, sizes, clock, _MEASURE_BUDGET_S)


def _zeros(signature: Signature, rows: int) -> Arrays:
    """Inputs of zeros; a variable dimension other than the batch axis has size 1."""
    arrays: Arrays = {}
    for spec in signature.inputs:
        shape = [1 if size == VARIABLE else size for size in spec.shape]
        if signature.batch_axis is not None:
            shape[signature.batch_axis] = rows
        fill = b"" if spec.dtype == "string" else 0
        arrays[spec.name] = np.full(shape, fill, dtype=spec.numpy_dtype)
    return arrays


class LoadedVersions:
    """A table of loaded versions. Thread-safe; loading one never blocks who wants another."""

    def __init__(self, store: Store, options: RuntimeOptions, clock: Callable[[], float]) -> None:
        """Loads nothing yet."""
        self._store = store
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._loading: dict[Key, threading.Lock] = {}
        self._loaded: dict[Key, Loaded] = {}

    def __repr__(self) -> str:
        return "<LoadedVersions " + ", ".join(str(one.package) for one in self._loaded.values()) + ">"

    def get(self, model: str, version: int) -> Loaded:
        """The version, loaded now if it is not yet; others who want the same one wait for it.

        Raises:
            PackageRefused, EngineFailed: it can't be loaded.
        """
        key = (model, version)
        with self._lock:
            found = self._loaded.get(key)
            turn = self._loading.setdefault(key, threading.Lock())
        if found is not None:
            return found
        with turn:
            with self._lock:
                found = self._loaded.get(key)
            if found is None:
                found = load(self._store.open(model, version), self._options, self._clock)
                with self._lock:
                    self._loaded[key] = found
            return found

    def retire(self, model: str, keep: Collection[int | None]) -> None:
        """Unloads the model's versions that are not in `keep`; each finishes its requests first."""
        with self._lock:
            leaving = [key for key in self._loaded if key[0] == model and key[1] not in keep]
        self._unload(leaving)

    def close(self) -> None:
        """Unloads everything."""
        with self._lock:
            leaving = list(self._loaded)
        self._unload(leaving)

    def _unload(self, keys: Collection[Key]) -> None:
        for key in keys:
            with self._lock:
                one = self._loaded.pop(key, None)
                self._loading.pop(key, None)
            if one is not None:
                one.batcher.close()
                _log.info("unloaded %s", one.package)
