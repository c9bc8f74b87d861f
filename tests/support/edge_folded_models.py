"""A package of y = (pixel - 128) / 64 in two variants: uint8 pixels in, or what preprocessing makes of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support.edge_models import WIDTH, scale_model, scale_signature

from converter.artifact import (
    FORMAT_VERSION,
    InputPreprocess,
    Manifest,
    Package,
    Preprocess,
    Quantization,
    Signature,
    Source,
    TensorSpec,
    Variant,
    publish,
)
from converter.artifact.digest import file_entry

STEP = InputPreprocess(scale=1 / 64, mean=(2.0,))
"""Its constants are powers of two, so that every way to the answer is exact."""


def pixels(count: int, start: int = 0) -> np.ndarray:
    """`count` different rows of raw pixels for `x`."""
    return (np.arange(count * WIDTH) * 7 + start).astype(np.uint8).reshape(count, WIDTH)


def answer(raw: np.ndarray) -> np.ndarray:
    return (raw.astype(np.float32) - 128) / 64


def folded_model(zero_point: int = 128) -> bytes:
    """A TFLite file with one DEQUANTIZE: input `x`, uint8 [-1, 4] whose stored values are pixels, output `y`."""
    tensors = []
    for name, kind in (("x", schema.TensorType.UINT8), ("y", schema.TensorType.FLOAT32)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [1, WIDTH], [-1, WIDTH]
        tensor.type, tensor.buffer = kind, 0
        tensors.append(tensor)
    tensors[0].quantization = schema.QuantizationParametersT()
    tensors[0].quantization.scale, tensors[0].quantization.zeroPoint = [1 / 64], [zero_point]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0], [1]
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = "serving_default", 0
    definition.inputs, definition.outputs = [_entry("x", 0)], [_entry("y", 1)]
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers, model.signatureDefs = [schema.BufferT()], [definition]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _entry(name, index):
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def folded_signature(zero_point: int = 128) -> Signature:
    """The tensors of `folded_model`."""
    stored = Quantization(scales=(1 / 64,), zero_points=(zero_point,))
    seen = scale_signature()
    spec = TensorSpec(name="x", dtype="uint8", shape=(-1, WIDTH), quantization=stored)
    return Signature(name=seen.name, inputs=(spec,), outputs=seen.outputs, batch_axis=0)


def publish_folded(
    store: Path, version: int, *, step: InputPreprocess = STEP, chosen: str = "uint8", zero_point: int = 128
) -> Package:
    """Publishes `scale/version` with the variants `uint8`, into which `step` is folded, and `float32`."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("float32.tflite", "uint8.tflite")}
        files["float32.tflite"].write_bytes(scale_model(1.0))
        files["uint8.tflite"].write_bytes(folded_model(zero_point))
        entries = {name: file_entry(path) for name, path in files.items()}
        signatures = {"float32": scale_signature(), "uint8": folded_signature(zero_point)}
        variants = tuple(
            Variant(
                name=name,
                file=f"{name}.tflite",
                size_bytes=entries[f"{name}.tflite"].size_bytes,
                signatures=(signature,),
                folded=("x",) if name == "uint8" else (),
            )
            for name, signature in signatures.items()
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model="scale",
            version=version,
            signatures=(scale_signature(),),
            variants=variants,
            chosen={"default": chosen},
            source=Source(format="saved_model", digest="sha256:none"),
            files=entries,
            preprocess=Preprocess(inputs={"x": step}),
        )
        return publish(files, manifest, store)
