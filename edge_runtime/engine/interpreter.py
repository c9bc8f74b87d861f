"""The classic interpreter as a session, in this process: on the CPU, or with a delegate's library."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.artifact import VARIABLE
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.library import interpreter_module
from edge_runtime.engine.planned import Call, PlannedSession, Shape, explained
from edge_runtime.engine.tensors import GRAPH, check_tensors, details_of
from edge_runtime.errors import EngineFailed, EngineLost
from edge_runtime.types import Array, Arrays


class InterpreterSession(PlannedSession):
    """See `PlannedSession`."""

    def __init__(self, spec: SessionSpec, content: bytes) -> None:
        """Loads the file's bytes, and the delegate's library if the spec names one.

        The bytes are kept: interpreters for other shapes are made of the same ones that were verified, whatever
        happens to the file meanwhile. Every interpreter has a delegate of its own.

        Args:
            spec: What to open.
            content: The file.

        Raises:
            EngineFailed: the library or its device is not to be had, or refuses the file.
            PackageRefused: the file's tensors are not what the manifest says.
        """
        super().__init__(spec)
        self._content = content
        self._opened = False
        self._spare: Any = self._interpreter()
        self._single = len(spec.signatures) <= 1
        fixed = check_tensors(self._spare, spec)
        self.inputs = {name: tuple(shapes) for name, shapes in fixed.items()}
        if self._single:
            for name, shapes in fixed.items():
                if not any(VARIABLE in shape for shape in shapes.values()):
                    self.prepare(name, tuple(shapes.values()))
        self._opened = True

    def describe(self) -> str:
        """The device and the threads."""
        return f"{self.spec.device}, {self.spec.threads} threads"

    def plan(self, signature: str, shapes: dict[str, Shape]) -> Call:
        """An interpreter for these shapes."""
        if self._spare is not None:
            interpreter, self._spare = self._spare, None
        else:
            interpreter = self._interpreter()
        if self._single and _is_primary(interpreter, signature):
            return _PrimaryCall(interpreter, signature, shapes)
        return _RunnerCall(interpreter, signature)

    def close(self) -> None:
        """Lets go of the interpreters and their delegates."""
        super().close()
        self._spare = None

    def _interpreter(self) -> Any:
        module = interpreter_module()
        delegates = [self._delegate(module)] if self.spec.library else None
        try:
            return module.Interpreter(
                model_content=self._content, num_threads=self.spec.threads, experimental_delegates=delegates
            )
        except (RuntimeError, ValueError, MemoryError, ImportError) as error:
            raise EngineFailed(f"{self.spec.subject}: {self.spec.device} can't load it: {explained(error)}") from error

    def _delegate(self, module: Any) -> Any:
        """Loads the library and opens its device.

        Raises:
            EngineLost: it worked before, and does not now: the device is gone.
            EngineFailed: it does not work.
        """
        try:
            _check_exports(self.spec.library)
            return module.load_delegate(self.spec.library, self.spec.options)
        except (RuntimeError, ValueError, OSError) as error:
            text = f"{self.spec.subject}: {self.spec.device}: {explained(error)}"
            if self._opened:
                raise EngineLost(text, "vanished") from error
            raise EngineFailed(text) from error


def _check_exports(library: str) -> None:
    """Refuses what is no delegate before `load_delegate` is asked, which prints a second error while it cleans up.

    Raises:
        OSError: it can't be loaded, or is another kind of library.
    """
    import ctypes  # noqa: PLC0415  which the interpreter's module has loaded by now

    if not hasattr(ctypes.CDLL(library), "tflite_plugin_create_delegate"):
        raise OSError(f"{library} is no delegate: it exports no tflite_plugin_create_delegate")


def _is_primary(interpreter: Any, signature: str) -> bool:
    """Whether the signature is of the graph that the interpreter's own methods reach, the file's first.

    LiteRT does not say which graph a signature is of. The only signature of a file is of the first one, if its tensors
    are that one's.
    """
    found = interpreter.get_signature_list()
    if signature == GRAPH or not found:
        return True
    if len(found) != 1:
        return False
    inputs, outputs = details_of(interpreter, signature)
    own = {(detail["index"], detail["name"]) for detail in interpreter.get_input_details()}
    results = {(detail["index"], detail["name"]) for detail in interpreter.get_output_details()}
    return own >= {(detail["index"], detail["name"]) for detail in inputs.values()} and results >= {
        (detail["index"], detail["name"]) for detail in outputs.values()
    }


class _PrimaryCall:
    """The only signature of a file is its primary subgraph: tensors by index, the shortest way in and out."""

    def __init__(self, interpreter: Any, signature: str, shapes: dict[str, Shape]) -> None:
        inputs, outputs = details_of(interpreter, signature)
        for name, shape in shapes.items():
            # Some delegates take the file's own shapes only, and refuse to be asked at all.
            if tuple(inputs[name]["shape"]) != shape:
                interpreter.resize_tensor_input(inputs[name]["index"], shape)
        interpreter.allocate_tensors()
        self._inputs = tuple((name, int(detail["index"])) for name, detail in inputs.items())
        self._outputs = tuple((name, int(detail["index"])) for name, detail in outputs.items())
        self._set, self._get, self._invoke = interpreter.set_tensor, interpreter.get_tensor, interpreter.invoke
        self._interpreter = interpreter

    def __call__(self, inputs: Arrays) -> Arrays:
        set_tensor, get = self._set, self._get
        for name, index in self._inputs:
            set_tensor(index, inputs[name])
        self._invoke()
        return {name: get(index) for name, index in self._outputs}


class _RunnerCall:
    """One of several signatures: LiteRT's own runner knows its subgraph."""

    def __init__(self, interpreter: Any, signature: str) -> None:
        self._run = interpreter.get_signature_runner(signature)

    def __call__(self, inputs: Arrays) -> Arrays:
        outputs: dict[str, Array] = self._run(**inputs)
        return {name: np.asarray(value) for name, value in outputs.items()}
