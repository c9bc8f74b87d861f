"""Runs ONNX files with ONNX Runtime, which the extra `onnx` brings; in a worker process."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fallback_server.core.errors import InvalidInput, LoadFailed, VersionRefused
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import VARIABLE, Array, RunSizes, Signature, TensorSpec
from fallback_server.executors.definitions import PREDICT, definitions
from fallback_server.executors.probing import tried
from fallback_server.executors.timing import Timed
from fallback_server.executors.worker.executor import WorkerExecutor, open_in_plain_worker
from fallback_server.executors.worker.nursery import Nursery

FILE = "model.onnx"

SIGNATURE = "serving_default"
"""What the only graph of a file is called: what a request means that names none."""

_LIBRARY = "onnxruntime"
_EXTRA = "pip install 'edge-runtime[onnx]'"

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "string": "object",
}
"""ONNX Runtime's words for the elements of `tensor(...)`."""

_WORKER_BYTES = 2**27
_ERRORS = 3
_FATAL = 4
"""ONNX Runtime's levels: what it logs of a run that fails is told to whoever asked for it."""

_LACKING_MEMORY = ("bad_alloc", "Failed to allocate memory", "allocation failed")


class OnnxExecutor:
    """An ONNX file in a session of its own. See `Executor`.

    Args:
        session: ONNX Runtime's InferenceSession.

    Attributes:
        run_s: How long one row takes; 0 before `warm_up`, and where that could not run.

    Raises:
        LoadFailed: it takes or gives what has no place in a request.
    """

    kind = "onnx"
    platform = "onnx"
    in_process = True

    def __init__(self, session: Any) -> None:
        self._session = session
        self._quiet = _quiet()
        self._has_run = False
        self.run_s = 0.0
        signature = Signature(
            name=SIGNATURE,
            inputs={each.name: _spec(each) for each in session.get_inputs()},
            outputs={each.name: _spec(each) for each in session.get_outputs()},
            method=PREDICT,
        )
        self._outputs = tuple(signature.outputs)
        self._strings = any(
            spec.dtype.kind == "O" for spec in (*signature.inputs.values(), *signature.outputs.values())
        )
        self._signatures = {SIGNATURE: signature}
        self._signature_defs = definitions([signature])

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name: one."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the signature; see `Executor.run`."""
        del signature  # There is one.
        given = {name: _texts(name, value) for name, value in inputs.items()} if self._strings else dict(inputs)
        try:
            values = self._session.run(self._outputs, given, self._quiet)
        except _failures() as error:
            if not self._refuses(error):
                raise
            raise InvalidInput(f"the model refused the values: {' '.join(str(error).split())}") from error
        self._has_run = True
        outputs = {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}
        return {name: _bytes(value) for name, value in outputs.items()} if self._strings else outputs

    def warm_up(self) -> None:
        """Runs it on what can be made up, and sees whether rows mix."""
        run = Timed(functools.partial(self.run, SIGNATURE))
        self._signatures[SIGNATURE] = tried(run, self._signatures[SIGNATURE])
        self.run_s = run.least_s

    def close(self) -> None:
        """Frees the session."""
        self._session = None

    def _refuses(self, error: Exception) -> bool:
        """Whether it is for the values that a run has failed.

        ONNX Runtime says so of few operators; of others, whose shapes don't go together, only that they failed. A graph
        that has run, keeps nothing and lacks no memory fails for what it was given.
        """
        if isinstance(error, _failures()[0]):
            return True
        return self._has_run and not any(word in str(error) for word in _LACKING_MEMORY)


def open_onnx(path: Path, *, threads: int) -> OnnxExecutor:
    """Loads the ONNX file of a version's folder, and runs it once. In a worker.

    Raises:
        LoadFailed: it can't be served.
        Exception: whatever ONNX Runtime says of the file.
    """
    import onnxruntime  # noqa: PLC0415  an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(str(path / FILE), options, providers=["CPUExecutionProvider"])
    executor = OnnxExecutor(session)
    executor.warm_up()
    return executor


def open_onnx_in_worker(
    path: Path,
    *,
    nursery: Nursery,
    threads: int,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes | None = None,
) -> WorkerExecutor:
    """Loads it in a process of its own; see `open_in_plain_worker`.

    Raises:
        VersionRefused: ONNX Runtime is not installed.
        LoadFailed: it can't be loaded.
    """
    if importlib.util.find_spec(_LIBRARY) is None:
        raise VersionRefused(f"{path / FILE} needs ONNX Runtime, which is not installed; it is an extra: {_EXTRA}")
    return open_in_plain_worker(
        path, kind="onnx", nursery=nursery, threads=threads, title=title, on_lost=on_lost, stop=stop, sizes=sizes
    )


def onnx_bytes(path: Path) -> int:
    """What it may take: 128 MiB, and the file, with the weights that may lie beside it, twice.

    Raises:
        OSError: a file can't be looked at.
    """
    return _WORKER_BYTES + 2 * sum(file.stat().st_size for file in path.iterdir() if file.is_file())


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What a run may raise; the first for the values alone."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415  an extra

    return (state.InvalidArgument, state.Fail, state.RuntimeException)


def _quiet() -> Any:
    """Options of a run that logs no failures."""
    import onnxruntime  # noqa: PLC0415  an extra

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


def _spec(node: Any) -> TensorSpec:
    element = str(node.type).removeprefix("tensor(").removesuffix(")")
    if element not in _DTYPES:
        raise LoadFailed(f"{node.name!r} is {node.type}: only dense tensors of numbers and strings can be sent")
    # ONNX Runtime shows a scalar as it shows a shape that the file doesn't tell.
    shape = tuple(size if isinstance(size, int) else VARIABLE for size in node.shape) or None
    return TensorSpec(name=node.name, dtype=np.dtype(_DTYPES[element]), shape=shape)


def _texts(name: str, value: Array) -> Array:
    """Strings as ONNX has them: texts in UTF-8."""
    if value.dtype.kind != "O":
        return value
    made = np.empty(value.shape, object)
    try:
        made.reshape(-1)[:] = [item.decode() for item in value.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise InvalidInput(f"input {name!r}: ONNX takes strings in UTF-8 alone") from None
    return made


def _bytes(value: Array) -> Array:
    if value.dtype.kind not in "OU":
        return value
    made = np.empty(value.shape, object)
    made.reshape(-1)[:] = [item if isinstance(item, bytes) else str(item).encode() for item in value.reshape(-1)]
    return made
