"""Small real TFLite files, built without TensorFlow: several graphs, several dtypes, and layers with weights."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.artifact import Signature, TensorSpec

_OPERATORS = {
    "ADD": (schema.BuiltinOptions.AddOptions, schema.AddOptionsT),
    "MUL": (schema.BuiltinOptions.MulOptions, schema.MulOptionsT),
    "CONV_2D": (schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT),
    "FULLY_CONNECTED": (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT),
    "GATHER": (schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT),
    "SOFTMAX": (schema.BuiltinOptions.SoftmaxOptions, schema.SoftmaxOptionsT),
    "MEAN": (schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT),
}


class _File:
    """Collects what a file is made of."""

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.subgraphs, self.model.operatorCodes, self.model.signatureDefs = [], [], []

    def graph(self):
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
        self.model.subgraphs.append(graph)
        return graph

    def tensor(self, graph, name, shape, dtype="float32", values=None):
        """Its index; a first size of -1 is left open."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, [max(size, 1) for size in shape]
        tensor.type = getattr(schema.TensorType, dtype.upper())
        if -1 in shape:
            tensor.shapeSignature = list(shape)
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(values).tobytes()
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(self, graph, kind, inputs, outputs, **options):
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        operator.builtinOptionsType, make = _OPERATORS[kind]
        operator.builtinOptions = make()
        for name, value in options.items():
            setattr(operator.builtinOptions, name, value)
        graph.operators.append(operator)

    def sign(self, name, number, inputs, outputs):
        def entries(tensors):
            made = []
            for each, index in tensors.items():
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = each, index
                made.append(entry)
            return made

        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = name, number
        definition.inputs, definition.outputs = entries(inputs), entries(outputs)
        self.model.signatureDefs.append(definition)

    def bytes(self):
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def pair_model(dtype="float32", *, kinds=("ADD",), signed=True, rows=1, tensors=("x", "y", "z")):
    """Files whose graphs take two arrays [rows, 4] and give their sum (`ADD`) or product (`MUL`).

    Args:
        dtype: Of all tensors.
        kinds: An operator for each graph.
        signed: Whether there are signatures: `add`, `mul` with inputs `a`, `b` and the output `c`.
        rows: -1 for any number.
        tensors: What the tensors are called themselves: two inputs and the output.
    """
    file = _File()
    for number, kind in enumerate(kinds):
        graph = file.graph()
        x, y, z = (file.tensor(graph, name, (rows, 4), dtype) for name in tensors)
        graph.inputs, graph.outputs = [x, y], [z]
        file.operator(graph, kind, [x, y], [z])
        if signed:
            file.sign(kind.lower(), number, {"a": x, "b": y}, {"c": z})
    return file.bytes()


def pair_signature(name="add", dtype="float32", *, rows=1):
    """What `pair_model` takes and gives."""
    a, b, c = (TensorSpec(name=each, dtype=dtype, shape=(rows, 4)) for each in "abc")
    return Signature(name=name, inputs=(a, b), outputs=(c,), batch_axis=0 if rows == -1 else None)


def net_model(*, seed=0, size=16, hidden=8, classes=10):
    """A small net, images [N, size, size, 3] -> scores [N, classes]: convolution with ReLU, mean, dense layer.

    With `hidden=2048, classes=256` it has 2 MiB of weights.
    """
    random = np.random.default_rng(seed)

    def weights(*shape):
        return (random.normal(size=shape) * 0.3).astype(np.float32)

    file = _File()
    graph = file.graph()
    image = file.tensor(graph, "image", (-1, size, size, 3))
    filters = file.tensor(graph, "filters", (hidden, 3, 3, 3), values=weights(hidden, 3, 3, 3))
    bias = file.tensor(graph, "bias", (hidden,), values=weights(hidden))
    convolved = file.tensor(graph, "convolved", (-1, size // 2, size // 2, hidden))
    file.operator(
        graph,
        "CONV_2D",
        [image, filters, bias],
        [convolved],
        strideH=2,
        strideW=2,
        padding=schema.Padding.SAME,
        fusedActivationFunction=schema.ActivationFunctionType.RELU,
    )
    axes = file.tensor(graph, "axes", (2,), "int32", np.array([1, 2], np.int32))
    mean = file.tensor(graph, "mean", (-1, hidden))
    file.operator(graph, "MEAN", [convolved, axes], [mean], keepDims=False)
    dense = file.tensor(graph, "dense", (classes, hidden), values=weights(classes, hidden))
    offset = file.tensor(graph, "offset", (classes,), values=weights(classes))
    scores = file.tensor(graph, "scores", (-1, classes))
    file.operator(graph, "FULLY_CONNECTED", [mean, dense, offset], [scores])
    graph.inputs, graph.outputs = [image], [scores]
    file.sign("serving_default", 0, {"image": image}, {"scores": scores})
    return file.bytes()


def tutorial_model(*, seed=0):
    """The net of TensorFlow Serving's tutorial, images [N, 28, 28, 1] -> scores [N, 10]: convolution, dense layer."""
    random = np.random.default_rng(seed)
    file = _File()
    graph = file.graph()
    image = file.tensor(graph, "image", (-1, 28, 28, 1))
    filters = file.tensor(graph, "filters", (8, 3, 3, 1), values=random.normal(size=(8, 3, 3, 1)).astype(np.float32))
    bias = file.tensor(graph, "bias", (8,), values=np.zeros(8, np.float32))
    convolved = file.tensor(graph, "convolved", (-1, 14, 14, 8))
    layer = {"strideH": 2, "strideW": 2, "padding": schema.Padding.SAME}
    relu = schema.ActivationFunctionType.RELU
    file.operator(graph, "CONV_2D", [image, filters, bias], [convolved], fusedActivationFunction=relu, **layer)
    weights = random.normal(size=(10, 1568)).astype(np.float32) * 0.05
    dense = file.tensor(graph, "dense", (10, 1568), values=weights)
    offset = file.tensor(graph, "offset", (10,), values=np.zeros(10, np.float32))
    logits, scores = file.tensor(graph, "logits", (-1, 10)), file.tensor(graph, "scores", (-1, 10))
    file.operator(graph, "FULLY_CONNECTED", [convolved, dense, offset], [logits])
    file.operator(graph, "SOFTMAX", [logits], [scores], beta=1.0)
    graph.inputs, graph.outputs = [image], [scores]
    file.sign("serving_default", 0, {"image": image}, {"scores": scores})
    return file.bytes()


def net_signature(*, size=16, classes=10):
    """What `net_model` takes and gives."""
    return Signature(
        name="serving_default",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, size, size, 3)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, classes)),),
        batch_axis=0,
    )


def images(count, seed=0, size=16):
    """`count` different images."""
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)
