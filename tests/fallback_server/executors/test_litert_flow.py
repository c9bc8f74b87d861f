"""Files whose answers might hold what is none of their requests' are told, and all others are let be."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.harmful_models import looping_model
from support.interpreter_models import _File, net_model, pair_model
from support.operator_files import know
from support.stateful_models import constant_model, counting_model

from fallback_server.core.errors import LoadFailed
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import open_litert
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.litert_flow import foreign_values
from fallback_server.executors.litert_graph import Entry, Graphs, Operator, Subgraph, read_graphs


def _operator(inputs, outputs, code=0):
    return Operator(code=code, inputs=inputs, outputs=outputs)


CHAIN = Subgraph(
    types=(0,) * 5,
    shapes=((1, 4),) * 5,
    constants=frozenset({1}),
    variables=frozenset(),
    inputs=(0,),
    outputs=(3,),
    operators=(_operator((0, 1), (2,)), _operator((2, -1), (3, -1))),
)
ENTRY = Entry(name=b"s", graph=0, inputs=((b"x", 0),), outputs=((b"y", 3),))


def _why(*entries, **changes):
    return foreign_values(Graphs(subgraphs=(dataclasses.replace(CHAIN, **changes),), signatures=entries))


@pytest.mark.parametrize(
    "content",
    [net_model(), pair_model(kinds=("ADD", "MUL")), looping_model(), counting_model(), constant_model()],
)
def test_what_a_converter_writes_is_let_be(content):
    """Layers, several graphs, loops, variables."""
    assert foreign_values(read_graphs(content)) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"outputs": (3, 0, 1, 2, 3)},
        {"operators": (_operator((0, 4), (3,)),), "variables": frozenset({4})},
        {"operators": (_operator((0, 4), (3,)),), "empty": frozenset({4})},
        {"operators": (_operator((0, 4), (3,), code=22),)},
        {"operators": (_operator((0,), (4,)), _operator((4,), (3,))), "variables": frozenset({4})},
        {"operators": (), "outputs": (0, 1)},
    ],
)
def test_each_value_has_one_origin(changes):
    """Outputs may be inputs, constants, the same twice; variables may be written, and of a shape no values be there."""
    assert _why(**changes) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"operators": (_operator((4,), (3,)),)}, "tensor 4 is read before it is written"),
        ({"operators": (_operator((0, 2), (3,)), _operator((0,), (2,)))}, "tensor 2 is read before it is written"),
        ({"operators": (_operator((3,), (3,)),)}, "tensor 3 is read before it is written"),
        ({"operators": (_operator((0, 4), (3,), code=22), _operator((0,), (4,)))}, "tensor 4 is read before"),
        ({"operators": (*CHAIN.operators, _operator((0,), (2,)))}, "tensor 2 has another origin"),
        ({"operators": (_operator((0,), (3, 3)),)}, "tensor 3 has another origin"),
        ({"operators": (_operator((0,), (3,)), _operator((3,), (0,)))}, "tensor 0 has another origin"),
        ({"operators": (_operator((0,), (3,)), _operator((3,), (1,)))}, "tensor 1 has another origin"),
        ({"outputs": (4,)}, "output 4 is written by no operator"),
        ({"inputs": (0, 1)}, "constant 1 is an input"),
        ({"sparse": frozenset({1})}, "tensor 1 is sparse"),
        ({"inputs": (5,)}, "tensors that it does not have"),
        ({"outputs": (-1,)}, "tensors that it does not have"),
        ({"operators": (_operator((0, -2), (3,)),)}, "tensors that it does not have"),
        ({"operators": (_operator((0,), (99,)),)}, "tensors that it does not have"),
    ],
)
def test_values_of_another_origin_are_told(changes, why):
    """What the run before left, what memory held, and what lies behind the file; in any graph."""
    assert why in _why(**changes)
    inner = Graphs(subgraphs=(CHAIN, dataclasses.replace(CHAIN, **changes)))
    assert foreign_values(inner).startswith("graph 1: ")


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ((ENTRY, ENTRY), "signature 's': there are several of that name"),
        ((dataclasses.replace(ENTRY, graph=1),), "it has no graph 1"),
        ((dataclasses.replace(ENTRY, inputs=((b"x", 0), (b"x", 0))),), "two of its inputs have one name"),
        ((dataclasses.replace(ENTRY, outputs=((b"y", 3), (b"y", 3))),), "two of its outputs have one name"),
        ((dataclasses.replace(ENTRY, inputs=((b"x", 0), (b"m", 2))),), "its input 2 is no input of its graph"),
        ((dataclasses.replace(ENTRY, outputs=((b"y", 2),)),), "its output 2 is no output of its graph"),
        ((dataclasses.replace(ENTRY, inputs=()),), "its graph's input 0 is none of its own, and would never be set"),
    ],
)
def test_a_signature_gives_all_inputs_of_its_graph(entries, why):
    """And nothing else; each by one name."""
    assert why in _why(*entries)


def test_an_input_that_nobody_reads_may_be_left_out():
    """And a signature that answers nothing can't be called."""
    assert _why(ENTRY, inputs=(0, 4)) == ""
    assert _why(dataclasses.replace(ENTRY, inputs=(), outputs=())) == ""


@pytest.mark.parametrize(("code", "axis", "inputs"), [(3, 0, (0, 1, 2)), (4, 3, (0, 1, 2)), (67, 0, (4, 1, 0, 2))])
@pytest.mark.parametrize(("numbers", "fits"), [(5, True), (1, False), (4, False), (6, False)])
def test_a_bias_has_a_number_for_each_channel(code, axis, inputs, numbers, fits):
    """LiteRT reads as many as the weights have channels, from wherever these are."""
    weights = [1, 1, 1, 1]
    weights[axis] = 5
    why = _why(
        shapes=((1, 2, 2, 3), tuple(weights), (numbers,), (1, 2, 2, 5), (4,)),
        constants=frozenset({1, 2, 4}),
        operators=(_operator(inputs, (3,), code=code),),
    )
    assert why == ("" if fits else "graph 0: its constant 2 is no bias for the weights that it goes with")


def _shaping(file, graph):
    """A tensor that SHAPE gives when LiteRT plans, and the operands of what else may set it."""
    for kind in ("SHAPE", "TILE"):
        know(kind)
    one = file.tensor(graph, "one", (1, 1), values=np.ones((1, 1), np.float32))
    told = file.tensor(graph, "told", (2,), "int32")
    file.operator(graph, "SHAPE", [one], [told], outType=schema.TensorType.INT32)
    return told


def _set_by_a_request(*, also_of_the_graph):
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (4, 4)), file.tensor(graph, "y", (4, 4))
    told = _shaping(file, graph)
    file.operator(graph, "TILE", [x, told], [y])
    graph.inputs, graph.outputs = [x, told] if also_of_the_graph else [x], [y]
    file.sign("serving_default", 0, {"x": x, "m": told}, {"y": y})
    return file.bytes()


def _set_for_the_next_run():
    file = _File()
    graph = file.graph()
    given, y = file.tensor(graph, "given", (2,), "int32"), file.tensor(graph, "y", (2,), "int32")
    zeros = file.tensor(graph, "zeros", (2,), "int32", np.zeros(2, np.int32))
    told = _shaping(file, graph)
    file.operator(graph, "ADD", [told, zeros], [y])
    file.operator(graph, "ADD", [given, zeros], [told])
    graph.inputs, graph.outputs = [given], [y]
    file.sign("serving_default", 0, {"x": given}, {"y": y})
    return file.bytes()


def _never_set():
    file = _File()
    graph = file.graph()
    x, y, z = (file.tensor(graph, name, (1, 4)) for name in "xyz")
    file.operator(graph, "ADD", [x, y], [z])
    graph.inputs, graph.outputs = [x, y], [z]
    file.sign("serving_default", 0, {"x": x}, {"z": z})
    return file.bytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_set_by_a_request(also_of_the_graph=False), "signature 'serving_default': its input 3 is no input of its"),
        (_set_by_a_request(also_of_the_graph=True), "graph 0: its tensor 3 has another origin"),
        (_set_for_the_next_run(), "graph 0: its tensor 4 has another origin"),
        (_never_set(), "its graph's input 1 is none of its own"),
    ],
)
def test_such_a_file_is_not_served(content, why):
    """LiteRT takes each: one has a request say how much is written, the others answer with others' values."""
    with pytest.raises(LoadFailed, match=why):
        open_litert(SealedFile.of(content, "m"), sizes=RunSizes())
