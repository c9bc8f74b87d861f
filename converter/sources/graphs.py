"""Reads a SavedModel's description without loading it: its `serve` graph, and the nodes that a signature runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import SourceInvalid

SERVE_TAG = "serve"
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A node that is run.

    Attributes:
        node: The NodeDef itself; a change to it changes the model that was given.
        callers: The names of the nodes that call the function it is in, the outermost first.
    """

    node: Any
    callers: tuple[str, ...]


def parse(path: Path) -> Any:
    """The SavedModel proto of a directory.

    Raises:
        SourceInvalid: it can't be parsed.
    """
    from google.protobuf import text_format  # noqa: PLC0415  only in a child
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    model = saved_model_pb2.SavedModel()
    binary, text = (path / name for name in MODEL_FILES)
    try:
        if binary.is_file():
            model.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text("utf-8"), model)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise SourceInvalid(f"{path}: the SavedModel is damaged: {error}") from error
    return model


def serve_graph(path: Path, model: Any = None) -> Any:
    """The MetaGraphDef that is tagged `serve` and nothing else.

    Raises:
        SourceInvalid: the SavedModel can't be parsed, or has no such graph (its tags are listed).
    """
    model = model or parse(path)
    for graph in model.meta_graphs:
        if set(graph.meta_info_def.tags) == {SERVE_TAG}:
            return graph
    tags = "; ".join(",".join(sorted(graph.meta_info_def.tags)) or "no tag" for graph in model.meta_graphs)
    raise SourceInvalid(f"{path}: no graph tagged {SERVE_TAG!r}; it has: {tags or 'no graph'}")


def reached(graph: Any, signatures: Iterable[str]) -> Iterator[Reached]:
    """Every node that the signatures need, in functions too, each once.

    Args:
        graph: A MetaGraphDef.
        signatures: Names out of its `signature_def`.
    """
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    ends = [info.name for name in signatures for info in graph.signature_def[name].outputs.values()]
    bodies: list[tuple[Any, list[str], tuple[str, ...]]] = [(graph.graph_def.node, ends, ())]
    seen: set[str] = set()
    for nodes, needed, callers in bodies:
        for node in _upstream(nodes, needed):
            yield Reached(node=node, callers=callers)
            for name in called(node):
                if name in library and name not in seen:
                    seen.add(name)
                    function = library[name]
                    wanted = [*function.ret.values(), *function.control_ret.values()]
                    bodies.append((function.node_def, wanted, (*callers, node.name)))


def unrestored(graph: Any, signatures: Iterable[str]) -> tuple[str, ...]:
    """The variables that the signatures read and loading by the graph alone does not fill, by their nodes' names.

    `tf.saved_model.save` of a Keras 3 model writes such graphs: its restoring fills copies of the weights. Python's
    loader goes by the objects and finds the right ones; TensorFlow's converter goes by the graph, and takes whatever
    lies in memory. Empty for models of sessions (TensorFlow 1), which have no objects.
    """
    if not graph.object_graph_def.nodes:
        return ()
    filled = {node.name for node in _upstream(graph.graph_def.node, [graph.saver_def.restore_op_name])}
    read = [one.node for one in reached(graph, signatures) if not one.callers]
    return tuple(node.name for node in read if node.op == "VarHandleOp" and node.name not in filled)


def called(node: Any) -> list[str]:
    """The functions that a node names in its attributes."""
    names = []
    for _, value in sorted(node.attr.items()):
        if value.HasField("func"):
            names.append(value.func.name)
        names.extend(function.name for function in value.list.func)
    return names


def node_of(tensor: str) -> str:
    """`name:output:0`, `name:0`, `^name` or `name` -> the node's name."""
    return tensor.removeprefix("^").split(":", 1)[0]


def _upstream(nodes: Iterable[Any], ends: Iterable[str]) -> Iterator[Any]:
    """The nodes that the ends depend on, in the order of the graph."""
    by_name: Mapping[str, Any] = {node.name: node for node in nodes}
    needed: set[str] = set()
    pending = [node_of(end) for end in ends]
    while pending:
        name = pending.pop()
        if name in by_name and name not in needed:
            needed.add(name)
            pending.extend(node_of(tensor) for tensor in by_name[name].input)
    return (node for name, node in by_name.items() if name in needed)
