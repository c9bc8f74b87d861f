"""What runs a signature in several sizes: those that a file is not made for are left out."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support.interpreter_models import _File
from support.operator_files import know

from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import open_litert
from fallback_server.executors.litert_files import SealedFile

NAME = "serving_default"


def _few_rows_model(most):
    """Y = x for up to so many rows: it looks up their number in a table."""
    for kind in ("SHAPE", "STRIDED_SLICE", "SUB", "GATHER"):
        know(kind)
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1, 4)), file.tensor(graph, "y", (-1, 4))
    shape, rows, last = (file.tensor(graph, each, size, "int32") for each, size in (("s", (2,)), ("r", ()), ("l", ())))
    at = [file.tensor(graph, f"at{each}", (1,), "int32", np.int32([each])) for each in (0, 1)]
    one, scale = file.tensor(graph, "one", (), "int32", np.int32(1)), file.tensor(graph, "scale", ())
    table = file.tensor(graph, "table", (most,), values=np.ones(most, np.float32))
    file.operator(graph, "SHAPE", [x], [shape], outType=2)
    file.operator(graph, "STRIDED_SLICE", [shape, at[0], at[1], at[1]], [rows], shrinkAxisMask=1)
    file.operator(graph, "SUB", [rows, one], [last])
    file.operator(graph, "GATHER", [table, last], [scale])
    file.operator(graph, "MUL", [x, scale], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign(NAME, 0, {"x": x}, {"y": y})
    return file.bytes()


def test_sizes_that_litert_refuses_are_left_out():
    """They are run in parts; a model that refuses even those that tell of its rows is run as it is asked."""
    executor = open_litert(
        SealedFile.of(_few_rows_model(4), "m"), sizes=RunSizes(rows=(1, 2, 4, 8, 16), threads=1), fill=True
    )
    assert (executor.signatures[NAME].batches, sorted(executor._runners[NAME]._pools)) == (True, [1, 2, 4])
    x = np.arange(4 * 11, dtype=np.float32).reshape(11, 4)
    assert executor.run(NAME, {"x": x})["y"].tolist() == x.tolist()
    executor.close()
    executor = open_litert(SealedFile.of(_few_rows_model(2), "m"), sizes=RunSizes(rows=(1, 4), threads=1))
    assert not executor.signatures[NAME].batches
    assert executor.run(NAME, {"x": x[:2]})["y"].tolist() == x[:2].tolist()
    executor.close()


def _multiplying_model():
    """Y = x times integers that are sent along; LiteRT makes integers of x, and keeps sums of the others."""
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (1, 4)), file.tensor(graph, "y", (1, 2))
    weights = file.tensor(graph, "weights", (2, 4), "int8")
    graph.tensors[weights].quantization = schema.QuantizationParametersT()
    graph.tensors[weights].quantization.scale, graph.tensors[weights].quantization.zeroPoint = [1.0], [0]
    file.operator(graph, "FULLY_CONNECTED", [x, weights, -1], [y], asymmetricQuantizeInputs=True)
    graph.inputs, graph.outputs = [x, weights], [y]
    file.sign(NAME, 0, {"x": x, "weights": weights}, {"y": y})
    return file.bytes()


def test_weights_that_were_sent_before_are_in_no_answer():
    """A file that multiplies by them answers each request as if it were its first."""
    executor = open_litert(SealedFile.of(_multiplying_model(), "m"), sizes=RunSizes())
    x, weights = np.float32([[0.5, 1.0, 1.5, 2.0]]), np.full((2, 4), 3, np.int8)
    first = executor.run(NAME, {"x": x, "weights": weights})["y"]
    executor.run(NAME, {"x": x, "weights": weights * 20})
    assert executor.run(NAME, {"x": x, "weights": weights})["y"].tolist() == first.tolist()
    np.testing.assert_allclose(first, [[15.0, 15.0]], rtol=0.02)
    executor.close()
