"""Files such as the Edge TPU's compiler makes, and packages of them: one custom operator, y = factor * x.

Only a library that claims `edgetpu-custom-op` runs them, such as the one that `edge_delegates.build_edgetpu` builds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support.edge_models import WIDTH, scale_model

from converter.artifact import (
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

SCALE = 0.5
"""Of the int8 tensors, with the zero point 0: whole and half numbers from -64 to 63.5 are exact."""

_TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}


def edgetpu_model(
    factor: float,
    *,
    dtype: str = "int8",
    names: tuple[str, str] = ("x", "y"),
    signature: str | None = "serving_default",
) -> bytes:
    """A file whose only operator is the Edge TPU's: `names[0]` [1, 4] -> `names[1]` [1, 4], factor * x.

    Args:
        factor: Of the operator.
        dtype: Of both tensors: `float32`, or `int8`, `uint8` with `SCALE`.
        names: Of the input and the output.
        signature: Its name; None for a file without, as the compiler's segments are.
    """
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0], [1]
    operator.customOptions = list(np.float32(factor).tobytes())
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(name, dtype) for name in names]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "edgetpu-custom-op"
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT()]
    if signature is not None:
        model.signatureDefs = [_signature_def(signature, names)]
    return _packed(model)


def segment_models(factor: float, segments: int, *, dtype: str = "int8") -> list[bytes]:
    """The same computation cut into files without signatures; the outputs of one are named as the inputs of the next.

    The first multiplies by `factor`, the others by 1.
    """
    names = ["x", *(f"cut_{number}" for number in range(1, segments)), "y"]
    return [
        edgetpu_model(
            factor if number == 0 else 1.0, dtype=dtype, names=(names[number], names[number + 1]), signature=None
        )
        for number in range(segments)
    ]


def _packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name, dtype):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, WIDTH], _TYPES[dtype], 0
    if dtype != "float32":
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [SCALE], [0]
        tensor.quantization = quantization
    return tensor


def _signature_def(name, names):
    def entry(index):
        map_ = schema.TensorMapT()
        map_.name, map_.tensorIndex = names[index], index
        return map_

    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = name, 0
    definition.inputs, definition.outputs = [entry(0)], [entry(1)]
    return definition


def int8_model(factor: float) -> bytes:
    """The CPU's int8 form: input `x` and output `y`, int8 [-1, 4] with `SCALE`, a MUL by a constant."""
    model = schema.ModelT.InitFromPackedBuf(scale_model(factor), 0)
    for tensor, scale in zip(model.subgraphs[0].tensors, (SCALE, abs(factor) / 64, SCALE), strict=True):
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [scale], [0]
        tensor.type, tensor.quantization = schema.TensorType.INT8, quantization
    model.buffers[1].data = np.full((1,), 64 * np.sign(factor), np.int8).tobytes()
    return _packed(model)


def scale_signature(dtype: str = "float32", batch: int = -1) -> Signature:
    """The tensors as callers see them (float32 [-1, 4]), or as a file has them (int8; the Edge TPU's batch is 1)."""
    quantization = None if dtype == "float32" else Quantization(scales=(SCALE,), zero_points=(0,))
    return Signature(
        name="serving_default",
        inputs=(TensorSpec(name="x", dtype=dtype, shape=(batch, WIDTH), quantization=quantization),),
        outputs=(TensorSpec(name="y", dtype=dtype, shape=(batch, WIDTH), quantization=quantization),),
        batch_axis=0,
    )


def publish_edgetpu(
    store: Path,
    version: int,
    factor: float,
    *,
    segments: int = 1,
    with_cpu_variant: bool = True,
    model: str = "scale",
) -> Package:
    """Publishes `model/version`, whose answer is factor * x, as the converter lays an Edge TPU's package out.

    Args:
        store: Where to.
        version: Of the model.
        factor: Of the answer.
        segments: Into how many files the Edge TPU's variant is cut.
        with_cpu_variant: Whether `float32` and `int8` are there beside `int8-edgetpu`.
        model: Its name.
    """
    cut = [edgetpu_model(factor)] if segments == 1 else segment_models(factor, segments)
    paths = [f"model_segment_{index}_of_{segments}_edgetpu.tflite" for index in range(segments)]
    contents = dict(zip(paths if segments > 1 else ["model_edgetpu.tflite"], cut, strict=True))
    variants = [
        Variant(
            name="int8-edgetpu",
            file=next(iter(contents)),
            size_bytes=len(cut[0]),
            signatures=(scale_signature("int8", batch=1),),
            delegate="edgetpu",
            segments=tuple(contents) if segments > 1 else (),
        )
    ]
    for name, content in (("float32", scale_model(factor)), ("int8", int8_model(factor))) if with_cpu_variant else ():
        contents[f"{name}.tflite"] = content
        variants.insert(
            -1,
            Variant(name=name, file=f"{name}.tflite", size_bytes=len(content), signatures=(scale_signature(name),)),
        )
    with tempfile.TemporaryDirectory() as folder:
        files = {path: Path(folder) / path for path in contents}
        for path, content in contents.items():
            files[path].write_bytes(content)
        manifest = Manifest(
            format_version=2,
            model=model,
            version=version,
            signatures=(scale_signature(),),
            variants=tuple(variants),
            chosen={"default": variants[0].name},
            source=Source(format="tflite", digest="sha256:none"),
            files={path: file_entry(file) for path, file in files.items()},
            preprocess_fingerprint=Preprocess().fingerprint,
        )
        return publish(files, manifest, store)
