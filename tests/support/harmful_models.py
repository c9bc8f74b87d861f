"""TFLite files that harm whoever runs them: never ending, ending the process, or taking all of its memory."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support import interpreter_models

interpreter_models._OPERATORS.setdefault("WHILE", (schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT))
interpreter_models._OPERATORS.setdefault(
    "LESS_EQUAL", (schema.BuiltinOptions.LessEqualOptions, schema.LessEqualOptionsT)
)


def looping_model(*, itself=False, by_value=False, shape=(1,)):
    """X float32 [1] -> y, by a loop whose condition always holds.

    Args:
        itself: The loop's body is the whole graph with the loop in it: planning it ends on the stack's end.
        by_value: It loops where x is 1 or more alone.
        shape: Of all tensors; -1 for any size.
    """
    file = interpreter_models._File()
    main = file.graph()
    x, y = file.tensor(main, "x", shape), file.tensor(main, "y", shape)
    file.operator(main, "WHILE", [x], [y], condSubgraphIndex=1, bodySubgraphIndex=0 if itself else 2)
    main.inputs, main.outputs = [x], [y]
    condition = file.graph()
    given, holds = file.tensor(condition, "given", shape), file.tensor(condition, "holds", (1,), "bool")
    one = file.tensor(condition, "one", (1,), values=np.ones(1, np.float32))
    file.operator(condition, "LESS_EQUAL", [one, given if by_value else one], [holds])
    condition.inputs, condition.outputs = [given], [holds]
    body = file.graph()
    before, after = file.tensor(body, "before", shape), file.tensor(body, "after", shape)
    file.operator(body, "ADD", [before, before], [after])
    body.inputs, body.outputs = [before], [after]
    file.sign("serving_default", 0, {"x": x}, {"y": y})
    return file.bytes()


def wide_model(*, side):
    """X float32 [1, 1] -> y [1], by way of a tensor [side, side]: 4 side^2 bytes, from a file of 8 side."""
    file = interpreter_models._File()
    graph = file.graph()
    x = file.tensor(graph, "x", (1, 1))
    column = file.tensor(graph, "column", (side, 1), values=np.zeros(side, np.float32))
    row = file.tensor(graph, "row", (1, side), values=np.zeros(side, np.float32))
    high, wide = file.tensor(graph, "high", (side, 1)), file.tensor(graph, "wide", (side, side))
    axes = file.tensor(graph, "axes", (1,), "int32", np.array([1], np.int32))
    firsts, top = file.tensor(graph, "firsts", (side,)), file.tensor(graph, "top", (1,), "int32", np.zeros(1, np.int32))
    y = file.tensor(graph, "y", (1,))
    file.operator(graph, "ADD", [x, column], [high])
    file.operator(graph, "ADD", [high, row], [wide])
    file.operator(graph, "MEAN", [wide, axes], [firsts])
    file.operator(graph, "GATHER", [firsts, top], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign("serving_default", 0, {"x": x}, {"y": y})
    return file.bytes()
