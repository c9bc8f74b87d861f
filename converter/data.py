"""Samples for calibration and evaluation: arrays by input name, one entry along the first axis for each sample.

A `.npz` is checked against the signature once and laid out as `.npy` files, which child processes map instead of
receiving copies.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import VARIABLE, Signature, TensorSpec
from converter.errors import DataInvalid

Array = npt.NDArray[Any]

LABELS = "labels"

BATCH_BYTES = 16 * 2**20
"""Of inputs at a time; activations are some ten times as large, and that should fit a small machine."""

MAX_BATCH_ROWS = 256

_EXACT_INTEGERS = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
"""Up to where a float dtype holds every integer."""


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
    """

    origin: str
    samples: int
    files: dict[str, Path]
    labels_file: Path | None = None
    batched: bool = False
    keeps_axis: bool = False

    def arrays(self) -> dict[str, Array]:
        """All samples, mapped, not read."""
        return {name: np.load(path, mmap_mode="r") for name, path in self.files.items()}

    def labels(self) -> Array | None:
        """The classes, int64 [samples]."""
        return None if self.labels_file is None else np.load(self.labels_file)

    def batches(self, rows: int | None = None) -> Iterator[Batch]:
        """All samples in order, as many to a call as memory allows, or at most `rows`."""
        arrays = self.arrays()
        row_bytes = sum(array[:1].nbytes for array in arrays.values())
        limit = rows or min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // max(1, row_bytes)))
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


def check_npz(path: Path) -> None:
    """Refuses what is plainly no `.npz`, before anything slow begins.

    Raises:
        DataInvalid: no such file, or no zip archive.
    """
    if not path.is_file():
        raise DataInvalid(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataInvalid(f"{path}: no .npz; one array for each input name is needed (numpy.savez)")


def load_npz(path: Path, signature: Signature, folder: Path) -> Dataset:
    """Checks a `.npz` against the signature and lays it out in `folder`.

    It holds one array for each input of the signature, and may hold `labels` (unless an input has that name): one
    integer class for each sample.

    Raises:
        DataInvalid: it can't be read; an input is missing, unknown, of another shape or dtype; a value is NaN or
            infinite (the sample is named); lengths differ; there are no samples; labels are no classes.
    """
    with _open(path) as archive:
        wanted = [spec.name for spec in signature.inputs]
        has_labels = LABELS in archive.files and LABELS not in wanted
        _check_names(path, wanted, [name for name in archive.files if not (has_labels and name == LABELS)])
        layout = _Layout(signature)
        folder.mkdir(parents=True)
        files = {}
        for index, spec in enumerate(signature.inputs):
            array = cast(f"{path}: {spec.name}", _member(path, archive, spec.name), spec)
            layout.add(path, spec, array)
            files[spec.name] = folder / f"{index}.npy"
            np.save(files[spec.name], array, allow_pickle=False)
        labels_file = _save_labels(path, archive, layout.samples, folder) if has_labels else None
    return Dataset(
        origin=str(path),
        samples=layout.samples,
        files=files,
        labels_file=labels_file,
        batched=layout.batched,
        keeps_axis=bool(layout.keeps_axis),
    )


def _open(path: Path) -> Any:
    check_npz(path)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataInvalid(f"{path}: no readable .npz: {error}") from error


def _member(path: Path, archive: Any, name: str) -> Array:
    try:
        return np.asarray(archive[name])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataInvalid(f"{path}: {name!r} can't be read: {error}") from error


def _check_names(path: Path, wanted: list[str], found: list[str]) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise DataInvalid(
            f"{path}: no array for input {missing[0]!r}; it holds {sorted(found)}, the model takes {wanted}"
        )
    if extra:
        raise DataInvalid(f"{path}: {extra[0]!r} is no input of the model, which takes {wanted}")


@dataclass
class _Layout:
    """How the samples' axis relates to the inputs' shapes; the same for all inputs."""

    signature: Signature
    samples: int = 0
    batched: bool = field(init=False)
    keeps_axis: bool | None = field(init=False)
    _first: str = ""

    def __post_init__(self) -> None:
        self.batched = self.signature.batch_axis == 0
        self.keeps_axis = True if self.batched else None

    def add(self, path: Path, spec: TensorSpec, array: Array) -> None:
        """Checks the shape of one more input and how many samples it has."""
        keeps = self._axis_kept(spec, array)
        shape = spec.shape[1:] if keeps else spec.shape
        sample = TensorSpec(name=spec.name, dtype=spec.dtype, shape=shape)
        if not array.ndim or not sample.accepts(array.shape[1:]) or self.keeps_axis not in (None, keeps):
            want = ", ".join(["samples", *("any" if dim == VARIABLE else str(dim) for dim in shape)])
            raise DataInvalid(f"{path}: {spec.name} has the shape {list(array.shape)}, the model needs [{want}]")
        if len(array) == 0:
            raise DataInvalid(f"{path}: {spec.name} holds no samples")
        if self.samples and len(array) != self.samples:
            raise DataInvalid(f"{path}: {spec.name} holds {len(array)} samples, {self._first} {self.samples}")
        self.keeps_axis, self.samples, self._first = keeps, len(array), self._first or spec.name

    def _axis_kept(self, spec: TensorSpec, array: Array) -> bool:
        """A model exported for a batch of one takes samples as a batched one does, one at a time."""
        if self.batched:
            return True
        every = (*self.signature.inputs, *self.signature.outputs)
        return array.ndim == len(spec.shape) and all(one.shape[:1] == (1,) for one in every)


def _save_labels(path: Path, archive: Any, samples: int, folder: Path) -> Path:
    labels = _member(path, archive, LABELS)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataInvalid(
            f"{path}: labels are {labels.dtype}{list(labels.shape)}; one integer class a sample is needed"
        )
    if len(labels) != samples:
        raise DataInvalid(f"{path}: {len(labels)} labels for {samples} samples")
    if labels.min() < 0:
        raise DataInvalid(f"{path}: label {labels.min()} of sample {int(labels.argmin())} is below 0")
    file = folder / f"{LABELS}.npy"
    np.save(file, labels.astype(np.int64), allow_pickle=False)
    return file


def cast(what: str, array: Array, spec: TensorSpec) -> Array:
    """The array in the spec's dtype, if no value suffers more than a float's rounding.

    Floats become other floats; integers become other integers or floats where every value fits. Floats never become
    integers.

    Raises:
        DataInvalid: the dtypes don't go together, a value does not fit, or one is NaN or infinite.
    """
    if spec.dtype == "string":
        if array.dtype.kind not in "SU":
            raise DataInvalid(f"{what} is {array.dtype}, the model takes strings")
        return array
    dtype = spec.numpy_dtype
    if array.dtype.kind not in _castable_kinds(dtype):
        raise DataInvalid(f"{what} is {array.dtype}, the model takes {spec.dtype}")
    _refuse_not_finite(what, array)
    if array.dtype.kind in "iu" and array.size:
        bound = _EXACT_INTEGERS.get(spec.dtype)
        info: Any = None if bound else np.iinfo(np.dtype(spec.dtype))
        low, high = (-bound, bound) if bound else (info.min, info.max)
        if array.min() < low or array.max() > high:
            raise DataInvalid(
                f"{what} holds {array.min()} to {array.max()}; {spec.dtype} takes {low} to {high} exactly"
            )
    with np.errstate(over="ignore"):
        cast_array: Array = array.astype(dtype, copy=False)
    _refuse_not_finite(f"{what} as {spec.dtype}", cast_array)
    return cast_array


def _castable_kinds(dtype: np.dtype[Any]) -> str:
    return {"f": "fiub", "i": "iub", "u": "iub", "b": "b", "c": "cfiub"}[dtype.kind]


def _refuse_not_finite(what: str, array: Array) -> None:
    if array.dtype.kind not in "fc" or not array.ndim:
        return
    for index, sample in enumerate(array):
        finite = np.isfinite(sample)
        if not finite.all():
            value = sample[~finite].flat[0] if sample.ndim else sample
            raise DataInvalid(f"{what}: sample {index} holds {value}")
