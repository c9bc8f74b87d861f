"""Checked samples on disk, and the batches that they are fed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LABELS = "labels"

MAX_LABEL = 2**31 - 1
"""No model has more classes, and a larger one is a sign of another dtype that was taken for integers."""

BATCH_BYTES = 4 * 2**20
"""Of inputs at a time. A net's activations are some fifty times as large, and are the most memory that a conversion
takes: MobileNetV2's peak was a fifth higher with 16 MiB, and nothing was faster."""

MAX_BATCH_ROWS = 256

MAX_SAMPLES = 10_000_000
"""More than anybody measures on; a generator that never ends is told here, and not by a full disk, as a rule."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of one call.

    Attributes:
        start: Index of its first sample.
        samples: How many it holds.
        inputs: By input name, in the shape that the model takes.
    """

    start: int
    samples: int
    inputs: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Checked samples on disk. Picklable.

    Attributes:
        origin: Where they came from, for messages.
        samples: How many there are, at least 1.
        files: By input name, the `.npy` with all samples.
        labels_file: The `.npy` with int64 classes, one a sample, where there were labels.
        batched: Whether several samples can go into one call.
        keeps_axis: Whether the samples' axis is an axis of the model's inputs and outputs (its batch axis, or a
            fixed one of size 1); else a sample is fed without it.
        sources_file: Where each sample was a file of its own: their paths below `origin`, a JSON string a line.
    """

    origin: str
    samples: int
    files: dict[str, Path]
    labels_file: Path | None = None
    batched: bool = False
    keeps_axis: bool = False
    sources_file: Path | None = None

    def arrays(self) -> dict[str, Array]:
        """All samples, mapped, not read."""
        return {name: np.load(path, mmap_mode="r") for name, path in self.files.items()}

    def labels(self) -> Array | None:
        """The classes, int64 [samples]."""
        return None if self.labels_file is None else np.load(self.labels_file)

    def sources(self) -> tuple[str, ...]:
        """The name of each sample's file, as `cat/1.jpg`; empty where samples were no files."""
        if self.sources_file is None:
            return ()
        return tuple(json.loads(line) for line in self.sources_file.read_text("ascii").splitlines())

    def batches(self, rows: int | None = None, *, limit_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """All samples in order, as many to a call as fit into `limit_bytes` of inputs, or at most `rows`."""
        arrays = self.arrays()
        row_bytes = sum(array[:1].nbytes for array in arrays.values())
        limit = rows or min(MAX_BATCH_ROWS, max(1, limit_bytes // max(1, row_bytes)))
        step = limit if self.batched else 1
        for start in range(0, self.samples, step):
            yield self._batch(arrays, start, min(start + step, self.samples))

    def spread(self, count: int) -> Iterator[Batch]:
        """At most `count` samples, one to a call, evenly spread over all: data are often sorted by class."""
        arrays = self.arrays()
        for index in np.unique(np.linspace(0, self.samples - 1, min(count, self.samples)).astype(np.int64)):
            yield self._batch(arrays, int(index), int(index) + 1)

    def _batch(self, arrays: Mapping[str, Array], start: int, stop: int) -> Batch:
        def cut(array: Array) -> Array:
            return np.array(array[start:stop] if self.keeps_axis else array[start])

        return Batch(start=start, samples=stop - start, inputs={name: cut(array) for name, array in arrays.items()})
