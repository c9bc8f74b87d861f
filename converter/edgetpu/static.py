"""Makes a TFLite file's sizes fixed, with a batch of one, as the Edge TPU's compiler needs them.

A batch that the caller chooses leaves more behind than a -1 in some shapes: where a model flattens, it computes the
new shape from the input's, by SHAPE, STRIDED_SLICE and PACK, which no Edge TPU takes. With fixed sizes those values
are constants, so they are written into the file and their operators are dropped. Weights and quantization stay bit
for bit what they were. Loads LiteRT: only in a child process.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter import graph_edit
from converter.artifact import VARIABLE
from converter.errors import VariantUnusable
from converter.graph import Graph, Operator, Tensor, read

MAX_FOLDED_ELEMENTS = 4_096
"""Of a value that becomes a constant: shapes and axes are short, and a file must not grow by more than it sheds."""

_FOLDABLE_DTYPES = frozenset({"int32", "int64", "bool"})

_NEVER_FOLDED = frozenset(
    {"CALL_ONCE", "IF", "WHILE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "MULTINOMIAL", "CUSTOM"}
    | {"HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "RANDOM_UNIFORM"}
    | {"RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RNN", "LSTM", "SVDF"}
)

_Array = npt.NDArray[Any]


def static_batch(file: Path, out: Path) -> None:
    """Writes the file with fixed sizes to `out`; a file whose sizes are fixed already is copied as it is.

    Raises:
        SourceInvalid: see `graph.read`.
        VariantUnusable: it has several subgraphs, a variable dimension other than the batch, or sizes that depend
            on values; the message names it.
    """
    graph = read(file)
    if not needed(graph):
        shutil.copyfile(file, out)
        return
    if graph.subgraphs != 1:
        raise VariantUnusable(f"variable sizes in a file with {graph.subgraphs} subgraphs can't be fixed")
    shapes = {tensor.index: _fixed(tensor) for tensor in graph.inputs}
    try:
        sizes, values = _run(file, graph, shapes)
    except (RuntimeError, ValueError) as error:
        raise VariantUnusable(f"it does not run with fixed sizes: {error}") from error
    model = graph_edit.load(file)
    subgraph = model.subgraphs[0]
    for index, tensor in enumerate(subgraph.tensors):
        if index in sizes:
            tensor.shape = np.asarray(sizes[index], np.int32)
        tensor.shapeSignature = None
    kept = _fold(graph, values, model)
    subgraph.operators = [subgraph.operators[index] for index in kept]
    graph_edit.drop_unused_codes(model)
    graph_edit.save(model, out)


def needed(graph: Graph) -> bool:
    """Whether a size is the caller's choice."""
    every = (*graph.inputs, *graph.outputs, *(one for operator in graph.operators for one in operator.outputs))
    return any(tensor.dynamic for tensor in every)


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    if VARIABLE in tensor.shape[1:]:
        raise VariantUnusable(f"input {tensor} has a variable dimension besides the batch: fix it (--shape)")
    return tuple(1 if size == VARIABLE else size for size in tensor.shape)


def _run(
    file: Path, graph: Graph, shapes: Mapping[int, tuple[int, ...]]
) -> tuple[dict[int, tuple[int, ...]], dict[int, _Array]]:
    """Runs the file at these sizes: every computed tensor's shape, and the values that no input has a part in."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415  only in a child

    # A delegate would compute several operators as one, and leave the tensors between them empty.
    interpreter = Interpreter(
        model_path=str(file),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    for index, shape in shapes.items():
        interpreter.resize_tensor_input(index, shape)
    interpreter.allocate_tensors()
    computed = [tensor.index for operator in graph.operators for tensor in operator.outputs]
    found = []
    for value in (0, 1):
        for tensor in graph.inputs:
            interpreter.set_tensor(tensor.index, _filled(tensor, shapes[tensor.index], value))
        interpreter.invoke()
        shapes_now = {int(one["index"]): one["shape"] for one in interpreter.get_tensor_details()}
        found.append({index: tuple(int(size) for size in shapes_now[index]) for index in computed})
    differing = [index for index in computed if found[0][index] != found[1][index]]
    if differing:
        names = {one.index: one.name for operator in graph.operators for one in operator.outputs}
        raise VariantUnusable(f"the size of {names[differing[0]]!r} depends on the input's values")
    known = _known(graph)
    values = {index: np.array(interpreter.get_tensor(index)) for index in computed if index in known}
    return {**found[0], **shapes}, values


def _filled(tensor: Tensor, shape: tuple[int, ...], value: int) -> _Array:
    if tensor.dtype == "string":
        return np.full(shape, b"", object)
    return np.full(shape, value, np.dtype(tensor.dtype))


def _known(graph: Graph) -> set[int]:
    """The tensors whose values follow from constants and fixed sizes alone."""
    known: set[int] = set()
    for operator in graph.operators:
        if operator.custom or operator.name in _NEVER_FOLDED:
            continue
        fixed = operator.name in ("SHAPE", "RANK") or all(one.constant or one.index in known for one in operator.given)
        if fixed and all(one.dtype in _FOLDABLE_DTYPES for one in operator.outputs):
            known.update(one.index for one in operator.outputs)
    return known


def _fold(graph: Graph, values: Mapping[int, _Array], model: Any) -> Sequence[int]:
    """Writes the known values into the model; the places of the operators that are left."""
    results = {tensor.index for tensor in graph.outputs}
    kept = [one.index for one in graph.operators if not _foldable(one, values, results)]
    needed_values = {tensor.index for place in kept for tensor in graph.operators[place].given}
    produced = {tensor.index for place in kept for tensor in graph.operators[place].outputs}
    for index in sorted((needed_values & set(values)) - produced):
        model.subgraphs[0].tensors[index].buffer = graph_edit.constant(model, values[index])
    return kept


def _foldable(operator: Operator, values: Mapping[int, _Array], results: set[int]) -> bool:
    return bool(operator.outputs) and all(
        one.index in values and one.index not in results and values[one.index].size <= MAX_FOLDED_ELEMENTS
        for one in operator.outputs
    )
