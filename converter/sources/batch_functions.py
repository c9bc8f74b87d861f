"""Inlines `BatchFunction`: a node that joins the calls of several threads and runs a function on all of them at once.

On a server it makes batches; on a device `edge_runtime` does, and LiteRT has no such operator. What it computes is the
function alone, so a call of the function takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.sources.graphs import MODEL_FILES, parse, serve_graph

OPERATOR = "BatchFunction"

_CALL = "StatefulPartitionedCall"
_NOT_CARRIED = frozenset({*MODEL_FILES, "fingerprint.pb"})


@dataclass(frozen=True, kw_only=True)
class Inlined:
    """What became of a SavedModel.

    Attributes:
        path: The rewritten one; the given one where there was nothing to do.
        count: How many nodes were replaced.
        max_rows: The least of their `max_batch_size`: a call of the original with more rows fails; None without any.
    """

    path: Path
    count: int
    max_rows: int | None


def inline(path: Path, folder: Path) -> Inlined:
    """Writes to `folder` the SavedModel with each `BatchFunction` of its `serve` graph replaced by a call.

    The weights and assets are not copied but linked to.

    Raises:
        SourceInvalid: the SavedModel can't be parsed or has no `serve` graph.
    """
    model = parse(path)
    graph_def = serve_graph(path, model).graph_def
    limits = [_replace(node) for node in graph_def.node if node.op == OPERATOR]
    for function in graph_def.library.function:
        batches = [node for node in function.node_def if node.op == OPERATOR]
        limits += [_replace(node) for node in batches]
        _rename_outputs(function, {node.name for node in batches})
    if not limits:
        return Inlined(path=path, count=0, max_rows=None)
    folder.mkdir(parents=True)
    for entry in sorted(path.iterdir()):
        if entry.name not in _NOT_CARRIED:
            (folder / entry.name).symlink_to(entry.absolute())
    (folder / MODEL_FILES[0]).write_bytes(model.SerializeToString(deterministic=True))
    return Inlined(path=folder, count=len(limits), max_rows=min(limits))


def _replace(node: Any) -> int:
    """Makes the node a call of its function; returns its `max_batch_size`."""
    limit = int(node.attr["max_batch_size"].i)
    kept = {name: list(node.attr[name].list.type) for name in ("Tin", "Tcaptured", "Tout")}
    function = node.attr["f"].func.name
    node.op = _CALL
    node.attr.clear()
    node.attr["f"].func.name = function
    node.attr["Tin"].list.type.extend([*kept["Tin"], *kept["Tcaptured"]])
    node.attr["Tout"].list.type.extend(kept["Tout"])
    for name in ("config", "config_proto", "executor_type"):
        node.attr[name].s = b""
    return limit


def _rename_outputs(function: Any, replaced: set[str]) -> None:
    """In a function, an output goes by its operator's word for it: `out_tensors` there, `output` of a call."""
    for node in function.node_def:
        node.input[:] = list(_renamed(node.input, replaced))
    for name, tensor in zip(list(function.ret), list(_renamed(function.ret.values(), replaced)), strict=True):
        function.ret[name] = tensor


def _renamed(tensors: Any, replaced: set[str]) -> Iterator[str]:
    for tensor in tensors:
        name, _, rest = tensor.partition(":")
        yield f"{name}:output:{rest.rpartition(':')[2]}" if rest and name in replaced else tensor
