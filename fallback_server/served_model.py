"""A loaded version as the server holds it: its executor, and a queue for each of its signatures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue
from fallback_server.core.servable import ServableId
from fallback_server.executors.base import Executor, Signature
from fallback_server.executors.registry import Registry
from fallback_server.statistics import VersionStatistics


class ServedModel:
    """What the manager keeps loaded.

    Attributes:
        executor: Runs it.
        queues: Signature name -> where its requests wait.
        statistics: What it has answered.
    """

    def __init__(self, servable_id: ServableId, executor: Executor, options: BatchingOptions) -> None:
        self.executor = executor
        self.statistics = VersionStatistics()
        self.queues: Mapping[str, BatchQueue] = {
            name: BatchQueue(
                name=f"{servable_id.name}/{servable_id.version}:{name}",
                run=functools.partial(executor.run, name),
                options=options,
                merges=signature.batches,
            )
            for name, signature in executor.signatures.items()
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self.executor.signatures

    @property
    def platform(self) -> str:
        """What runs it, as TensorFlow Serving names platforms."""
        return getattr(self.executor, "platform", "tensorflow")

    def close(self) -> None:
        """Frees the executor's memory."""
        self.executor.close()


class ServedModelLoader:
    """Loads one version with whichever executor knows its files."""

    def __init__(self, servable_id: ServableId, path: Path, *, registry: Registry, options: BatchingOptions) -> None:
        self._servable_id = servable_id
        self._path = path
        self._registry = registry
        self._options = options

    @property
    def retriable(self) -> bool:
        """See `Loader`."""
        return True

    def estimated_bytes(self) -> int:
        """See `Loader.estimated_bytes`."""
        return 0

    def load(self) -> ServedModel:
        """See `Loader.load`."""
        return ServedModel(self._servable_id, self._registry.open(self._path), self._options)
