"""Reads `.npz` files: arrays of all samples, by input name, whose values are what the model takes."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from converter.artifact import VARIABLE, Signature, TensorSpec
from converter.data.dataset import LABELS, MAX_LABEL, MAX_SAMPLES, Array, Dataset
from converter.data.npy import NpyWriter
from converter.data.values import cast, check_dtype
from converter.errors import DataInvalid

_READ_BYTES = 8 * 2**20
"""Of an array at a time."""

_SUFFIX = ".npy"

_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What zipfile and numpy raise on files that are damaged, encrypted or compressed in a way that they don't know."""


def check_npz(path: Path) -> None:
    """Refuses what is plainly no `.npz`, before anything slow begins.

    Raises:
        DataInvalid: no such file, or no zip archive.
    """
    if not path.is_file():
        raise DataInvalid(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataInvalid(f"{path}: no .npz; one array for each input name is needed (numpy.savez)")


def load_npz(path: Path, signature: Signature, folder: Path, *, max_samples: int = MAX_SAMPLES) -> Dataset:
    """Checks a `.npz` against the signature and lays it out in `folder`.

    It holds one array for each input of the signature, and may hold `labels` (unless an input has that name): one
    integer class for each sample.

    Raises:
        DataInvalid: it can't be read; an input is missing, unknown, of another shape or dtype; a value is NaN or
            infinite (the sample is named); lengths differ; there are no samples, or more than `max_samples`; labels
            are no classes.
    """
    check_npz(path)
    with _opened(path) as archive:
        found = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
        wanted = [spec.name for spec in signature.inputs]
        has_labels = LABELS in found and LABELS not in wanted
        _check_names(path, wanted, [name for name in found if not (has_labels and name == LABELS)])
        layout = _Layout(path, signature, max_samples)
        folder.mkdir(parents=True)
        files = {}
        for index, spec in enumerate(signature.inputs):
            with _member(path, archive, spec.name) as member:
                check_dtype(f"{path}: {spec.name}", member.dtype, spec)
                layout.add(spec, member.shape)
                files[spec.name] = _copy(f"{path}: {spec.name}", member, spec, folder / f"{index}.npy")
        labels_file = None
        if has_labels:
            with _member(path, archive, LABELS) as member:
                labels_file = _save_labels(path, member, layout.samples, folder)
    return Dataset(
        origin=str(path),
        samples=layout.samples,
        files=files,
        labels_file=labels_file,
        batched=layout.batched,
        keeps_axis=bool(layout.keeps_axis),
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except _READ_ERRORS as error:
        raise DataInvalid(f"{path}: no readable .npz: {error}") from error
    with archive:
        yield archive


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One array of the archive, not yet read. `what` names it in messages."""

    what: str
    stream: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool

    def parts(self) -> Iterator[Array]:
        """The array in pieces along its first axis; all of it at once where it is stored the other way round.

        Raises:
            DataInvalid: it is damaged.
        """
        row_shape = self.shape[1:]
        row_bytes = self.dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        if self.fortran_order:
            data = self._read(row_bytes * self.shape[0])
            yield np.frombuffer(data, self.dtype).reshape(self.shape[::-1]).T
        else:
            step = max(1, _READ_BYTES // max(1, row_bytes))
            for start in range(0, self.shape[0], step):
                rows = min(step, self.shape[0] - start)
                yield np.frombuffer(self._read(rows * row_bytes), self.dtype).reshape(rows, *row_shape)
        # The archive's checksum is only looked at where its end is read.
        self._read(0, at_end=True)

    def _read(self, count: int, *, at_end: bool = False) -> bytes:
        try:
            data = self.stream.read(1 if at_end else count)
        except _READ_ERRORS as error:
            raise DataInvalid(f"{self.what} can't be read: {error}") from error
        if len(data) != count:
            raise DataInvalid(f"{self.what} can't be read: its size is not what its header says")
        return data


@contextlib.contextmanager
def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[_Member]:
    what = f"{path}: {name!r}"
    entry = name + _SUFFIX if name + _SUFFIX in archive.namelist() else name
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(archive.open(entry))
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(stream)
        except _READ_ERRORS as error:
            raise DataInvalid(f"{what} can't be read: {error}") from error
        if dtype.hasobject:
            raise DataInvalid(f"{what} can't be read: it holds Python objects, which could be any code")
        yield _Member(what=what, stream=stream, dtype=dtype, shape=shape, fortran_order=fortran_order)


def _copy(what: str, member: _Member, spec: TensorSpec, file: Path) -> Path:
    dtype = member.dtype.newbyteorder("=") if spec.dtype == "string" else spec.numpy_dtype
    with NpyWriter(file, dtype, member.shape[1:]) as writer:
        for part in member.parts():
            writer.add(cast(what, part, spec, start=writer.rows))
    return file


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

    path: Path
    signature: Signature
    max_samples: int
    samples: int = 0
    batched: bool = field(init=False)
    keeps_axis: bool | None = field(init=False)
    _first: str = ""

    def __post_init__(self) -> None:
        self.batched = self.signature.batch_axis == 0
        self.keeps_axis = True if self.batched else None

    def add(self, spec: TensorSpec, found: tuple[int, ...]) -> None:
        """Checks the shape of one more input and how many samples it has."""
        path = self.path
        keeps = self._axis_kept(spec, found)
        shape = spec.shape[1:] if keeps else spec.shape
        sample = TensorSpec(name=spec.name, dtype=spec.dtype, shape=shape)
        if not found or not sample.accepts(found[1:]) or self.keeps_axis not in (None, keeps):
            want = ", ".join(["samples", *("any" if dim == VARIABLE else str(dim) for dim in shape)])
            raise DataInvalid(f"{path}: {spec.name} has the shape {list(found)}, the model needs [{want}]")
        if found[0] == 0:
            raise DataInvalid(f"{path}: {spec.name} holds no samples")
        if self.samples and found[0] != self.samples:
            raise DataInvalid(f"{path}: {spec.name} holds {found[0]} samples, {self._first} {self.samples}")
        if found[0] > self.max_samples:
            raise DataInvalid(f"{path}: {spec.name} holds {found[0]} samples, at most {self.max_samples} are taken")
        self.keeps_axis, self.samples, self._first = keeps, found[0], self._first or spec.name

    def _axis_kept(self, spec: TensorSpec, found: tuple[int, ...]) -> bool:
        """A model exported for a batch of one takes samples as a batched one does, one at a time."""
        if self.batched:
            return True
        every = (*self.signature.inputs, *self.signature.outputs)
        return len(found) == len(spec.shape) and all(one.shape[:1] == (1,) for one in every)


def _save_labels(path: Path, member: _Member, samples: int, folder: Path) -> Path:
    if member.dtype.kind not in "iu" or len(member.shape) != 1:
        raise DataInvalid(
            f"{path}: labels are {member.dtype}{list(member.shape)}; one integer class a sample is needed"
        )
    if member.shape[0] != samples:
        raise DataInvalid(f"{path}: {member.shape[0]} labels for {samples} samples")
    file = folder / f"{LABELS}.npy"
    with NpyWriter(file, np.dtype(np.int64), ()) as writer:
        for part in member.parts():
            if part.min() < 0:
                raise DataInvalid(f"{path}: label {part.min()} of sample {writer.rows + int(part.argmin())} is below 0")
            if part.max() > MAX_LABEL:
                sample = writer.rows + int(part.argmax())
                raise DataInvalid(f"{path}: label {part.max()} of sample {sample} is no class: above {MAX_LABEL}")
            writer.add(part.astype(np.int64))
    return file
