"""Between the tensors that callers see and those that a quantized file has.

The arithmetic is the contract's own, the one with which the converter measured the variant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime.errors import InvalidInput, PackageRefused
from edge_runtime.types import Array, Arrays


@dataclass(frozen=True)
class _Step:
    """How one tensor is brought from one side to the other."""

    quantization: Quantization
    seen: TensorSpec
    own: TensorSpec

    def quantize(self, array: Array) -> Array:
        try:
            with np.errstate(invalid="raise"):
                return self.quantization.quantize(array, self.own.numpy_dtype)
        except FloatingPointError as error:
            raise InvalidInput(f"input {self.seen.name!r} holds a NaN, which can't be quantized") from error

    def dequantize(self, array: Array) -> Array:
        real: Array = self.quantization.dequantize(array).astype(self.seen.numpy_dtype, copy=False)
        return real


class Codec:
    """Quantizes inputs and dequantizes outputs of one signature; a tensor whose dtype agrees passes as it is."""

    def __init__(self, inputs: dict[str, _Step], outputs: dict[str, _Step]) -> None:
        self._inputs = inputs
        self._outputs = outputs

    def quantize(self, inputs: Arrays) -> Arrays:
        """Real values -> what the file takes."""
        steps = self._inputs
        return {name: steps[name].quantize(array) if name in steps else array for name, array in inputs.items()}

    def dequantize(self, outputs: Arrays) -> Arrays:
        """What the file gives -> real values."""
        steps = self._outputs
        return {name: steps[name].dequantize(array) if name in steps else array for name, array in outputs.items()}


def codec(seen: Signature, own: Signature) -> Codec | None:
    """The codec between the two, None if the tensors agree.

    Raises:
        PackageRefused: dtypes differ, and the file's tensor says nothing of its quantization.
    """
    inputs = _steps(seen.inputs, own.inputs)
    outputs = _steps(seen.outputs, own.outputs)
    return Codec(inputs, outputs) if inputs or outputs else None


def _steps(seen: tuple[TensorSpec, ...], own: tuple[TensorSpec, ...]) -> dict[str, _Step]:
    found: dict[str, _Step] = {}
    for one, other in zip(seen, own, strict=True):
        if one.dtype == other.dtype:
            continue
        if other.quantization is None:
            raise PackageRefused(
                f"tensor {one.name!r}: {other} in the file, {one} outside, and no quantization between"
            )
        found[one.name] = _Step(other.quantization, one, other)
    return found
