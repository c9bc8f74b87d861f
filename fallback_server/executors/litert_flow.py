"""Whether each value in a run of a TFLite file comes from where it should: the file, the request, an operator. Pure.

LiteRT neither asks for that nor sees to it. A tensor that is read before it is written, or written at two places, holds
what the run before it left, or what somebody else's memory held: one caller's values would be in another's answer. No
converter writes such a file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fallback_server.executors.litert_graph import NONE, RESHAPE, Entry, Graphs, Operator, Subgraph

BIASED: Mapping[int, tuple[int, int, int]] = MappingProxyType(
    {3: (1, 0, 2), 4: (1, 3, 2), 67: (1, 0, 3), 132: (1, 4, 2)}
)
"""CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, CONV_3D -> the place of their weights, which axis of these the bias has,
and its place. LiteRT does not look at the bias's size, and reads beyond it."""


def foreign_values(graphs: Graphs) -> str:
    """Why a run's answer might hold values that are not its own: one clause; empty where it can't."""
    for number, graph in enumerate(graphs.subgraphs):
        if why := _refers(graph) or _reads(graph):
            return f"graph {number}: {why}"
    calls = Counter(signature.name for signature in graphs.signatures)
    for signature in graphs.signatures:
        if why := "there are several of that name" if calls[signature.name] > 1 else _signs(signature, graphs):
            return f"signature {signature.name.decode(errors='backslashreplace')!r}: {why}"
    return ""


def bias_of(operator: Operator) -> int:
    """The bias of one of `BIASED`; `NONE` where it has none."""
    place = BIASED[operator.code][2]
    return operator.inputs[place] if place < len(operator.inputs) else NONE


def _refers(graph: Subgraph) -> str:
    """Whether all tensors that it names are there, and hold all of their values."""
    named = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        named.update(tensor for tensor in (*operator.inputs, *operator.outputs) if tensor != NONE)
    if any(not 0 <= tensor < len(graph.types) for tensor in named):
        return "it refers to tensors that it does not have"
    if graph.sparse:
        return f"its tensor {min(graph.sparse)} is sparse, and LiteRT reads it as if all of its values were in the file"
    if given := graph.constants.intersection(graph.inputs):
        return f"its constant {min(given)} is an input"
    lacking = [
        bias_of(operator) for operator in graph.operators if operator.code in BIASED and _is_short(operator, graph)
    ]
    return f"its constant {lacking[0]} is no bias for the weights that it goes with" if lacking else ""


def _is_short(operator: Operator, graph: Subgraph) -> bool:
    """Whether an operator's bias has not as many numbers as its weights have channels, as far as the file tells."""
    place, axis, _ = BIASED[operator.code]
    bias, weights = bias_of(operator), operator.inputs[place] if place < len(operator.inputs) else NONE
    if not graph.constants.issuperset({bias, weights}):
        return False
    return graph.shapes[weights][axis : axis + 1] != (math.prod(graph.shapes[bias]),)


def _reads(graph: Subgraph) -> str:
    """Whether an operator, or the answer, reads what was not written in the same run."""
    fixed = graph.constants | graph.variables | set(graph.inputs)
    ever = {tensor for operator in graph.operators for tensor in operator.outputs}
    known = set(fixed | graph.empty)
    written: set[int] = set()
    for operator in graph.operators:
        for place, tensor in enumerate(operator.inputs):
            # Of a tensor without values RESHAPE reads the shape alone.
            shape_alone = operator.code == RESHAPE and place == 1 and tensor not in ever
            if tensor != NONE and tensor not in known and not shape_alone:
                return f"its tensor {tensor} is read before it is written"
        for tensor in operator.outputs:
            if tensor in written or (tensor in fixed and tensor not in graph.variables):
                return f"its tensor {tensor} has another origin besides the operator that writes it"
            if tensor != NONE:
                written.add(tensor)
                known.add(tensor)
    lacking = [tensor for tensor in graph.outputs if tensor not in known]
    return f"its output {lacking[0]} is written by no operator" if lacking else ""


def _signs(signature: Entry, graphs: Graphs) -> str:
    """Whether a signature gives its graph all inputs, and nothing else; and answers by its outputs."""
    if signature.graph >= len(graphs.subgraphs):
        return f"it has no graph {signature.graph}"
    if not signature.outputs:
        return ""  # It can't be called.
    graph = graphs.subgraphs[signature.graph]
    for kind, entries, tensors in (
        ("input", signature.inputs, graph.inputs),
        ("output", signature.outputs, graph.outputs),
    ):
        if why := _names(kind, entries, tensors):
            return why
    read = {tensor for operator in graph.operators for tensor in operator.inputs}.union(graph.outputs)
    unset = read.intersection(graph.inputs).difference(tensor for _, tensor in signature.inputs)
    return f"its graph's input {min(unset)} is none of its own, and would never be set" if unset else ""


def _names(kind: str, entries: Sequence[tuple[bytes, int]], tensors: Sequence[int]) -> str:
    if any(count > 1 for count in Counter(name for name, _ in entries).values()):
        return f"two of its {kind}s have one name"
    own = set(tensors)
    foreign = [tensor for _, tensor in entries if tensor not in own]
    return f"its {kind} {foreign[0]} is no {kind} of its graph" if foreign else ""
