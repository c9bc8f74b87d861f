"""Holds a file's tensors against what the manifest says of them, before anything is run."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.artifact import TensorSpec
from edge_runtime.engine.base import SessionSpec
from edge_runtime.errors import PackageRefused

GRAPH = ""
"""The name of the only signature of a file that has none of its own."""

Details = dict[str, dict[str, Any]]
"""What an interpreter says of each tensor, by name."""


def details_of(interpreter: Any, signature: str) -> tuple[Details, Details]:
    """What the interpreter says of the inputs and the outputs of a signature.

    For `GRAPH`, and for whatever name where the file has no signatures, it is the graph's own.

    The runner must be gone afterwards: while it holds the interpreter's inside, LiteRT refuses to resize and to run.
    """
    if signature == GRAPH or not interpreter.get_signature_list():
        return (
            {detail["name"]: detail for detail in interpreter.get_input_details()},
            {detail["name"]: detail for detail in interpreter.get_output_details()},
        )
    runner = interpreter.get_signature_runner(signature)
    return runner.get_input_details(), runner.get_output_details()


def check_tensors(interpreter: Any, spec: SessionSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Compares names, dtypes, shapes and quantization of every signature.

    A manifest that says int8 of a float tensor would have its values dequantized into nonsense.

    Returns:
        The shapes of the inputs, VARIABLE where a size is not fixed, by signature and name: in the manifest's order,
        or the file's where it has no signatures.

    Raises:
        PackageRefused: they differ; the text says in what.
    """
    if not spec.signatures:
        return {GRAPH: _graph_inputs(interpreter, spec)}
    found = interpreter.get_signature_list()
    # A bare file without signatures has one in its manifest, which stands for its graph.
    unsigned = not found and len(spec.signatures) == 1
    for signature in spec.signatures:
        if signature.name not in found and not unsigned:
            raise PackageRefused(
                f"{spec.subject}: the file has no signature {signature.name!r}; there are {sorted(found)}"
            )
        inputs, outputs = details_of(interpreter, signature.name)
        for kind, tensors, details in (("input", signature.inputs, inputs), ("output", signature.outputs, outputs)):
            if {each.name for each in tensors} != set(details):
                raise PackageRefused(
                    f"{spec.subject}, signature {signature.name!r}: {kind}s {sorted(details)} in the file, "
                    f"{sorted(each.name for each in tensors)} in the manifest"
                )
            for each in tensors:
                _check(spec.subject, each, details[each.name])
    return {one.name: {each.name: tuple(each.shape) for each in one.inputs} for one in spec.signatures}


def _graph_inputs(interpreter: Any, spec: SessionSpec) -> dict[str, tuple[int, ...]]:
    """The inputs of a file without signatures.

    Raises:
        PackageRefused: two tensors have one name, so that a name does not say which.
    """
    for kind, details in (("input", interpreter.get_input_details()), ("output", interpreter.get_output_details())):
        names = [detail["name"] for detail in details]
        if len(set(names)) != len(names):
            raise PackageRefused(f"{spec.subject}: {kind}s of one name: {names}")
    return {
        detail["name"]: tuple(int(size) for size in detail["shape_signature"])
        for detail in interpreter.get_input_details()
    }


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
