"""TFLite files that harm whoever runs them: one that never ends, and one that ends the process."""

from ai_edge_litert import schema_py_generated as schema
from support import interpreter_models

interpreter_models._OPERATORS.setdefault("WHILE", (schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT))
interpreter_models._OPERATORS.setdefault(
    "LESS_EQUAL", (schema.BuiltinOptions.LessEqualOptions, schema.LessEqualOptionsT)
)


def looping_model(*, itself=False):
    """X float32 [1] -> y, by a loop whose condition always holds.

    Args:
        itself: The loop's body is the whole graph with the loop in it: planning it ends on the stack's end.
    """
    file = interpreter_models._File()
    main = file.graph()
    x, y = file.tensor(main, "x", (1,)), file.tensor(main, "y", (1,))
    file.operator(main, "WHILE", [x], [y], condSubgraphIndex=1, bodySubgraphIndex=0 if itself else 2)
    main.inputs, main.outputs = [x], [y]
    condition = file.graph()
    given, holds = file.tensor(condition, "given", (1,)), file.tensor(condition, "holds", (1,), "bool")
    file.operator(condition, "LESS_EQUAL", [given, given], [holds])
    condition.inputs, condition.outputs = [given], [holds]
    body = file.graph()
    before, after = file.tensor(body, "before", (1,)), file.tensor(body, "after", (1,))
    file.operator(body, "ADD", [before, before], [after])
    body.inputs, body.outputs = [before], [after]
    file.sign("serving_default", 0, {"x": x}, {"y": y})
    return file.bytes()
