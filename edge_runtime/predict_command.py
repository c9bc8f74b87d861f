"""`edge-run predict`: one request from files, its reply as text."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import InvalidInput
from edge_runtime.inputs import Inputs
from edge_runtime.model import Model
from edge_runtime.runtime import Runtime
from edge_runtime.types import Array, Reply

_TOP = 5
"""Classes that are shown for a row."""

_ROWS = 20
"""Rows that are shown; `--json` gives all."""

_MAX_RAW_BYTES = 256 * 2**20
"""Of one file; an image or clip that is larger is none for a model."""


class _Archive(dict[str, Array]):
    """The arrays of a `.npz` by name; a record of a `.json` is a dict too."""


def predict(arguments: argparse.Namespace) -> str:
    """What the command prints."""
    options = {} if arguments.fallback is None else {"fallback": arguments.fallback}
    files = named_files(arguments.input)
    given = {name: read_raw(path) if arguments.raw else read(path) for name, path in files.items()}
    with Runtime.open(arguments.store, **options) as runtime:
        model = runtime.model(arguments.model, version=arguments.version, label=arguments.label)
        inputs = preprocess(model, given) if arguments.raw else plain(given)
        reply = model.predict(inputs, deadline_ms=arguments.deadline_ms, signature=arguments.signature)
        labels = model.labels if reply.place.startswith("device:") else ()
    return as_json(reply) if arguments.json else as_text(reply, labels)


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
    if suffix in (".npy", ".npz"):
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


def as_json(reply: Reply) -> str:
    """Everything, on one line of valid JSON.

    JSON has no word for some numbers: "NaN", "Infinity" and "-Infinity" are strings, as in protobuf's JSON; a complex
    number is [real, imaginary]. Bytes are shown as UTF-8.
    """
    return json.dumps(
        {
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


def as_text(reply: Reply, labels: tuple[str, ...]) -> str:
    """A line for the answer, then a line a row: the best classes where there are labels, else the values."""
    lines = [f"version {reply.version}, {reply.place} ({reply.reason}), {reply.latency_ms:.2f} ms"]
    for name, array in reply.outputs.items():
        lines.append(f"{name} {array.dtype}{list(array.shape)}")
        rows = array if array.ndim else array.reshape(1)
        lines.extend(f"  {_row(np.asarray(row), labels)}" for row in rows[:_ROWS])
        if len(rows) > _ROWS:
            lines.append(f"  ... {len(rows) - _ROWS} more rows")
    return "\n".join(lines)


def _row(row: Array, labels: tuple[str, ...]) -> str:
    if row.ndim != 1 or row.dtype.kind not in "biuf" or not labels or len(labels) != len(row):
        return np.array2string(row, threshold=16, precision=4)
    scores = row.astype(np.float64)
    best = np.argsort(scores)[::-1][:_TOP]
    return "  ".join(f"{labels[i]} {scores[i]:.4f}" for i in best)
