"""Holds a file's tensors against what the manifest says of them, before anything is run."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.artifact import TensorSpec
from edge_runtime.engine.base import SessionSpec
from edge_runtime.errors import PackageRefused


def check_tensors(interpreter: Any, spec: SessionSpec) -> None:
    """Compares names, dtypes, shapes and quantization of every signature.

    A manifest that says int8 of a float tensor would have its values dequantized into nonsense.

    Raises:
        PackageRefused: they differ; the text says in what.
    """
    found = interpreter.get_signature_list()
    for signature in spec.signatures:
        if signature.name not in found:
            raise PackageRefused(
                f"{spec.subject}: the file has no signature {signature.name!r}; there are {sorted(found)}"
            )
        runner = interpreter.get_signature_runner(signature.name)
        for kind, tensors, details in (
            ("input", signature.inputs, runner.get_input_details()),
            ("output", signature.outputs, runner.get_output_details()),
        ):
            if {each.name for each in tensors} != set(details):
                raise PackageRefused(
                    f"{spec.subject}, signature {signature.name!r}: {kind}s {sorted(details)} in the file, "
                    f"{sorted(each.name for each in tensors)} in the manifest"
                )
            for each in tensors:
                _check(spec.subject, each, details[each.name])


def _check(file: str, spec: TensorSpec, detail: dict[str, Any]) -> None:
    kind = np.dtype(detail["dtype"])
    dtype = "string" if kind.kind in "OSU" else kind.name
    shape = tuple(int(size) for size in detail["shape_signature"])
    if (dtype, shape) != (spec.dtype, spec.shape):
        raise PackageRefused(f"{file}, tensor {spec.name!r}: {dtype}{list(shape)} in the file, {spec} in the manifest")
    if spec.quantization is None:
        return
    parameters = detail["quantization_parameters"]
    scales, zero_points = parameters["scales"], parameters["zero_points"]
    if (
        len(scales) != len(spec.quantization.scales)
        or not np.allclose(scales, spec.quantization.scales, rtol=1e-5, atol=0)
        or tuple(int(point) for point in zero_points) != spec.quantization.zero_points
        or (len(scales) > 1 and int(parameters["quantized_dimension"]) != spec.quantization.axis)
    ):
        raise PackageRefused(f"{file}, tensor {spec.name!r}: its quantization is not the manifest's")
