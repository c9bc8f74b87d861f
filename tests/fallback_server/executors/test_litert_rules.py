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

from fallback_server.executors.litert_graph import Entry, Graphs, Operator, Subgraph, read_graphs
from fallback_server.executors.litert_rules import HARMLESS, harm, keeps_state

FLOATS = Subgraph(
    types=(0, 0),
    shapes=((1, 4), (1, 4)),
    constants=frozenset(),
    variables=frozenset(),
    inputs=(0,),
    outputs=(1,),
    operators=(Operator(code=0, inputs=(0, 0), outputs=(1,)),),
)


def _made(*graphs, **changes):
    """A file of these graphs; `FLOATS` with changes where there are none."""
    return Graphs(subgraphs=graphs or (dataclasses.replace(FLOATS, **changes),))


@pytest.mark.parametrize("content", [net_model(), tutorial_model(), pair_model(kinds=("ADD", "MUL"))])
def test_plain_nets_do_no_harm(content):
    """Convolutions, dense layers, sums, in any number of graphs."""
    assert harm(read_graphs(content)) == ""


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
    assert harm(read_graphs(flattened(shaped_by_input=False))) == ""
    assert harm(read_graphs(flattened(shaped_by_input=True))) == (
        "the shapes of its operator RESHAPE depend on a request's values"
    )


@pytest.mark.parametrize(
    ("graphs", "why"),
    [
        (read_graphs(looping_model()), "how long its operator WHILE takes"),
        (read_graphs(counting_model()), "neither plain numbers nor bools"),
        (read_graphs(operator_files.operator_file("FLOOR_MOD", "int32")), "operator FLOOR_MOD"),
        (read_graphs(operator_files.operator_file("DIV", "int32")), "DIV may end the process where numbers are wh"),
        (read_graphs(operator_files.operator_file("POW", "int32")), "POW may end the process where numbers are wh"),
        (Graphs(subgraphs=()), "it has no graph"),
        (_made(variables=frozenset({1})), "it keeps a state"),
        (_made(types=(0, 5)), "neither plain numbers nor bools"),
        (_made(special=frozenset({1})), "its tensor 1 is more than an array of numbers"),
        (_made(operators=(Operator(code=0, inputs=(0, 7), outputs=(1,)),)), "it does not have"),
        (_made(operators=(Operator(code=32, inputs=(0,), outputs=(1,)),)), "operator CUSTOM"),
        (_made(operators=(Operator(code=199, inputs=(0,), outputs=(1,)),)), "number 199"),
        (_made(FLOATS, dataclasses.replace(FLOATS, types=(0, 13))), "neither plain numbers nor bools"),
    ],
)
def test_all_else_stays_out(graphs, why):
    """With the reason; in any graph."""
    assert why in harm(graphs)


def test_a_shape_that_a_request_gives_is_not_told():
    """Whatever else the file says of its values; a tensor that SHAPE gives is none that a request may set."""
    pads = Operator(code=34, inputs=(0, 1), outputs=(2,))
    graph = dataclasses.replace(
        FLOATS, types=(0, 2, 0), shapes=((4,), (4,), (4,)), constants=frozenset({1}), outputs=(2,), operators=(pads,)
    )
    assert harm(_made(graph)) == ""
    assert "its constant 1 is an input" in harm(_made(dataclasses.replace(graph, inputs=(0, 1))))
    given = dataclasses.replace(graph, inputs=(0, 1), constants=frozenset())
    assert "PAD depend" in harm(_made(given))
    assert "PAD depend" in harm(_made(dataclasses.replace(given, empty=frozenset({1}))))
    shape = Operator(code=77, inputs=(0,), outputs=(1,))
    shaped = dataclasses.replace(graph, constants=frozenset(), operators=(shape, pads))
    assert harm(_made(shaped)) == ""
    assert "another origin" in harm(_made(dataclasses.replace(shaped, inputs=(0, 1))))
    entry = Entry(name=b"s", graph=0, inputs=((b"x", 0), (b"m", 1)), outputs=((b"y", 2),))
    signed = Graphs(subgraphs=(shaped,), signatures=(entry,))
    assert "its input 1 is no input of its graph" in harm(signed)


def _multiplied(code, inputs, *, types, constants, shapes=None):
    """A file of one operator that multiplies by weights."""
    sizes = ((1, 2, 2, 3),) * len(types) if shapes is None else shapes
    given = tuple(tensor for tensor in inputs if tensor not in {-1, *constants})
    operators = (Operator(code=code, inputs=inputs, outputs=(len(types) - 1,)),)
    return _made(
        types=types, shapes=sizes, constants=frozenset(constants), inputs=given, outputs=(), operators=operators
    )


@pytest.mark.parametrize("code", [3, 9, 67, 126, 132])
def test_floats_are_multiplied_by_integers_of_the_file_alone(code):
    """Of others LiteRT keeps the first run's sums, and answers the next run's weights by them."""
    inputs = (1, 1, 0) if code == 67 else (0, 1)
    sent = _multiplied(code, inputs, types=(0, 9, 0), constants={})
    assert "multiplies floats by integers" in harm(sent) or code == 67
    assert keeps_state(sent)
    for types, constants in (((0, 9, 0), {1}), ((0, 0, 0), {}), ((9, 9, 9), {})):
        of_the_file = _multiplied(code, inputs, types=types, constants=constants)
        assert not keeps_state(of_the_file)
        assert "multiplies" not in harm(of_the_file)


def test_depthwise_convolutions_of_floats_by_integers_stay_out():
    """LiteRT reads a scale for each channel, also where there is one for all."""
    assert "multiplies floats by integers" in harm(_multiplied(4, (0, 1), types=(0, 9, 0), constants={1}))
    assert harm(_multiplied(4, (0, 1), types=(0, 0, 0), constants={1})) == ""


def test_a_bias_that_is_sent_stays_out():
    """How many numbers it has the file does not tell."""
    sizes = ((1, 2, 2, 3), (5, 1, 1, 3), (5,), (1, 2, 2, 5))
    assert harm(_multiplied(3, (0, 1, 2), types=(0,) * 4, constants={1, 2}, shapes=sizes)) == ""
    assert harm(_multiplied(3, (0, 1, -1), types=(0,) * 4, constants={1}, shapes=sizes)) == ""
    assert "are no constants" in harm(_multiplied(3, (0, 1, 2), types=(0,) * 4, constants={1}, shapes=sizes))
    assert "are no constants" in harm(_multiplied(3, (0, 1, 2), types=(0,) * 4, constants={2}, shapes=sizes))


@pytest.mark.parametrize(("code", "sized"), [(9, True), (0, True), (22, True), (40, False), (43, False)])
def test_logarithms_of_softmax_are_taken_of_what_is_no_scalar(code, sized):
    """LiteRT reads beyond a scalar; what is no scalar is told by the operator before it."""
    before = Operator(code=code, inputs=(0, 1), outputs=(2,))
    after = Operator(code=50, inputs=(2,), outputs=(3,))
    told = _made(
        types=(0, 2 if code in (22, 40) else 0, 0, 0),
        shapes=((1, 4), (2,), (), ()),
        constants=frozenset({1}),
        outputs=(3,),
        operators=(before, after),
    )
    assert harm(told) == ("" if sized else "its operator LOG_SOFTMAX may be given a scalar")


def test_state_is_told_by_the_file():
    """Where a run assigns to a variable, or a tensor is one; what is set once and read is none."""
    assert keeps_state(read_graphs(counting_model()))
    assert not keeps_state(read_graphs(constant_model()))
    assert not keeps_state(read_graphs(net_model()))
    assert keeps_state(_made(variables=frozenset({1})))


ASSIGNS = dataclasses.replace(FLOATS, inputs=(), outputs=(), operators=(Operator(code=144, inputs=(), outputs=()),))


def _beginning(*others, signed=False):
    """A file whose main graph has the other operators after CALL_ONCE, which runs a graph that sets a variable."""
    begin = Operator(code=129, inputs=(), outputs=(), calls=(1,))
    main = dataclasses.replace(FLOATS, operators=(begin, *others, *FLOATS.operators))
    entries = (Entry(name=b"s", graph=1, inputs=(), outputs=()),) if signed else ()
    return Graphs(subgraphs=(main, ASSIGNS), signatures=entries)


def test_what_is_run_once_is_so_only_if_nobody_else_runs_it():
    """Else a request could choose what stays: by a condition, or by a signature of its own."""
    assert not keeps_state(_beginning())
    for code in (31, 118, 119):
        assert keeps_state(_beginning(Operator(code=code, inputs=(0,), outputs=(), calls=(1, 1))))
    for code in (174, 200, 206, 209, 250):  # They may run any graph.
        assert keeps_state(_beginning(Operator(code=code, inputs=(0,), outputs=())))
    assert keeps_state(_beginning(signed=True))


def test_a_table_that_a_run_fills_is_a_state():
    """The first run's entries are those of all that follow."""
    assert keeps_state(_made(operators=(Operator(code=138, inputs=(0,), outputs=()), *FLOATS.operators)))


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
