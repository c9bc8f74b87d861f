"""Outputs of a run over many samples, kept on disk so that their number does not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.data import Batch, Dataset
from converter.errors import VariantUnusable

Array = npt.NDArray[Any]

_DIGEST_BYTES = 16


def by_sample(name: str, values: Array, batch: Batch, *, keeps_axis: bool) -> Array:
    """The values with the samples as their first axis.

    Raises:
        VariantUnusable: there are not as many as samples went in.
    """
    if not keeps_axis:
        return values[np.newaxis]
    if values.shape[:1] != (batch.samples,):
        raise VariantUnusable(f"output {name!r} has the shape {list(values.shape)} for {batch.samples} samples")
    return values


def comparable(values: Array) -> Array:
    """Numbers as they are; strings as digests, which have one size and are equal where the strings are."""
    if values.dtype.kind not in "OSU":
        return values
    digests = [_digest(item) for item in values.ravel().tolist()]
    return np.array(digests, dtype=f"S{2 * _DIGEST_BYTES}").reshape(values.shape)


def _digest(item: Any) -> bytes:
    data = item.encode() if isinstance(item, str) else bytes(item)
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest().encode("ascii")


class OutputWriter:
    """Writes each output of a dataset to one `.npy`, batch after batch, in order; strings as of `comparable`."""

    def __init__(self, folder: Path, names: Sequence[str], dataset: Dataset) -> None:
        """Nothing is written yet. `folder` is made.

        Args:
            folder: Where to.
            names: The outputs, in a fixed order.
            dataset: What is run.
        """
        self.names = list(names)
        self._dataset = dataset
        self._files = {name: folder / f"{index}.npy" for index, name in enumerate(self.names)}
        self._arrays: dict[str, Array] = {}
        folder.mkdir(parents=True)

    def add(self, batch: Batch, outputs: Mapping[str, Array]) -> None:
        """Writes one batch's outputs.

        Raises:
            VariantUnusable: an output's shape differs from sample to sample, so that nothing can be compared.
        """
        for name, path in self._files.items():
            values = comparable(by_sample(name, outputs[name], batch, keeps_axis=self._dataset.keeps_axis))
            if name not in self._arrays:
                shape = (self._dataset.samples, *values.shape[1:])
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
            target = self._arrays[name]
            if values.shape[1:] != target.shape[1:]:
                raise VariantUnusable(
                    f"output {name!r} has the shape {list(values.shape[1:])} for sample {batch.start}, "
                    f"and {list(target.shape[1:])} before"
                )
            target[batch.start : batch.start + batch.samples] = values

    def finish(self) -> dict[str, Path]:
        """The file of each output."""
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        return dict(self._files)
