"""Tiny real TFLite files for what is handed from one place to another: tensors of any dtype and shape come back."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.artifact import Signature, TensorSpec


def echo_model(tensors, signatures=("serving_default",)):
    """A file whose output `NAME_out` is its input `NAME`, by RESHAPE, for each of `{NAME: (dtype, shape)}`.

    Args:
        tensors: Shapes may begin with -1.
        signatures: The names of several ways to call the same graph; none for a file without.
    """
    kinds = dict.fromkeys(tensors, _RESHAPE)
    steps = [(kinds[name], [name], f"{name}_out", list(shape)) for name, (_, shape) in tensors.items()]
    every = tensors | {f"{name}_out": kind for name, kind in tensors.items()}
    return _file(every, steps, list(tensors), [f"{name}_out" for name in tensors], signatures)


def echo_signature(tensors, name="serving_default"):
    """What `echo_model` takes and gives."""
    return Signature(
        name=name,
        inputs=tuple(TensorSpec(name=key, dtype=dtype, shape=shape) for key, (dtype, shape) in tensors.items()),
        outputs=tuple(
            TensorSpec(name=f"{key}_out", dtype=dtype, shape=shape) for key, (dtype, shape) in tensors.items()
        ),
    )


def first_values_model(size, count=4):
    """A file that gives back the first values of its input `x`, uint8 [1, size], as `y`, uint8 [1, count]."""
    tensors = {"x": ("uint8", (1, size)), "y": ("uint8", (1, count))}
    constants = {"begin": [0, 0], "end": [1, count], "strides": [1, 1]}
    return _file(tensors, [(_SLICE, ["x", *constants], "y", None)], ["x"], ["y"], ("serving_default",), constants)


def first_values_signature(size, count=4):
    """What `first_values_model` takes and gives."""
    return Signature(
        name="serving_default",
        inputs=(TensorSpec(name="x", dtype="uint8", shape=(1, size)),),
        outputs=(TensorSpec(name="y", dtype="uint8", shape=(1, count)),),
    )


def add_segment(inputs, output, shape=(1, 4)):
    """A file without signatures whose output is the sum of its two inputs, float32."""
    tensors = dict.fromkeys((*inputs, output), ("float32", shape))
    return _file(tensors, [(_ADD, list(inputs), output, None)], sorted(set(inputs)), [output], ())


_RESHAPE = (schema.BuiltinOperator.RESHAPE, schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT)
_ADD = (schema.BuiltinOperator.ADD, schema.BuiltinOptions.AddOptions, schema.AddOptionsT)
_SLICE = (schema.BuiltinOperator.STRIDED_SLICE, schema.BuiltinOptions.StridedSliceOptions, schema.StridedSliceOptionsT)


def _file(tensors, steps, inputs, outputs, signatures, constants=None):
    tensors |= {name: ("int32", (len(values),)) for name, values in (constants or {}).items()}
    places = {name: place for place, name in enumerate(tensors)}
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors = [_tensor(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    graph.inputs, graph.outputs = [places[name] for name in inputs], [places[name] for name in outputs]
    graph.operators = []
    for name, values in (constants or {}).items():
        buffer = schema.BufferT()
        buffer.data = np.array(values, np.int32).tobytes()
        graph.tensors[places[name]].buffer = len(model.buffers)
        model.buffers.append(buffer)
    for (code, options, make), given, made, shape in steps:
        entry, operator = schema.OperatorCodeT(), schema.OperatorT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = [places[name] for name in given], [places[made]]
        operator.builtinOptionsType, operator.builtinOptions = options, make()
        if shape is not None:
            operator.builtinOptions.newShape = shape
        model.operatorCodes.append(entry)
        graph.operators.append(operator)
    model.signatureDefs = [_signature(name, places, inputs, outputs) for name in signatures] or None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name, dtype, shape):
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name, getattr(schema.TensorType, dtype.upper()), 0
    tensor.shape, tensor.shapeSignature = [max(size, 1) for size in shape], list(shape)
    return tensor


def _signature(name, places, inputs, outputs):
    def entry(tensor):
        map_ = schema.TensorMapT()
        map_.name, map_.tensorIndex = tensor, places[tensor]
        return map_

    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = name, 0
    definition.inputs, definition.outputs = list(map(entry, inputs)), list(map(entry, outputs))
    return definition
