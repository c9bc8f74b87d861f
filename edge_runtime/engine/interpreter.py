"""The classic LiteRT interpreter as a session, in this process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

import numpy as np

from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.tensors import check_tensors
from edge_runtime.errors import EngineFailed
from edge_runtime.types import Array, Arrays

_Shapes = tuple[tuple[int, ...], ...]

_MAX_SHAPES = 4
"""Interpreters kept for different input shapes. Each holds its own packed weights, so that more would cost memory;
fewer would re-plan the graph whenever batch sizes alternate."""


class _Call(Protocol):
    """An interpreter planned for fixed input shapes."""

    def __call__(self, inputs: Arrays) -> Arrays: ...


class InterpreterSession:
    """See `Session`. Not thread-safe.

    Attributes:
        slots: 1.
    """

    slots = 1

    def __init__(self, spec: SessionSpec, content: bytes) -> None:
        """Loads the file's bytes.

        They are kept: interpreters for other shapes are made of the same bytes that were verified, whatever happens
        to the file meanwhile.

        Args:
            spec: What to open.
            content: The file.

        Raises:
            EngineFailed: LiteRT refuses the file.
            PackageRefused: the file's tensors are not what the manifest says.
        """
        self._spec = spec
        self._content = content
        self._single = len(spec.signatures) == 1
        self._inputs = {one.name: tuple(each.name for each in one.inputs) for one in spec.signatures}
        self._calls: OrderedDict[tuple[str, _Shapes], _Call] = OrderedDict()
        self._spare: Any = self._interpreter()
        check_tensors(self._spare, spec)

    def __repr__(self) -> str:
        shapes = [list(shapes) for _, shapes in self._calls]
        return f"<InterpreterSession {self._spec.threads} threads, planned for {shapes}>"

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:  # noqa: ARG002  can't be interrupted
        """See `Session`."""
        key = (signature, tuple([inputs[name].shape for name in self._inputs[signature]]))
        call = self._calls.get(key)
        try:
            if call is None:
                call = self._plan(key)
            else:
                self._calls.move_to_end(key)
            return call(inputs)
        except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            self._calls.pop(key, None)
            raise EngineFailed(f"{self._spec.subject}, signature {signature!r}: {error}") from error

    def close(self) -> None:
        """Lets go of the interpreters."""
        self._calls.clear()
        self._spare = None

    def _plan(self, key: tuple[str, _Shapes]) -> _Call:
        """An interpreter for these shapes; the one that was used longest ago gives way."""
        signature, shapes = key
        if self._spare is not None:
            interpreter, self._spare = self._spare, None
        else:
            if len(self._calls) >= _MAX_SHAPES:
                self._calls.popitem(last=False)
            interpreter = self._interpreter()
        call: _Call = (
            _PrimaryCall(interpreter, signature, dict(zip(self._inputs[signature], shapes, strict=True)))
            if self._single
            else _RunnerCall(interpreter, signature)
        )
        self._calls[key] = call
        return call

    def _interpreter(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  loaded with the first engine, not at import

        try:
            return Interpreter(model_content=self._content, num_threads=self._spec.threads)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineFailed(f"{self._spec.subject}: LiteRT can't load it: {error}") from error


class _PrimaryCall:
    """The only signature of a file is its primary subgraph: tensors by index, the shortest way in and out."""

    def __init__(self, interpreter: Any, signature: str, shapes: dict[str, tuple[int, ...]]) -> None:
        inputs, outputs = _indices(interpreter, signature)
        for name, shape in shapes.items():
            interpreter.resize_tensor_input(inputs[name], shape)
        interpreter.allocate_tensors()
        self._inputs = tuple(inputs.items())
        self._outputs = tuple(outputs.items())
        self._set, self._get, self._invoke = interpreter.set_tensor, interpreter.get_tensor, interpreter.invoke
        self._interpreter = interpreter

    def __call__(self, inputs: Arrays) -> Arrays:
        for name, index in self._inputs:
            self._set(index, inputs[name])
        self._invoke()
        get = self._get
        return {name: get(index) for name, index in self._outputs}


def _indices(interpreter: Any, signature: str) -> tuple[dict[str, int], dict[str, int]]:
    """The tensors' indices by name.

    The runner must be gone afterwards: while it holds the interpreter's inside, LiteRT refuses to resize and to run.
    """
    runner = interpreter.get_signature_runner(signature)
    inputs = {name: int(detail["index"]) for name, detail in runner.get_input_details().items()}
    outputs = {name: int(detail["index"]) for name, detail in runner.get_output_details().items()}
    return inputs, outputs


class _RunnerCall:
    """One of several signatures: LiteRT's own runner knows its subgraph."""

    def __init__(self, interpreter: Any, signature: str) -> None:
        self._run = interpreter.get_signature_runner(signature)

    def __call__(self, inputs: Arrays) -> Arrays:
        outputs: dict[str, Array] = self._run(**inputs)
        return {name: np.asarray(value) for name, value in outputs.items()}
