"""The tensors of a file without signatures, by their own names."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.artifact import ManifestInvalid, Quantization, Signature, TensorSpec
from edge_runtime.engine.library import interpreter_module
from edge_runtime.errors import EngineFailed, PackageRefused


def file_tensors(content: bytes, subject: str) -> Signature:
    """The file's inputs and outputs in its own order, as a signature named "".

    No delegate is loaded and no tensor allocated, so that files for an Edge TPU can be read without one.

    Args:
        content: The file.
        subject: What errors call it.

    Raises:
        EngineFailed: LiteRT refuses the file.
        PackageRefused: it has no inputs or outputs, or two of the same name.
    """
    try:
        interpreter = interpreter_module().Interpreter(model_content=content)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (RuntimeError, ValueError, MemoryError) as error:
        raise EngineFailed(f"{subject}: LiteRT can't load it: {error}") from error
    try:
        return Signature(name="", inputs=tuple(map(_spec, inputs)), outputs=tuple(map(_spec, outputs)))
    except ManifestInvalid as error:
        raise PackageRefused(f"{subject}: {error}") from error


def _spec(detail: dict[str, Any]) -> TensorSpec:
    kind = np.dtype(detail["dtype"])
    parameters = detail["quantization_parameters"]
    quantization = None
    if len(parameters["scales"]):
        quantization = Quantization(
            scales=tuple(float(scale) for scale in parameters["scales"]),
            zero_points=tuple(int(point) for point in parameters["zero_points"]),
            axis=int(parameters["quantized_dimension"]),
        )
    return TensorSpec(
        name=str(detail["name"]),
        dtype="string" if kind.kind in "OSU" else kind.name,
        shape=tuple(int(size) for size in detail["shape_signature"]),
        quantization=quantization,
    )
