"""The interpreter without a runtime around it: what an engine is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.artifact import Signature
from edge_runtime.engine.library import interpreter_module
from edge_runtime.engine.tensors import GRAPH, details_of
from edge_runtime.inputs import zeros


def bare_call(content: bytes, signature: Signature, rows: int, threads: int) -> Callable[[], object]:
    """One call as a program without this package makes it: `set_tensor`, `invoke`, `get_tensor`, planned beforehand.

    Args:
        content: The file.
        signature: One of the file's own, with its own dtypes; of a file with several, LiteRT's runner is called.
        rows: Of one call; zeros go in.
        threads: The interpreter's.

    Raises:
        RuntimeError, ValueError: LiteRT can't load the file, or refuses the shapes.
        EngineFailed: no interpreter is installed.
    """
    interpreter = interpreter_module().Interpreter(model_content=content, num_threads=threads)
    names = interpreter.get_signature_list()
    inputs = zeros(signature, rows)
    if len(names) > 1:
        runner = interpreter.get_signature_runner(signature.name)
        return lambda: runner(**inputs)
    tensors, results = details_of(interpreter, signature.name if signature.name in names else GRAPH)
    given = [(int(tensors[name]["index"]), array) for name, array in inputs.items()]
    asked = [int(detail["index"]) for detail in results.values()]
    for index, array in given:
        interpreter.resize_tensor_input(index, array.shape)
    interpreter.allocate_tensors()
    return _plain(interpreter, given, asked)


def _plain(interpreter: Any, given: list[tuple[int, Any]], asked: list[int]) -> Callable[[], object]:
    set_tensor, invoke, get_tensor = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor

    def call() -> object:
        for index, array in given:
            set_tensor(index, array)
        invoke()
        return [get_tensor(index) for index in asked]

    return call
