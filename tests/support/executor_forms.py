"""The same tiny models in each form that the server runs.

`scale`: x float32 [-1, 4] -> y = 2 x. `fixed`: the same with x [1, 4]. `pick`: index int64 [-1] -> value, one of 10, 20
and 30; another index is refused.
"""

import struct

import numpy as np

TABLE = (10.0, 20.0, 30.0)

PYTHON = """
import numpy as np

MODEL = "{name}"


class Model:
    def __init__(self, path):
        shape = (1, 4) if MODEL == "fixed" else (-1, 4)
        inputs, outputs = {{"x": ("float32", shape)}}, {{"y": ("float32", shape)}}
        if MODEL == "pick":
            inputs, outputs = {{"index": ("int64", (-1,))}}, {{"value": ("float32", (-1,))}}
        self.signatures = {{"serving_default": {{"inputs": inputs, "outputs": outputs}}}}

    def predict(self, signature, inputs):
        if MODEL != "pick":
            return {{"y": inputs["x"] * 2}}
        index = inputs["index"]
        if (index < 0).any() or (index > 2).any():
            raise ValueError("an index is out of its bounds")
        return {{"value": np.float32([10, 20, 30])[index]}}
"""


def write_saved_models(output):
    import tensorflow as tf

    def save(name, function, spec):
        module = tf.Module()
        module.call = tf.function(function, input_signature=[spec])
        tf.saved_model.save(module, str(output / name / "1"), signatures={"serving_default": module.call})

    def pick(index):
        return {"value": tf.gather(tf.constant(TABLE), index)}

    save("scale", lambda x: {"y": x * 2.0}, tf.TensorSpec([None, 4], tf.float32, name="x"))
    save("fixed", lambda x: {"y": x * 2.0}, tf.TensorSpec([1, 4], tf.float32, name="x"))
    save("pick", pick, tf.TensorSpec([None], tf.int64, name="index"))


def write_litert(output):
    from support.edge_models import scale_model

    for name, content in (
        ("scale", scale_model(2.0)),
        ("fixed", scale_model(2.0, batched=False)),
        ("pick", pick_litert()),
    ):
        _folder(output, name).joinpath("model.tflite").write_bytes(content)


def pick_litert():
    from support.interpreter_models import _File

    file = _File()
    graph = file.graph()
    index = file.tensor(graph, "index", (-1,), "int64")
    table = file.tensor(graph, "table", (3,), values=np.float32(TABLE))
    value = file.tensor(graph, "value", (-1,))
    file.operator(graph, "GATHER", [table, index], [value])
    graph.inputs, graph.outputs = [index], [value]
    file.sign("serving_default", 0, {"index": index}, {"value": value})
    return file.bytes()


def write_python(output):
    for name in ("scale", "fixed", "pick"):
        _folder(output, name).joinpath("model.py").write_text(PYTHON.format(name=name))


def write_onnx(output):
    """Serialized by hand (onnx/onnx.proto's field numbers): the package `onnx` is needed for nothing else."""
    for name, rows in (("scale", "rows"), ("fixed", 1)):
        factor = _tensor("factor", 1, [1], struct.pack("<f", 2.0))
        graph = _graph("Mul", ["x", "factor"], "y", factor, _value("x", 1, [rows, 4]), _value("y", 1, [rows, 4]))
        _folder(output, name).joinpath("model.onnx").write_bytes(graph)
    table = _tensor("table", 1, [3], struct.pack("<3f", *TABLE))
    graph = _graph("Gather", ["table", "index"], "value", table, _value("index", 7, ["n"]), _value("value", 1, ["n"]))
    _folder(output, "pick").joinpath("model.onnx").write_bytes(graph)


def _folder(output, name):
    folder = output / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(name, kind, dims, raw):
    return b"".join(_field(1, dim) for dim in dims) + _field(2, kind) + _field(8, name) + _field(9, raw)


def _value(name, kind, dims):
    shape = b"".join(_field(1, _field(1 if isinstance(dim, int) else 2, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _graph(operator, inputs, output, initializer, given, found):
    node = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
    graph = _field(1, node) + _field(2, "graph") + _field(5, initializer) + _field(11, given) + _field(12, found)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))
