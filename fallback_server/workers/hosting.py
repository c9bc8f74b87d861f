"""Loads versions in the first process and at its workers: a version answers when all of them have it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.loader import Loader
from fallback_server.core.servable import ServableId
from fallback_server.executors.litert import LiteRtExecutor
from fallback_server.executors.litert_files import holds_litert, size_bytes
from fallback_server.executors.tried_litert import LARGE_BYTES, litert_bytes
from fallback_server.opening import run_sizes
from fallback_server.served_model import ServedModel
from fallback_server.workers.messages import Host


class Workers(Protocol):
    """Those that share the port; see `Team`."""

    def host(self, model: ServedModel, host: Host, fd: int, stopped: Callable[[], bool]) -> None:
        """Has all of them load a version, and waits until they have. The descriptor is the team's from now on."""
        ...

    def drop(self, model: ServedModel) -> None:
        """Has all of them let go of it."""
        ...


class HostingLoader:
    """A loader whose version is loaded at the workers as well, where it runs in the server's own process.

    Args:
        inner: Loads it here.
        servable_id: Which version.
        path: Its folder.
        team: The workers.
        count: How many they are.
    """

    def __init__(
        self,
        inner: Loader[ServedModel],
        servable_id: ServableId,
        path: Path,
        *,
        team: Workers,
        count: int,
    ) -> None:
        self._inner = inner
        self._servable_id = servable_id
        self._path = path
        self._team = team
        self._count = count
        self._stopped = False

    @property
    def retriable(self) -> bool:
        """See `Loader`."""
        return self._inner.retriable

    def estimated_bytes(self) -> int:
        """See `Loader.estimated_bytes`: each worker has interpreters of its own, but for the file."""
        try:
            elsewhere = 0
            if holds_litert(self._path) and size_bytes(self._path) <= LARGE_BYTES:
                elsewhere = self._count * (litert_bytes(self._path) - size_bytes(self._path))
        except OSError:
            elsewhere = 0  # The load will say what is wrong.
        return self._inner.estimated_bytes() + elsewhere

    def load(self) -> ServedModel:
        """See `Loader.load`."""
        model = self._inner.load()
        executor = model.executor
        if isinstance(executor, LiteRtExecutor):
            # Before, not after: what is closed meanwhile is dropped.
            model.on_close = lambda: self._team.drop(model)
            host = host_of(self._servable_id, model, executor, processes=self._count + 1)
            self._team.host(model, host, os.dup(executor.file.fd), lambda: self._stopped)
        return model

    def stop(self) -> None:
        """See `Loader.stop`."""
        self._stopped = True
        self._inner.stop()


def share_of(options: BatchingOptions, processes: int) -> BatchingOptions:
    """How a worker merges requests: as the first process, with its share of the threads, which use the same cores.

    Each thread also has interpreters of its own for each size of a batch, with weights packed for it.
    """
    return dataclasses.replace(options, num_batch_threads=-(-options.num_batch_threads // processes))


def host_of(servable_id: ServableId, model: ServedModel, executor: LiteRtExecutor, *, processes: int) -> Host:
    """What a worker is told so that it answers as this process does; without a number."""
    options = share_of(model.options, processes)
    sizes = run_sizes(options)
    return Host(
        number=0,
        name=servable_id.name,
        version=servable_id.version,
        batching=options,
        rows=sizes.rows,
        threads=sizes.threads,
        run_threads=executor.threads,
        whole=tuple(sorted(name for name, each in executor.signatures.items() if each.mixes_rows)),
        methods={name: each.method for name, each in executor.signatures.items()},
        signature_defs=executor.signature_defs,
        fingerprint="" if model.package is None else model.package.fingerprint,
        preprocessing_fingerprint="" if model.package is None else model.package.preprocessing_fingerprint,
    )
