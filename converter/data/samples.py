"""Takes samples one after the other, checks each, and writes them to `.npy` files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from converter.artifact import VARIABLE, PackageError, Preprocess, Signature, TensorSpec
from converter.data.dataset import LABELS, MAX_LABEL, Array, Dataset
from converter.data.npy import NpyWriter
from converter.data.values import cast
from converter.errors import DataInvalid

MAX_STRING_BYTES = 256 * 2**20
"""Strings of one input are kept in memory until the longest is known, since a `.npy` gives each the same room."""


class SampleWriter:
    """Lays out a dataset whose samples come one by one. Used in a `with`.

    Attributes:
        origin: Where the samples come from, for messages.
        signature: What the model takes.
        preprocess: What encoded samples go through.
        samples: How many have come.
        keeps_axis: As of the dataset.
    """

    def __init__(
        self, origin: str, signature: Signature, preprocess: Preprocess, folder: Path, *, max_samples: int
    ) -> None:
        """No sample yet. `folder` is made."""
        self.origin = origin
        self.signature = signature
        self.preprocess = preprocess
        self.samples = 0
        self._folder = folder
        self._max_samples = max_samples
        self._open = contextlib.ExitStack()
        self._arrays: dict[str, NpyWriter] = {}
        self._strings: dict[str, list[Array]] = {}
        self._longest: dict[str, int] = {}
        self._labels: NpyWriter | None = None
        self._sources: Any = None
        self._batched = signature.batch_axis == 0
        every = (*signature.inputs, *signature.outputs)
        self.keeps_axis = self._batched or all(one.shape[:1] == (1,) for one in every)
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, values: Mapping[str, Any], labels: Any = None, source: str = "") -> None:
        """Takes one sample, or several where the arrays have the batch axis.

        Args:
            values: By input name: an array; bytes or a record for an input whose preprocessing takes those.
            labels: The sample's class, or one for each; None where there is none.
            source: The file that the sample was.

        Raises:
            DataInvalid: it does not fit the model or the samples before it; its index and file are named.
        """
        wanted = [spec.name for spec in self.signature.inputs]
        missing, extra = sorted(set(wanted) - set(values)), sorted(set(values) - set(wanted))
        if missing:
            raise DataInvalid(f"{self._at(source)} has no {missing[0]!r}; it has {sorted(values)}, not all of {wanted}")
        if extra:
            raise DataInvalid(f"{self._at(source)} has {extra[0]!r}, which is no input; the model takes {wanted}")
        arrays = {spec.name: self._rows(spec, values[spec.name], source) for spec in self.signature.inputs}
        counts = {name: len(array) for name, array in arrays.items()}
        count = counts[wanted[0]]
        if len(set(counts.values())) > 1 or count == 0:
            raise DataInvalid(f"{self._at(source)}: the inputs need the same number of samples, got {counts}")
        if self.samples + count > self._max_samples:
            raise DataInvalid(f"{self.origin}: more than {self._max_samples} samples, which is as many as are taken")
        self._write_labels(labels, count, source)
        for spec in self.signature.inputs:
            self._write(spec, arrays[spec.name], source)
        if source:
            self._write_source(source)
        self.samples += count

    def decodes(self, name: str) -> bool:
        """Whether the preprocessing of that input makes arrays of bytes or of records."""
        one = self.preprocess.inputs.get(name)
        return one is not None and (one.decode is not None or bool(one.fields))

    def finish(self) -> Dataset:
        """The dataset.

        Raises:
            DataInvalid: there was no sample.
        """
        if not self.samples:
            raise DataInvalid(f"{self.origin}: no samples")
        names = [spec.name for spec in self.signature.inputs]
        for name, parts in self._strings.items():
            longest = max(part.itemsize for part in parts)
            with NpyWriter(self._file(name), np.dtype(f"S{longest}"), parts[0].shape[1:]) as writer:
                for part in parts:
                    writer.add(part)
        self._open.close()
        return Dataset(
            origin=self.origin,
            samples=self.samples,
            files={name: self._file(name) for name in names},
            labels_file=self._labels.path if self._labels else None,
            batched=self._batched,
            keeps_axis=self.keeps_axis,
            sources_file=self._sources_file if self._sources else None,
        )

    @property
    def _sources_file(self) -> Path:
        return self._folder / "sources.jsonl"

    def _file(self, name: str) -> Path:
        return self._folder / f"{[spec.name for spec in self.signature.inputs].index(name)}.npy"

    def _at(self, source: str) -> str:
        return f"{self.origin}: sample {self.samples}{f' ({source})' if source else ''}"

    def _rows(self, spec: TensorSpec, value: Any, source: str) -> Array:
        """The samples along the first axis, in the shape that each has in the file."""
        if isinstance(value, bytes | Mapping) and spec.dtype != "string":
            value = self._decoded(spec, value, source)
        try:
            # A common dtype for text and bytes would be text, which not all bytes are.
            array = np.asarray(value, dtype=object if spec.dtype == "string" else None)
        except ValueError as error:
            raise DataInvalid(f"{self._at(source)}: {spec.name} is no array: {error}") from error
        if spec.dtype == "string":
            array = _as_bytes(array, f"{self._at(source)}: {spec.name}")
        shape = spec.shape[1:] if self.keeps_axis else spec.shape
        rows = array[np.newaxis] if array.ndim == len(shape) else array
        if rows.ndim != len(shape) + 1 or not _fits(rows.shape[1:], shape):
            want = ["any" if dim == VARIABLE else dim for dim in shape]
            raise DataInvalid(
                f"{self._at(source)}: {spec.name} has the shape {list(array.shape)}, the model needs "
                f"[{', '.join(str(dim) for dim in want)}]"
            )
        return rows

    def _decoded(self, spec: TensorSpec, raw: bytes | Mapping[str, Any], source: str) -> Array:
        if not self.decodes(spec.name):
            raise DataInvalid(
                f"{self._at(source)}: {spec.name} is {'bytes' if isinstance(raw, bytes) else 'a record'}, and its "
                f'preprocessing decodes nothing; for images, add decode = "image" and resize = [height, width] to '
                f"[inputs.{spec.name}] of the preprocessing"
            )
        try:
            found = np.asarray(self.preprocess.apply(spec.name, raw, spec))
        except PackageError as error:
            raise DataInvalid(f"{self._at(source)}: {error}") from error
        # It comes in the input's own shape, with a batch of one where that has a batch axis.
        return found if self.keeps_axis else found[np.newaxis]

    def _write(self, spec: TensorSpec, rows: Array, source: str) -> None:
        what = f"{self.origin}: {spec.name}"
        found = cast(what, rows, spec, start=self.samples, source=source)
        before = self._strings[spec.name][0].shape[1:] if spec.name in self._strings else found.shape[1:]
        before = self._arrays[spec.name].shape if spec.name in self._arrays else before
        if found.shape[1:] != before:
            raise DataInvalid(
                f"{self._at(source)}: {spec.name} has the shape {list(found.shape[1:])}, the samples before it "
                f"{list(before)}; all need the same"
            )
        if spec.dtype == "string":
            self._strings.setdefault(spec.name, []).append(found)
            self._longest[spec.name] = max(self._longest.get(spec.name, 1), found.itemsize)
            if self._longest[spec.name] * found[:1].size * (self.samples + len(found)) > MAX_STRING_BYTES:
                raise DataInvalid(f"{what}: more than {MAX_STRING_BYTES} bytes of strings")
            return
        if spec.name not in self._arrays:
            writer = NpyWriter(self._file(spec.name), found.dtype, found.shape[1:])
            self._arrays[spec.name] = self._open.enter_context(writer)
        self._arrays[spec.name].add(found)

    def _write_labels(self, labels: Any, count: int, source: str) -> None:
        if labels is None:
            if self._labels:
                raise DataInvalid(f"{self._at(source)} has no label, the samples before it have")
            return
        if self._labels is None:
            if self.samples:
                raise DataInvalid(f"{self._at(source)} has a label, the samples before it have none")
            path = self._folder / f"{LABELS}.npy"
            self._labels = self._open.enter_context(NpyWriter(path, np.dtype(np.int64), ()))
        array = np.atleast_1d(np.asarray(labels))
        if array.dtype.kind not in "iu" or array.shape != (count,):
            raise DataInvalid(
                f"{self._at(source)}: labels are {array.dtype}{list(array.shape)}; one integer class a sample is needed"
            )
        if array.min() < 0:
            raise DataInvalid(f"{self._at(source)}: label {array.min()} is below 0")
        if array.max() > MAX_LABEL:
            raise DataInvalid(f"{self._at(source)}: label {array.max()} is no class: above {MAX_LABEL}")
        self._labels.add(array.astype(np.int64))

    def _write_source(self, source: str) -> None:
        if self._sources is None:
            self._sources = self._open.enter_context(self._sources_file.open("w", encoding="ascii"))
        self._sources.write(json.dumps(source) + "\n")


def _fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(found) == len(shape) and all(want in (VARIABLE, have) for want, have in zip(shape, found, strict=True))


def _as_bytes(array: Array, what: str) -> Array:
    """Python strings and bytes as fixed-size bytes, UTF-8."""
    items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    if not all(isinstance(item, bytes) for item in items):
        raise DataInvalid(f"{what} holds Python objects, the model takes strings")
    return np.array(items, dtype=np.bytes_).reshape(array.shape)
