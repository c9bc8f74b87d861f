"""Tiny real models of pictures, built without TensorFlow, and packages of real files."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from msgspec.structs import replace

from converter.artifact import Package, Preprocess, publish
from edge_runtime.bare import bare_manifest


def brightest_model(side: int = 2, channels: int = 1) -> bytes:
    """A picture `image` uint8 [1, side, side, channels] -> `scores` uint8 [1, side^2 * channels], each pixel a class.

    It has no signature, as many of the Edge TPU's files; the scores are pixels over 256.
    """
    count = side * side * channels
    shape = schema.BufferT()
    shape.data = np.array([1, count], np.int32).tobytes()
    tensors = [
        _tensor("image", [1, side, side, channels], schema.TensorType.UINT8, 0, scale=1 / 256),
        _tensor("shape", [2], schema.TensorType.INT32, 1),
        _tensor("scores", [1, count], schema.TensorType.UINT8, 0, scale=1 / 256),
    ]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [2], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), shape]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name, shape, kind, buffer, *, scale=None):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return tensor


def publish_file(
    store: Path, file: Path, *, model: str, labels: tuple[str, ...] = (), preprocess: Preprocess | None = None
) -> Package:
    """Publishes a TFLite file as version 1 of a model, with labels and preprocessing."""
    manifest, _ = bare_manifest(file)
    steps = preprocess or Preprocess()
    whole = replace(manifest, model=model, labels=labels, preprocess=steps, preprocess_fingerprint=steps.fingerprint)
    return publish(dict.fromkeys(manifest.files, file), whole, store)
