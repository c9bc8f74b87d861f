"""Preprocessing folded into the quantization of an input, so that a camera's bytes go in as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import Signature
from converter.errors import VariantUnusable

MAX_RAW_ERROR = 1.0
"""In raw steps of 1: a zero point is a whole number, so half a step of rounding is inevitable."""


def set_input_ranges(
    calibrated: bytes, signatures: Sequence[Signature], ranges: Mapping[str, tuple[float, float]]
) -> bytes:
    """A calibrated TFLite model with these ranges at its inputs instead of those that were observed.

    Args:
        calibrated: As of `calibration.calibrate`.
        signatures: Those of the model.
        ranges: By input name, the real values that 0 and 255 are to stand for.

    Raises:
        VariantUnusable: a name is no input of any signature, or its tensor holds no range (it is no float).
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    missing = set(ranges)
    for definition in model.signatureDefs or []:
        graph = model.subgraphs[definition.subgraphIndex]
        for entry in definition.inputs:
            name = entry.name.decode()
            if name not in ranges:
                continue
            tensor = graph.tensors[entry.tensorIndex]
            if tensor.type != schema.TensorType.FLOAT32 or tensor.quantization is None:
                raise VariantUnusable(f"input {name!r} can't take raw bytes: it is not quantized from float32")
            low, high = ranges[name]
            tensor.quantization.min, tensor.quantization.max = [low], [high]
            missing.discard(name)
    if missing:
        known = sorted({spec.name for signature in signatures for spec in signature.inputs})
        raise VariantUnusable(f"no input {min(missing)!r} to take raw bytes; there are {known}")
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def check_folded(file: Path, signatures: Sequence[Signature], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Makes sure that in a TFLite file each of the 256 raw values is stored as itself, to `MAX_RAW_ERROR`.

    Raises:
        VariantUnusable: an input is not uint8, or a raw value would have to be stored as another one.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only in a child

    interpreter = Interpreter(model_path=str(file))
    for signature in signatures:
        details = interpreter.get_signature_runner(signature.name).get_input_details()
        for name in sorted(set(ranges) & set(details)):
            _check_input(name, details[name], ranges[name])


def _check_input(name: str, detail: Mapping[str, Any], bounds: tuple[float, float]) -> None:
    if detail["dtype"] is not np.uint8:
        raise VariantUnusable(f"input {name!r} was to be uint8 and is {np.dtype(detail['dtype']).name}")
    scale, zero_point = detail["quantization"]
    low, high = bounds
    raw = np.arange(256, dtype=np.float64)
    stored = (low + raw * (high - low) / 255.0) / scale + zero_point
    worst = int(np.abs(stored - raw).argmax())
    if abs(stored[worst] - raw[worst]) > MAX_RAW_ERROR:
        raise VariantUnusable(
            f"input {name!r} can't take raw bytes: {worst} would have to be stored as {stored[worst]:.1f}, since the "
            f"range {low:g} to {high:g} can't be quantized as it is (it must include 0)"
        )
