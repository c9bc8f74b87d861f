"""`edge-run predict`: requests from files, their replies as text.

edge-run predict STORE MODEL INPUT...   one request of an installed model; what to do with its files is said
edge-run predict PACKAGE FILE...        a request for each file; images and the like are preprocessed
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import install
from edge_runtime.bare import SUFFIX, is_package, open_store
from edge_runtime.errors import EngineFailed, InvalidConfig, InvalidInput, PackageRefused, VersionNotAvailable
from edge_runtime.inputs import Inputs
from edge_runtime.model import Model
from edge_runtime.runtime import Runtime
from edge_runtime.tasks import read_labels
from edge_runtime.tasks.answers import ranked
from edge_runtime.tls_flags import options_of
from edge_runtime.types import Array, Reply

Labels = Sequence[str] | Mapping[int, str]
"""By class."""

TOP = 5
"""Classes that are shown for a row, unless told."""

_ARRAYS = (".npy", ".npz")

_ROWS = 20
"""Rows that are shown; `--json` gives all."""

_MAX_RAW_BYTES = 256 * 2**20
"""Of one file; an image or clip that is larger is none for a model."""


class _Archive(dict[str, Array]):
    """The arrays of a `.npz` by name; a record of a `.json` is a dict too."""


def predict(arguments: argparse.Namespace) -> Iterator[str]:
    """What the command prints, as it comes: a text for each request."""
    source = Path(arguments.source)
    options = options_of(arguments)
    if arguments.fallback is not None:
        options["fallback"] = arguments.fallback
    if arguments.delegate:
        options["delegates"] = arguments.delegate
    if arguments.top < 1:
        raise InvalidConfig(f"--top: must be at least 1, got {arguments.top}")
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    if is_store(source):
        name, *items = arguments.input
        if not items:
            raise InvalidInput(
                f"{source} is a store of packages: after it come the MODEL and its INPUT, got {name!r} only"
            )
        with Runtime.open(source, **options) as runtime:
            model = _model(runtime, name, version=arguments.version, label=arguments.label)
            yield _from_store(model, arguments, items, labels)
        return
    if arguments.label is not None:
        raise InvalidConfig(f"--label: {source} is one package; labels are a store's")
    with _unpacked(source) as package, Runtime.open(package, **options) as runtime:
        ((name, versions),) = runtime.installed.items()
        version = versions[-1] if arguments.version is None else arguments.version
        yield from _from_package(_model(runtime, name, version=version), arguments, labels)


def _model(runtime: Runtime, name: str, *, version: int | None = None, label: str | None = None) -> Model:
    """The model.

    Raises:
        InvalidInput: there is no such model or version here, and no server to be asked; or it is damaged.
        EngineFailed: it is sound, and nothing here can run it.
        EdgeRuntimeError: see `Runtime.model`.
    """
    try:
        return runtime.model(name, version=version, label=label)
    except VersionNotAvailable as error:
        if runtime.options.fallbacks:
            raise
        raise InvalidInput(str(error)) from error
    except PackageRefused as error:
        versions = runtime.installed.get(name, []) if version is None else [version]
        if any(_opens(runtime, name, one) for one in versions):
            raise EngineFailed(str(error)) from error
        raise InvalidInput(str(error)) from error


def _opens(runtime: Runtime, name: str, version: int) -> bool:
    """Whether a package is as it was published, so that its refusal says something of this machine."""
    try:
        options = runtime.options
        open_store(options.store, require_signature=options.require_signature).open(name, version)
    except (InvalidConfig, PackageRefused):
        return False
    return True


def is_store(source: Path) -> bool:
    """Whether it is a store of packages or a runtime's options, and no package, archive or bare file.

    A package is a directory that holds a `manifest.json`, or a file; a store is any other directory.

    Raises:
        InvalidConfig: there is nothing, or a directory that can be neither.
    """
    try:
        if source.is_dir():
            return not is_package(source)
        if not source.exists():
            raise InvalidConfig(f"{source}: no such directory or file")
    except OSError as error:
        raise InvalidConfig(f"{source}: {error.strerror or error}") from error
    return source.suffix == ".toml"


@contextlib.contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The package's directory or the bare file, what an archive holds unpacked for as long."""
    if source.is_dir() or source.suffix == SUFFIX:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        yield install(source, folder).path


def _from_store(model: Model, arguments: argparse.Namespace, items: Sequence[str], labels: Labels | None) -> str:
    """One request of an installed model, shown in full."""
    files = named_files(items)
    given = {name: read_raw(path) if arguments.raw else read(path) for name, path in files.items()}
    inputs = preprocess(model, given) if arguments.raw else plain(given)
    reply = model.predict(inputs, deadline_ms=arguments.deadline_ms, signature=arguments.signature)
    return _shown(model, reply, arguments, labels)


def _from_package(model: Model, arguments: argparse.Namespace, labels: Labels | None) -> Iterator[str]:
    """A request for each file, or one of all of them where they are given by the inputs' names."""
    if any("=@" in item for item in arguments.input):
        files = named_files(arguments.input)
        by_name = {name: _prepared(model, path, name, raw=arguments.raw) for name, path in files.items()}
        reply = model.predict(plain(by_name), deadline_ms=arguments.deadline_ms, signature=arguments.signature)
        yield _shown(model, reply, arguments, labels)
        return
    for item in arguments.input:
        inputs = _prepared(model, Path(item), None, raw=arguments.raw)
        reply = model.predict(inputs, deadline_ms=arguments.deadline_ms, signature=arguments.signature)
        if arguments.json:
            yield as_json(reply, input=item)
        else:
            yield as_lines(item, reply, _names(model, reply, labels), arguments.top)


def _prepared(model: Model, path: Path, name: str | None, *, raw: bool) -> Inputs:
    """Arrays as they are unless they are raw; an image, clip or record through the package's preprocessing."""
    content = read_raw(path)
    if not raw and path.suffix.lower() in _ARRAYS:
        arrays: Inputs = content
        return arrays
    if isinstance(content, _Archive):
        return {key: model.preprocess(one, input=key) for key, one in content.items()}
    try:
        return model.preprocess(content, input=name)
    except InvalidInput as error:
        if not isinstance(content, bytes):
            raise
        raise InvalidInput(
            f"{path}: {error} (only a package whose preprocessing decodes takes such a file; a bare model takes .npy)"
        ) from error


def _names(model: Model, reply: Reply, labels: Labels | None) -> Labels:
    """The labels that were given, else the package's, where it was this package that answered."""
    if labels is not None:
        return labels
    return model.labels if reply.place.startswith("device:") else ()


def _shown(model: Model, reply: Reply, arguments: argparse.Namespace, labels: Labels | None) -> str:
    return as_json(reply) if arguments.json else as_text(reply, _names(model, reply, labels), arguments.top)


def read(path: Path) -> Inputs:
    """The array of a `.npy`, or the arrays of a `.npz` by name, read whole.

    Raises:
        InvalidInput: it can't be read as either.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = _Archive({name: loaded[name] for name in loaded.files})
    except Exception as error:  # numpy, zipfile and its decompressors raise a dozen kinds for what is damaged
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"{path}: can't be read as .npy or .npz: {said}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InvalidInput(f"{path}: can't be read as .npy or .npz: {name!r} in it is no array")
    return arrays


def read_raw(path: Path) -> Any:
    """As `read`; a `.json` as a record by field or a list of records, any other file as its bytes.

    Raises:
        InvalidInput: it can't be read, or is larger than `_MAX_RAW_BYTES`.
    """
    suffix = path.suffix.lower()
    if suffix in _ARRAYS:
        return read(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RAW_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path}: can't be read: {error.strerror or error}") from error
    if len(content) > _MAX_RAW_BYTES:
        raise InvalidInput(f"{path}: at most {_MAX_RAW_BYTES} bytes are read, it has more")
    if suffix != ".json":
        return content
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: can't be read as JSON: {error}") from error


def named_files(items: Sequence[str]) -> dict[str, Path]:
    """`NAME=@FILE` for each input, by name; or one file alone, whose name is "".

    Raises:
        InvalidInput: several files without names, or a name twice.
    """
    found: dict[str, Path] = {}
    for item in items:
        name, named, path = item.partition("=@")
        if not named:
            if len(items) > 1:
                raise InvalidInput(f"{item}: of several inputs each is given as NAME=@FILE")
            return {"": Path(item)}
        if not name or name in found:
            raise InvalidInput(f"{item}: the input's name is {'given twice' if name else 'missing'}")
        found[name] = Path(path)
    return found


def plain(given: dict[str, Any]) -> Inputs:
    """What `read` gave, as `Model.predict` takes it.

    Raises:
        InvalidInput: a `.npz` was given for one input by its name.
    """
    if "" in given:
        only: Inputs = given[""]
        return only
    for name, one in given.items():
        if isinstance(one, dict):
            raise InvalidInput(f"input {name!r}: a .npz holds arrays by input name; give it alone, or a .npy")
    return given


def preprocess(model: Model, given: dict[str, Any]) -> Inputs:
    """What `read_raw` gave, through the package's preprocessing; see `plain`."""
    if "" not in given:
        return {name: model.preprocess(raw, input=name) for name, raw in given.items()}
    only = given[""]
    if isinstance(only, _Archive):
        return {name: model.preprocess(raw, input=name) for name, raw in only.items()}
    return model.preprocess(only)


def as_json(reply: Reply, *, input: str | None = None) -> str:  # noqa: A002  the field's word
    """Everything, on one line of valid JSON; with the input's path first, if it is given.

    JSON has no word for some numbers: "NaN", "Infinity" and "-Infinity" are strings, as in protobuf's JSON; a complex
    number is [real, imaginary]. Bytes are shown as UTF-8.
    """
    return json.dumps(
        ({} if input is None else {"input": input})
        | {
            "version": reply.version,
            "place": reply.place,
            "reason": reply.reason,
            "latency_ms": reply.latency_ms,
            "outputs": {name: _values(array) for name, array in reply.outputs.items()},
        },
        allow_nan=False,
    )


def _values(array: Array) -> Any:
    """The array as nested lists, or as one value if it has no dimension."""
    if array.dtype.kind in "biu" or (array.dtype.kind == "f" and np.isfinite(array).all()):
        return array.tolist()
    return _plain(array.tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_text(reply: Reply, labels: Labels, top: int = TOP) -> str:
    """A line for the answer, then a line a row: the best classes where there are labels, else the values."""
    lines = [f"version {reply.version}, {reply.place} ({reply.reason}), {reply.latency_ms:.2f} ms"]
    for name, array in reply.outputs.items():
        lines.append(f"{name} {array.dtype}{list(array.shape)}")
        lines.extend(f"  {row}" for row in _rows(array, labels, top))
    return "\n".join(lines)


def as_lines(item: str, reply: Reply, labels: Labels, top: int) -> str:
    """The input's name and its answer on one line; each output by its name, if there are several, likewise each row."""
    answers = [
        f"{name}: {row}" if len(reply.outputs) > 1 else row
        for name, array in reply.outputs.items()
        for row in _rows(array, labels, top)
    ]
    return "\n".join(f"{item}: {' '.join(answer.split(chr(10)))}" for answer in answers) or f"{item}: no row"


def _rows(array: Array, labels: Labels, top: int) -> Iterator[str]:
    rows = array if array.ndim else array.reshape(1)
    for row in rows[:_ROWS]:
        yield _row(np.asarray(row), labels, top)
    if len(rows) > _ROWS:
        yield f"... {len(rows) - _ROWS} more rows"


def _row(row: Array, labels: Labels, top: int) -> str:
    # A list of labels is that of the classes; a file's lines may leave some out.
    fit = isinstance(labels, Mapping) or len(labels) == row.size
    if row.ndim != 1 or row.dtype.kind not in "biuf" or not labels or not fit:
        return np.array2string(row, threshold=16, precision=4)
    scores = row.astype(np.float64)
    best = [int(place) for place in ranked(scores)[:top]]
    if not best:
        return "no class: every score is NaN"
    names = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
    return "  ".join(f"{names.get(place, place)} {scores[place]:.4f}" for place in best)
