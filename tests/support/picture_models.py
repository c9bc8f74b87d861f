"""Tiny real models of pictures, built without TensorFlow, and packages of real files."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from msgspec.structs import replace

from converter.artifact import Package, Preprocess, publish
from edge_runtime.bare import bare_manifest


def brightest_model(side: int = 2, channels: int = 1) -> bytes:
    """A picture `image` uint8 [1, side, side, channels] -> `scores` uint8 [1, side^2 * channels], each pixel a class.

    It has no signature, as many of the Edge TPU's files; the scores are pixels over 256.
    """
    count = side * side * channels
    tensors = [
        _tensor("image", [1, side, side, channels], schema.TensorType.UINT8, 0, scale=1 / 256),
        _tensor("shape", [2], schema.TensorType.INT32, 1),
        _tensor("scores", [1, count], schema.TensorType.UINT8, 0, scale=1 / 256),
    ]
    codes = [_code(schema.BuiltinOperator.RESHAPE)]
    return _packed(tensors, [0], [2], [_operator(0, [0, 1], [2])], codes, [np.array([1, count], np.int32)])


QUARTERS = np.array([[y, x, 0.5, 0.5] for y in (0.25, 0.75) for x in (0.25, 0.75)], np.float32)
"""The detector's anchors: centre y, centre x, height, width of a picture's quarters."""


def colours_detector(*, compiled: bool = False) -> bytes:
    """A detector: `image` uint8 [1, 2, 2, 3] -> the four outputs of the real operator TFLite_Detection_PostProcess.

    Each pixel is a quarter of the picture; green is class 0, blue is class 1, both in 0..1 as the score. No signature.

    Args:
        compiled: Whether an Edge TPU's operator comes before the others, as the compiler leaves a detector's.
    """
    kinds = schema.TensorType
    constants = [np.array([1, 4, 3], np.int32), np.zeros((1, 4, 4), np.float32), QUARTERS]
    name = "TFLite_Detection_PostProcess"
    tensors = [
        _tensor("image", [1, 2, 2, 3], kinds.UINT8, 0, scale=1 / 256),
        _tensor("real", [1, 2, 2, 3], kinds.FLOAT32, 0),
        _tensor("shape", [3], kinds.INT32, 1),
        _tensor("colours", [1, 4, 3], kinds.FLOAT32, 0),
        _tensor("boxes", [1, 4, 4], kinds.FLOAT32, 2),
        _tensor("anchors", [4, 4], kinds.FLOAT32, 3),
        _tensor(name, [1, 4, 4], kinds.FLOAT32, 0),
        _tensor(f"{name}:1", [1, 4], kinds.FLOAT32, 0),
        _tensor(f"{name}:2", [1, 4], kinds.FLOAT32, 0),
        _tensor(f"{name}:3", [1], kinds.FLOAT32, 0),
    ]
    operators = [_operator(0, [0], [1]), _operator(1, [1, 2], [3]), _operator(2, [4, 3, 5], [6, 7, 8, 9])]
    operators[2].customOptions = list(_postprocessing())
    codes = [_code(schema.BuiltinOperator.DEQUANTIZE), _code(schema.BuiltinOperator.RESHAPE)]
    codes.append(_code(schema.BuiltinOperator.CUSTOM, name))
    if compiled:
        tensors.append(_tensor("computed", [1, 2, 2, 3], kinds.UINT8, 0, scale=1 / 256))
        operators[0].inputs = [10]
        operators.insert(0, _operator(3, [0], [10]))
        operators[0].customOptions = list(np.float32(1).tobytes())
        codes.append(_code(schema.BuiltinOperator.CUSTOM, "edgetpu-custom-op"))
    return _packed(tensors, [0], [6, 7, 8, 9], operators, codes, constants)


def _postprocessing():
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, number in (("max_detections", 4), ("max_classes_per_detection", 1), ("num_classes", 2)):
            builder.Int(key, number)
        for key, value in (("nms_score_threshold", 0.1), ("nms_iou_threshold", 0.5)):
            builder.Float(key, value)
        for key, value in (("y_scale", 10.0), ("x_scale", 10.0), ("h_scale", 5.0), ("w_scale", 5.0)):
            builder.Float(key, value)
    return builder.Finish()


def _operator(code, inputs, outputs):
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    return operator


def _code(builtin, custom=None):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.customCode = custom
    return code


def _packed(tensors, inputs, outputs, operators, codes, constants):
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, inputs, outputs, operators
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], codes
    model.buffers = [schema.BufferT()]
    for constant in constants:
        buffer = schema.BufferT()
        buffer.data = constant.tobytes()
        model.buffers.append(buffer)
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
