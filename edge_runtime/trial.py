"""Tries a delegate in a process of its own, where a library that crashes or hangs harms nobody.

The parent calls `try_delegate`. The child is this very file, `python -P trial.py NAME [LIBRARY]`, and its last line on
standard output is its answer in JSON; a child that dies or hangs has given its answer as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TRIAL_LIMIT_S = 30.0
"""An Edge TPU that is stuck says so after 12 s at the earliest; loading the interpreter on a slow board takes a few."""

_REAP_LIMIT_S = 2.0
"""A killed process ends at once unless a driver holds it in the kernel; then it is left behind."""

_MAX_STDERR_BYTES = 2000
"""The end of what a library printed, where its reason stands."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of it.

    Attributes:
        name: The delegate.
        ok: Whether all that can be tried worked.
        ran_model: Whether a model was run on the delegate itself, and gave the right result.
        detail: What was done; empty unless `ok`.
        error: The raw text, with what the library printed; empty if `ok`.
    """

    name: str
    ok: bool
    ran_model: bool = False
    detail: str = ""
    error: str = ""


def try_delegate(name: str, *, library: str | None = None, limit_s: float = TRIAL_LIMIT_S) -> Trial:
    """Loads a delegate in a child process.

    Args:
        name: `cpu` runs a model; `edgetpu` loads the library and prepares a model with it; `gpu` loads the Vulkan
            loader.
        library: The shared library, by name or path; `cpu` has none.
        limit_s: How long the child may take before it is killed.
    """
    # By path, so that the child loads the interpreter and nothing of this package. -P keeps this folder off its path:
    # files here are called as modules of the standard library are.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), name, *([library] if library else [])]
    # The child finds the interpreter wherever the parent found it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}  # noqa: PTH100 - "" means the current directory here
    # Files, not pipes: a library's own child that lives on would keep a pipe open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
        status = _wait(child, limit_s)
        return _outcome(name, status, limit_s, answer=_end_of(stdout), printed=_end_of(stderr))


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit status, negative for a signal; None for a child that had to be killed."""
    try:
        return child.wait(limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_REAP_LIMIT_S)
    return None


def _end_of(file: IO[bytes]) -> str:
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _MAX_STDERR_BYTES))
    return file.read().decode("utf-8", errors="replace").strip()


def _outcome(name: str, status: int | None, limit_s: float, *, answer: str, printed: str) -> Trial:
    if status is None:
        return Trial(name=name, ok=False, error=f"no answer within {limit_s:g} s\n{printed}".strip())
    if status < 0:
        return Trial(name=name, ok=False, error=f"killed by {_signal_name(-status)}\n{printed}".strip())
    try:
        fields = json.loads(answer.splitlines()[-1])
        trial = Trial(name=name, **fields)
    except (IndexError, TypeError, ValueError):
        return Trial(name=name, ok=False, error=f"ended with status {status} and no answer\n{printed}".strip())
    return trial if trial.ok else Trial(name=name, ok=False, error=f"{trial.error}\n{printed}".strip())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _try_cpu(library: str) -> dict[str, Any]:
    del library
    _run_add_model(delegates=None)
    return {"ran_model": True, "detail": "a small model ran and gave the right sums"}


def _try_edgetpu(library: str) -> dict[str, Any]:
    from ai_edge_litert.interpreter import load_delegate  # noqa: PLC0415 - its crash is what this process is for

    delegate = load_delegate(library)
    # Loading alone does not show it: a library for another TensorFlow Lite crashes when it is handed a model.
    _run_add_model(delegates=[delegate])
    return {"detail": f"{library} loaded, opened its device and was handed a small model"}


def _try_gpu(library: str) -> dict[str, Any]:
    ctypes.CDLL(library)
    return {"detail": f"{library}, the Vulkan loader, loads; no model was run on the GPU"}


_TRIES: dict[str, Callable[[str], dict[str, Any]]] = {"cpu": _try_cpu, "edgetpu": _try_edgetpu, "gpu": _try_gpu}


def _run_add_model(delegates: list[Any] | None) -> None:
    """Runs x + y and compares.

    Raises:
        RuntimeError: the interpreter says so, or the sums are wrong.
    """
    import numpy as np  # noqa: PLC0415 - as the interpreter, a broken installation of it must only end the child
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - likewise

    interpreter = Interpreter(model_content=_add_model(), num_threads=1, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    for details, values in zip(interpreter.get_input_details(), ([1, 2], [10, 20]), strict=True):
        interpreter.set_tensor(details["index"], np.array(values, dtype=np.float32))
    interpreter.invoke()
    sums = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist()
    if sums != [11, 22]:
        raise RuntimeError(f"[1, 2] + [10, 20] gave {sums}")


def _add_model() -> bytes:
    """A TFLite model of one float32 ADD of two vectors of shape (2,)."""
    import flatbuffers  # type: ignore[import-untyped]  # noqa: PLC0415 - ships no types; imported here as above
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415 - 0.2 s, for this process only

    tensors = []
    for name in ("x", "y", "sum"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [2], schema.TensorType.FLOAT32, 0
        tensors.append(tensor)
    add = schema.OperatorT()
    add.inputs, add.outputs = [0, 1], [2]
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0, 1], [2], [add]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _child(arguments: list[str]) -> int:
    """Tries one delegate and answers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, and its memory image of no use
    name, library = arguments[0], arguments[1] if len(arguments) > 1 else ""
    try:
        answer = {"ok": True, **_TRIES[name](library)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        answer = {"ok": False, "error": str(error) or type(error).__name__}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    sys.stdout.flush()
    # The answer stands; a library that crashes while it is being unloaded may do so in an application as well.
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
