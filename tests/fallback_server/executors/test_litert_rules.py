"""What may come into the server's process, and that what may do so does no harm there."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from support import operator_files
from support.harmful_models import looping_model
from support.interpreter_models import _File, net_model, pair_model, tutorial_model
from support.stateful_models import constant_model, counting_model

from fallback_server.executors.litert_graph import Operator, Subgraph, read_subgraphs
from fallback_server.executors.litert_rules import HARMLESS, harm, keeps_state

FLOATS = Subgraph(
    types=(0, 0),
    constants=frozenset(),
    variables=frozenset(),
    inputs=(0,),
    operators=(Operator(code=0, inputs=(0, 0), outputs=(1,)),),
)


@pytest.mark.parametrize("content", [net_model(), tutorial_model(), pair_model(kinds=("ADD", "MUL"))])
def test_plain_nets_do_no_harm(content):
    """Convolutions, dense layers, sums, in any number of graphs."""
    assert harm(read_subgraphs(content)) == ""


def flattened(shaped_by_input):
    """Reshapes x by a shape that is computed from its own, as Keras' Flatten does; or by one that a caller sends."""
    file = _File()
    graph = file.graph()
    operator_files.know("SHAPE")
    operator_files.know("RESHAPE")
    operator_files.know("PACK")
    operator_files.know("STRIDED_SLICE")
    x, sent = file.tensor(graph, "x", (-1, 2, 2)), file.tensor(graph, "sent", (2,), "int32")
    shape, rows = file.tensor(graph, "shape", (3,), "int32"), file.tensor(graph, "rows", (), "int32")
    at = [file.tensor(graph, f"at{each}", (1,), "int32", np.int32([each])) for each in (0, 1)]
    four, wanted = file.tensor(graph, "four", (), "int32", np.int32(4)), file.tensor(graph, "wanted", (2,), "int32")
    y = file.tensor(graph, "y", (-1, 4))
    file.operator(graph, "SHAPE", [x], [shape], outType=2)
    file.operator(graph, "STRIDED_SLICE", [shape, at[0], at[1], at[1]], [rows], shrinkAxisMask=1)
    file.operator(graph, "PACK", [rows, four], [wanted], valuesCount=2)
    file.operator(graph, "RESHAPE", [x, sent if shaped_by_input else wanted], [y])
    graph.inputs, graph.outputs = [x, sent] if shaped_by_input else [x], [y]
    return file.bytes()


def test_shapes_may_follow_from_shapes_and_not_from_values():
    """A trial has seen all that follow from shapes."""
    assert harm(read_subgraphs(flattened(shaped_by_input=False))) == ""
    assert harm(read_subgraphs(flattened(shaped_by_input=True))) == (
        "the shapes of its operator RESHAPE depend on a request's values"
    )


@pytest.mark.parametrize(
    ("graphs", "why"),
    [
        (read_subgraphs(looping_model()), "how long its operator WHILE takes"),
        (read_subgraphs(counting_model()), "neither plain numbers nor bools"),
        (read_subgraphs(operator_files.operator_file("FLOOR_MOD", "int32")), "operator FLOOR_MOD"),
        (read_subgraphs(operator_files.operator_file("DIV", "int32")), "DIV may end the process where numbers are wh"),
        (read_subgraphs(operator_files.operator_file("POW", "int32")), "POW may end the process where numbers are wh"),
        ((), "it has no graph"),
        ((dataclasses.replace(FLOATS, variables=frozenset({1})),), "it keeps a state"),
        ((dataclasses.replace(FLOATS, types=(0, 5)),), "neither plain numbers nor bools"),
        (
            (dataclasses.replace(FLOATS, operators=(Operator(code=0, inputs=(0, 7), outputs=(1,)),)),),
            "it does not have",
        ),
        (
            (dataclasses.replace(FLOATS, operators=(Operator(code=0, inputs=(0, -2), outputs=(1,)),)),),
            "it does not have",
        ),
        ((dataclasses.replace(FLOATS, operators=(Operator(code=32, inputs=(0,), outputs=(1,)),)),), "operator CUSTOM"),
        ((dataclasses.replace(FLOATS, operators=(Operator(code=199, inputs=(0,), outputs=(1,)),)),), "number 199"),
        ((FLOATS, dataclasses.replace(FLOATS, types=(0, 13))), "neither plain numbers nor bools"),
    ],
)
def test_all_else_stays_out(graphs, why):
    """With the reason; in any graph."""
    assert why in harm(graphs)


def test_a_constant_that_is_given_or_written_is_none():
    """Whatever the file says of its values."""
    pads = Operator(code=34, inputs=(0, 1), outputs=(2,))
    graph = Subgraph(types=(0, 2, 0), constants=frozenset({1}), variables=frozenset(), inputs=(0,), operators=(pads,))
    assert harm((graph,)) == ""
    assert "PAD depend" in harm((dataclasses.replace(graph, inputs=(0, 1)),))
    writes = Operator(code=53, inputs=(0,), outputs=(1,))
    assert "PAD depend" in harm((dataclasses.replace(graph, operators=(writes, pads)),))


def test_state_is_told_by_the_file():
    """Where a run assigns to a variable, or a tensor is one; what is set once and read is none."""
    assert keeps_state(read_subgraphs(counting_model()))
    assert not keeps_state(read_subgraphs(constant_model()))
    assert not keeps_state(read_subgraphs(net_model()))
    assert keeps_state((dataclasses.replace(FLOATS, variables=frozenset({1})),))


@pytest.mark.slow
def test_no_values_end_the_process_by_an_operator_that_may_come_in():
    """Each, in each dtype that LiteRT knows it in: extremes, no numbers, and mixtures of them."""
    command = [sys.executable, operator_files.__file__, *HARMLESS]
    told = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True).stdout
    assert "ended by" not in told
    ran = {line.split()[0] for line in told.splitlines() if " runs, " in line and ": 0 runs" not in line}
    assert ran == set(HARMLESS)


@pytest.mark.slow
def test_the_check_sees_an_operator_that_ends_the_process():
    """Where a quotient does not fit, the processor ends it."""
    command = [sys.executable, operator_files.__file__, "FLOOR_MOD"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert "ended by -8" in told
