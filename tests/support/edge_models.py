"""Tiny real TFLite models and packages, built without TensorFlow: y = factor * x, row by row."""

from __future__ import annotations

import tempfile
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.artifact import Manifest, Package, Preprocess, Signature, Source, TensorSpec, Variant, publish
from converter.artifact.digest import file_entry
from converter.artifact.signing import SigningKey

WIDTH = 4


def scale_model(
    factor: float, *, signature: str = "serving_default", batched: bool = True, width: int = WIDTH
) -> bytes:
    """A TFLite file with one MUL: input `x` and output `y`, float32 [-1, 4] (or [1, 4] if it is not batched)."""
    constant = schema.BufferT()
    constant.data = np.full((1,), factor, np.float32).tobytes()
    shape = [1, width]
    flexible = [-1, width] if batched else shape
    tensors = [_tensor("x", shape, flexible, 0), _tensor("factor", [1], [1], 1), _tensor("y", shape, flexible, 0)]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [2], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), constant]
    model.signatureDefs = [_signature_def(signature)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name, shape, signature, buffer):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.shapeSignature = name, shape, signature
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, buffer
    return tensor


def _signature_def(name):
    def entry(tensor, index):
        map_ = schema.TensorMapT()
        map_.name, map_.tensorIndex = tensor, index
        return map_

    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = name, 0
    definition.inputs, definition.outputs = [entry("x", 0)], [entry("y", 2)]
    return definition


def scale_signature(*, name: str = "serving_default", batched: bool = True, width: int = WIDTH) -> Signature:
    """What `scale_model` takes and gives."""
    shape = (-1 if batched else 1, width)
    return Signature(
        name=name,
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=shape),),
        batch_axis=0 if batched else None,
    )


def publish_scale(
    store: Path,
    version: int,
    factor: float,
    *,
    model: str = "scale",
    labels: tuple[str, ...] = (),
    preprocess: Preprocess | None = None,
    content: bytes | None = None,
    batched: bool = True,
    width: int = WIDTH,
    key: SigningKey | None = None,
) -> Package:
    """Publishes `model/version` whose answer is factor * x; `content` puts other bytes in the place of the model."""
    signature = scale_signature(batched=batched, width=width)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float32.tflite"
        file.write_bytes(scale_model(factor, batched=batched, width=width) if content is None else content)
        entry = file_entry(file)
        manifest = Manifest(
            format_version=1,
            model=model,
            version=version,
            signatures=(signature,),
            variants=(
                Variant(
                    name="float32",
                    file="variants/float32.tflite",
                    size_bytes=entry.size_bytes,
                    signatures=(signature,),
                ),
            ),
            chosen={"default": "float32"},
            source=Source(format="saved_model", digest="sha256:none"),
            files={"variants/float32.tflite": entry},
            labels=labels,
            preprocess=preprocess or Preprocess(),
        )
        return publish({"variants/float32.tflite": file}, manifest, store, sign=key.sign if key else None)


def rows(count: int, start: float = 0.0) -> np.ndarray:
    """`count` different rows for `x`."""
    return (np.arange(count * WIDTH, dtype=np.float32) + np.float32(start)).reshape(count, WIDTH)
