"""Which signatures of a SavedModel merge what reaches them at the same time: those that run a `BatchFunction`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

BATCH_FUNCTION = "BatchFunction"


def merging_signatures(graph_def: Any, fetches: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """The signatures that run a `BatchFunction`, in the graph itself or in a function that it calls.

    Args:
        graph_def: TensorFlow's GraphDef, with its library.
        fetches: Signature name -> the tensors that it gives out, such as `StatefulPartitionedCall:0`.
    """
    functions = {function.signature.name: function.node_def for function in graph_def.library.function}
    merging = _merging_functions(functions)
    marked = {node.name for node in graph_def.node if _merges(node, merging.__contains__)}
    if not marked:
        return frozenset()
    inputs = {node.name: node.input for node in graph_def.node}
    return frozenset(name for name, tensors in fetches.items() if marked & _reached(tensors, inputs))


def _merging_functions(functions: Mapping[str, Iterable[Any]]) -> set[str]:
    """The functions in which there is one, or that call one of these."""
    merging = {name for name, nodes in functions.items() if any(node.op == BATCH_FUNCTION for node in nodes)}
    while merging:
        more = {
            name
            for name, nodes in functions.items()
            if name not in merging and any(_merges(node, merging.__contains__) for node in nodes)
        }
        if not more:
            break
        merging |= more
    return merging


def _merges(node: Any, is_merging: Callable[[str], bool]) -> bool:
    if node.op == BATCH_FUNCTION or is_merging(node.op):
        return True
    return any(is_merging(function.name) for value in node.attr.values() for function in (value.func, *value.list.func))


def _reached(tensors: Iterable[str], inputs: Mapping[str, Iterable[str]]) -> set[str]:
    """The nodes that must run for some tensors."""
    found: set[str] = set()
    ahead = [_node(tensor) for tensor in tensors]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += map(_node, inputs.get(name, ()))
    return found


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
