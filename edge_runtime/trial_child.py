"""The child process of `edge_runtime.trial`: does one thing that may end it, and answers in JSON.

`python -P trial_child.py REQUEST`, the request in JSON as well: `what` to do, and its arguments. The answer is the last
line on standard output. It is run by its path, so that it loads the interpreter and nothing of this package,
which only a package's first run needs; -P keeps this folder off its path, since files here are called as modules of the
standard library are.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

ADD_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAABAEAAAMAAAABAAAABAAAAAT///8BAAAAEAAAAAwAFAAQAAwACAAEAAwAAAAQ"
    "AAAAUAAAAFQAAABcAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABAAAAAAAAALDAAAABAAAABc////AQAAAAIAAAACAAAAAAAAAAEA"
    "AAABAAAAAgAAAAIAAAAAAAAAAQAAAAMAAABQAAAAJAAAAAQAAADI////CAAAAAwAAAADAAAAc3VtAAEAAAACAAAA5P///wgAAAAMAAAAAQAA"
    "AHkAAAABAAAAAgAAAAwADAAIAAAAAAAEAAwAAAAIAAAADAAAAAEAAAB4AAAAAQAAAAIAAAABAAAACAAAAAQABAAEAAAA"
)
"""A TFLite file of one float32 ADD of two vectors of shape (2,), as tests/support/add_models.py writes it: here as it
stands, since tflite_runtime has no schema to make it with."""

_SECONDS_TO_BE_KILLED_IN = 5.0
"""Past its limit the parent kills this process; a parent that is dead does not."""

_PR_SET_PDEATHSIG = 1

_MAX_ERROR_CHARACTERS = 1500

_SOURCE_LINE = re.compile(r"^(└ )?(ERROR: \[[^\]]*\]\s*)?", re.MULTILINE)
"""Where in LiteRT's source an error arose stands in lines of their own before its text, which may be missing."""

NO_NPU = "no NPU accelerator found hardware that it can use"
NO_COMPILED_MODEL = "tflite_runtime has no CompiledModel"


def _interpreter() -> Any:
    """The interpreter's module."""
    try:
        from ai_edge_litert import interpreter  # noqa: PLC0415  a broken installation of it must only be an answer
    except ModuleNotFoundError as error:
        if error.name != "ai_edge_litert":
            raise
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found]  # noqa: PLC0415
        except ModuleNotFoundError:
            raise error from None
    return interpreter


def _try_cpu(library: str, options: dict[str, str]) -> dict[str, Any]:
    del library, options
    module = _interpreter()
    _add_on(module.Interpreter(model_content=ADD_MODEL, num_threads=1))
    return {"ran_model": True, "detail": "a small model ran and gave the right sums"}


def _try_library(library: str, options: dict[str, str]) -> dict[str, Any]:
    """Loads it and hands it a model, whether it takes the model's only operator or not.

    Loading alone does not show it: a library for another TensorFlow Lite crashes when it is handed a model.
    """
    module = _interpreter()
    delegate = module.load_delegate(library, options)
    interpreter = module.Interpreter(
        model_content=ADD_MODEL,
        num_threads=1,
        experimental_delegates=[delegate],
        # Else XNNPACK takes what the library leaves, and it can't be told who ran it.
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    _add_on(interpreter)
    # No public call tells it.
    ran = any(one["op_name"] == "DELEGATE" for one in interpreter._get_ops_details())  # noqa: SLF001
    done = "ran a small model" if ran else "was handed a small model"
    return {"ran_model": ran, "detail": f"{library} loaded, opened its device and {done}"}


def _add_on(interpreter: Any) -> None:
    import numpy as np  # noqa: PLC0415  as the interpreter

    interpreter.allocate_tensors()
    for details, values in zip(interpreter.get_input_details(), ([1, 2], [10, 20]), strict=True):
        interpreter.set_tensor(details["index"], np.array(values, dtype=np.float32))
    interpreter.invoke()
    _check(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist())


def _check(sums: list[float]) -> None:
    if sums != [11, 22]:
        raise RuntimeError(f"[1, 2] + [10, 20] gave {sums}")


def _try_gpu(library: str, options: dict[str, str]) -> dict[str, Any]:
    del library, options  # the accelerator finds the driver by itself
    _add_compiled("GPU")
    return {"ran_model": True, "detail": "a small model ran on the GPU and gave the right sums"}


def _try_npu(library: str, options: dict[str, str]) -> dict[str, Any]:
    del library, options  # likewise
    try:
        _add_compiled("NPU")
    except RuntimeError as error:
        if "Some ops are not accelerated" not in str(error):  # what LiteRT says when no accelerator took anything
            raise
        raise RuntimeError(NO_NPU) from error
    return {"ran_model": True, "detail": "a small model ran on the NPU and gave the right sums"}


def _add_compiled(accelerator: str) -> None:
    module = _interpreter()
    if not module.__name__.startswith("ai_edge_litert"):
        raise RuntimeError(f"{NO_COMPILED_MODEL}, without which there is no {accelerator}")
    import numpy as np  # noqa: PLC0415  as the interpreter
    from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator  # noqa: PLC0415  likewise

    model = CompiledModel.from_buffer(ADD_MODEL, hardware_accel=HardwareAccelerator[accelerator])
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    for buffer, values in zip(inputs, ([1, 2], [10, 20]), strict=True):
        buffer.write(np.array(values, dtype=np.float32))
    model.run_by_index(0, inputs, outputs)
    _check(np.asarray(outputs[0].read(2, np.float32)).tolist())


def _list_edge_tpus(library: str, options: dict[str, str]) -> dict[str, Any]:
    """What pycoral sees, in the order in which libedgetpu numbers them."""
    del library, options
    from pycoral.utils.edgetpu import list_edge_tpus  # type: ignore[import-not-found]  # noqa: PLC0415  loads a library

    return {"edge_tpus": [{"type": one["type"], "path": one["path"]} for one in list_edge_tpus()]}


def _run_package(library: str, options: dict[str, str]) -> dict[str, Any]:
    """A package's first run, which takes all of the runtime."""
    del library
    from edge_runtime.errors import EdgeRuntimeError, PackageRefused  # noqa: PLC0415  no other deed needs these
    from edge_runtime.inputs import zeros  # noqa: PLC0415  likewise
    from edge_runtime.runtime import Runtime  # noqa: PLC0415  likewise

    try:
        # Without a cache, in which the profile might be found and so not be written.
        with Runtime.open(options["path"], cache=None, poll_interval_s=3600.0) as runtime:
            model = runtime.model()
            reply = model.predict(zeros(model.signature, 1))
    except EdgeRuntimeError as error:
        return {"refused": " ".join(str(error).split()), "damaged": isinstance(error, PackageRefused)}
    return {"place": reply.place}


def _run_variant(library: str, options: dict[str, str]) -> dict[str, Any]:
    """Signatures of a variant of a package, each once, on the CPU: an application may ask for any of them.

    What is refused there (a file for an Edge TPU, say), or is too large for this device, is refused to whoever asks for
    it, too, and ends nobody. Any other fault is the answer: what came of the file is not known then.
    """
    del library
    from converter.artifact import Package  # noqa: PLC0415  no other deed needs these
    from edge_runtime.engine.base import SessionSpec  # noqa: PLC0415  likewise
    from edge_runtime.engine.delegates import open_session  # noqa: PLC0415  likewise
    from edge_runtime.errors import EdgeRuntimeError  # noqa: PLC0415  likewise
    from edge_runtime.inputs import zeros  # noqa: PLC0415  likewise

    package, tried = Package.open(options["path"], verify=False), 0
    variant = next(one for one in package.manifest.variants if one.name == options["variant"])
    wanted = options.get("signature")
    try:
        content = package.read(variant.file)
    except MemoryError:
        return {"tried": 0}
    spec = SessionSpec(subject=f"{package}, {variant.name}", signatures=variant.signatures)
    for signature in variant.signatures:
        if wanted not in (None, signature.name):
            continue
        print(f"variant {variant.name}, signature {signature.name}", file=sys.stderr, flush=True)  # noqa: T201  so it is known what crashed
        with contextlib.suppress(EdgeRuntimeError, MemoryError):
            session = open_session(spec, content)
            try:
                session.run(signature.name, zeros(signature, 1))
                tried += 1
            finally:
                session.close()
    return {"tried": tried}


_DEEDS: dict[str, Callable[[str, dict[str, str]], dict[str, Any]]] = {
    "cpu": _try_cpu,
    "edgetpu": _try_library,
    "external": _try_library,
    "gpu": _try_gpu,
    "npu": _try_npu,
    "list_edge_tpus": _list_edge_tpus,
    "package": _run_package,
    "variant": _run_variant,
}


def _text_of(error: Exception) -> str:
    """Empty where LiteRT gives none: then the reason is among what it printed."""
    if isinstance(error, MemoryError) and not str(error):
        return "needs more memory to run than this machine gives"
    lines = _SOURCE_LINE.sub("", str(error)).splitlines()
    return "\n".join(filter(None, lines))


def _end_with(parent: int) -> None:
    """Ends with the process that waits for the answer, which may be killed: the device is held no longer then."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  only here

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked to tell
        sys.exit(1)
    # Whoever sends it does not mean the library, which would be blamed for an exception in the midst of it.
    # An application may ignore these, as under nohup; a trial must end by them all the same.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _child(request: dict[str, Any]) -> int:
    """Does what is asked, and answers."""
    _end_with(request["parent"])
    # A model may be larger than what is ever used here: where memory runs out this process goes, and no other.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123  pathlib is not loaded otherwise
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, and its memory image of no use
    sys.unraisablehook = lambda _: None  # a delegate that was not made can't be unmade either, and says so at length
    signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + _SECONDS_TO_BE_KILLED_IN)
    try:
        answer = {"ok": True, **_DEEDS[request["what"]](request["library"], request["options"])}
    except Exception as error:  # noqa: BLE001  whatever it is, it is the answer
        answer = {"ok": False, "error": _text_of(error)[:_MAX_ERROR_CHARACTERS]}
    try:
        sys.stdout.write(f"\n{json.dumps(answer)}\n")
        sys.stdout.flush()
    except OSError:
        os._exit(os.EX_IOERR)  # What is known to the parent; an exit of Python's would try once more, and say so.
    # The answer stands; a library that crashes while it is being unloaded may do so in an application as well.
    return 0


if __name__ == "__main__":
    sys.exit(_child(json.loads(sys.argv[1])))
