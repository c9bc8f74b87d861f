"""Runs a class of the user's own: what is no SavedModel, and has no other library here, can be served as well.

The version's folder holds `model.py` with a class `Model`:

    class Model:
        signatures = {
            "serving_default": {
                "inputs": {"x": ("float32", (-1, 3))},
                "outputs": {"y": ("float32", (-1, 3))},
            },
        }

        def __init__(self, path):        # the version's folder, as a pathlib.Path
            ...

        def predict(self, signature, inputs):    # name -> numpy array; gives name -> array
            return {"y": inputs["x"] * 2}

        def close(self):                 # optional
            ...

A dtype is what numpy takes, or `"string"` for object arrays of bytes; a shape has -1 (or None) where a size may vary,
and is None where even the rank may. `signatures` may also be set by `__init__`.

Where the first dimension of all inputs and outputs varies, requests are merged along it if a trial on made-up inputs
shows that each row's answer is its own. `batches = True` in the class says that it is, and nothing is tried;
`batches = False` that requests are never to be merged. `predict` is called by one thread at a time, and what it gives
is copied before the next call, unless the class says `thread_safe = True`. Inputs may be read-only. A `ValueError` is
the request's fault, and its text goes to the caller; any other exception is the model's own, and stays in the log.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from fallback_server.core.errors import InvalidInput, LoadFailed
from fallback_server.executors.base import VARIABLE, Array, Signature, TensorSpec
from fallback_server.executors.definitions import PREDICT, definitions
from fallback_server.executors.probing import run_once, tried
from fallback_server.executors.timing import Timed
from fallback_server.protocol.tensors import TensorCodecError, wire_dtype

FILE, CLASS = "model.py", "Model"

_WORKER_BYTES = 2**26


class PythonExecutor:
    """An object of the user's class `Model`. See `Executor`.

    Args:
        model: The object.

    Attributes:
        at_once: See `Executor`: 1, or any number where the object says that it is thread-safe.
        run_s: How long one row takes, of the signature that takes longest; 0 before `warm_up`, and where none has run.

    Raises:
        LoadFailed: its signatures are none; the text says which, and what is wrong.
    """

    kind = "python"
    platform = "python"
    in_process = True

    def __init__(self, model: Any) -> None:
        if not callable(getattr(model, "predict", None)):
            raise LoadFailed(f"{FILE}: class {CLASS} has no method predict(signature, inputs)")
        self._model = model
        self._thread_safe = getattr(model, "thread_safe", False) is True
        self.at_once = 0 if self._thread_safe else 1
        self._alone: AbstractContextManager[Any] = contextlib.nullcontext() if self._thread_safe else threading.Lock()
        self.run_s = 0.0
        self._batches = _batches(model)
        self._signatures = _signatures(getattr(model, "signatures", None), merged=self._batches is not False)
        self._signature_defs = definitions(self._signatures.values())

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature; see `Executor.run`.

        Raises:
            InvalidInput: it raised a ValueError.
            TypeError: what it gave is not what its signature says.
        """
        with self._alone:
            try:
                given = self._model.predict(signature, dict(inputs))
            except ValueError as error:
                raise InvalidInput(f"the model refused the values: {' '.join(str(error).split())}") from error
            # The model may write into its own arrays at the next call, before this answer is sent.
            return _outputs(self._signatures[signature], given, copied=not self._thread_safe)

    def warm_up(self) -> None:
        """Runs each signature on what can be made up, and sees whether rows mix, unless the class has said it."""
        for name, signature in list(self._signatures.items()):
            run = Timed(functools.partial(self.run, name))
            if self._batches:
                run_once(run, signature)
            else:
                self._signatures[name] = tried(run, signature)
            self.run_s = max(self.run_s, run.least_s)

    def close(self) -> None:
        """Has the model put its things in order, where it has a way to."""
        if callable(close := getattr(self._model, "close", None)):
            close()


def open_python(path: Path) -> PythonExecutor:
    """Makes the model of a version's folder, and runs it once. The folder's other modules can be imported by it.

    In a process of its own: what is set here is set for good.

    Raises:
        LoadFailed: there is no such class, or its signatures are none.
        Exception: whatever the user's code says.
    """
    # What Python would write beside the file would be a change of the version's files.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.path.insert(0, str(path))
    spec = importlib.util.spec_from_file_location("model", path / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, CLASS, None)
    if not callable(make):
        raise LoadFailed(f"{path / FILE} has no class {CLASS}")
    executor = PythonExecutor(make(path))
    executor.warm_up()
    return executor


def folder_bytes(path: Path) -> int:
    """What such a model may take: 64 MiB, and the files beside it once.

    Raises:
        OSError: a file can't be looked at.
    """
    return _WORKER_BYTES + sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _batches(model: Any) -> bool | None:
    said = getattr(model, "batches", None)
    if said not in (None, True, False):
        raise LoadFailed(f"{FILE}: {CLASS}.batches must be True or False, got {said!r:.200}")
    return None if said is None else bool(said)


def _signatures(given: Any, *, merged: bool) -> dict[str, Signature]:
    if not isinstance(given, Mapping) or not given:
        raise LoadFailed(f"{FILE}: {CLASS}.signatures must map names to inputs and outputs, got {given!r:.200}")
    return {name: _signature(name, parts, merged=merged) for name, parts in given.items()}


def _signature(name: Any, parts: Any, *, merged: bool) -> Signature:
    where = f"{FILE}: signature {name!r}"
    _check_name(where, name)
    if not isinstance(parts, Mapping) or not {"inputs", "outputs"} <= parts.keys() <= {"inputs", "outputs", "method"}:
        raise LoadFailed(
            f'{where} must have "inputs" and "outputs", and nothing else but a "method", got {parts!r:.200}'
        )
    if not isinstance(parts["outputs"], Mapping) or not parts["outputs"] or not isinstance(parts["inputs"], Mapping):
        raise LoadFailed(f"{where}: inputs and outputs must map names to (dtype, shape), and there must be an output")
    return Signature(
        name=name,
        inputs={key: _spec(f"{where}, input {key!r}", key, value) for key, value in parts["inputs"].items()},
        outputs={key: _spec(f"{where}, output {key!r}", key, value) for key, value in parts["outputs"].items()},
        method=str(parts.get("method", PREDICT)),
        mixes_rows=not merged,
    )


def _check_name(where: str, name: Any) -> None:
    """Refuses what no request could name."""
    if not isinstance(name, str) or not name:
        raise LoadFailed(f"{where}: a name must be a string, and not empty, got {name!r:.200}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LoadFailed(f"{where}: a name must be text that UTF-8 has, got {name!r:.200}") from None


def _spec(where: str, name: Any, given: Any) -> TensorSpec:
    _check_name(where, name)
    try:
        kind, shape = given
        dtype = np.dtype(object) if kind in ("string", "str", str, bytes, object) else np.dtype(kind)
        wire_dtype(dtype)
        sizes = None if shape is None else tuple(VARIABLE if size is None else int(size) for size in shape)
    except (TypeError, ValueError, TensorCodecError) as error:
        raise LoadFailed(f"{where} must be (dtype, shape), got {given!r:.200}: {error}") from error
    if sizes is not None and any(size < VARIABLE for size in sizes):
        raise LoadFailed(f"{where}: a size must be at least 0, or -1 where it may vary, got {given!r:.200}")
    return TensorSpec(name=name, dtype=dtype, shape=sizes)


def _outputs(signature: Signature, given: Any, *, copied: bool) -> dict[str, Array]:
    """What the model gave, as arrays of the signature's dtypes.

    Args:
        signature: What was run.
        given: By `predict`.
        copied: Whether nothing may be left that the model could change.

    Raises:
        TypeError: a name, dtype or shape is not the signature's, or a number is out of its dtype's range.
    """
    if not isinstance(given, Mapping) or given.keys() != signature.outputs.keys():
        names = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise TypeError(f"predict gave {names} for signature {signature.name!r}, which has {sorted(signature.outputs)}")
    outputs: dict[str, Array] = {}
    for name, spec in signature.outputs.items():
        if spec.dtype.kind == "O":
            array = _bytes(np.asarray(given[name], dtype=object))
        else:
            array = _numbers(name, spec, np.array(given[name]) if copied else np.asarray(given[name]))
        if not spec.accepts(array):
            raise TypeError(f"predict gave {name!r} as {array.dtype} {list(array.shape)}, its signature says {spec}")
        outputs[name] = array
    return outputs


def _numbers(name: str, spec: TensorSpec, array: Array) -> Array:
    """An array as the dtype of its output; whole numbers must fit."""
    if array.dtype == spec.dtype:
        return array
    if array.dtype.kind in "iu" and spec.dtype.kind in "iu" and array.size:
        bounds = np.iinfo(spec.dtype.name)
        for value in (int(array.min()), int(array.max())):
            if not bounds.min <= value <= bounds.max:
                raise TypeError(f"predict gave {value} in {name!r}, which is out of the range of {spec.dtype}")
    return array.astype(spec.dtype, casting="same_kind")


def _bytes(array: Array) -> Array:
    made = np.empty(array.shape, object)
    flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    made.reshape(-1)[:] = flat
    return made
