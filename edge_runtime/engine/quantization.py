"""Between the tensors that callers see and those that a quantized file has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime.errors import PackageRefused
from edge_runtime.types import Array, Arrays


class Codec:
    """Quantizes inputs and dequantizes outputs of one signature; a tensor whose dtype agrees passes as it is."""

    def __init__(self, inputs: dict[str, _Affine], outputs: dict[str, _Affine]) -> None:
        self._inputs = inputs
        self._outputs = outputs

    def quantize(self, inputs: Arrays) -> Arrays:
        """Real values -> what the file takes."""
        return {name: self._inputs[name].quantize(array) if name in self._inputs else array
                for name, array in inputs.items()}  # fmt: skip

    def dequantize(self, outputs: Arrays) -> Arrays:
        """What the file gives -> real values."""
        return {name: self._outputs[name].dequantize(array) if name in self._outputs else array
                for name, array in outputs.items()}  # fmt: skip


class _Affine:
    """real = scale * (stored - zero_point), elementwise along one axis or for the whole tensor."""

    def __init__(self, quantization: Quantization, seen: TensorSpec, own: TensorSpec) -> None:
        shape = [1] * len(own.shape)
        if len(quantization.scales) > 1:
            shape[quantization.axis] = len(quantization.scales)
        self._scale = np.asarray(quantization.scales, np.float32).reshape(shape)
        self._inverse = np.float32(1) / self._scale
        self._zero = np.asarray(quantization.zero_points, np.float32).reshape(shape)
        self._stored: np.dtype[Any] = own.numpy_dtype
        self._real: np.dtype[Any] = seen.numpy_dtype
        bounds = np.iinfo(own.dtype)
        self._low, self._high = bounds.min, bounds.max

    def quantize(self, array: Array) -> Array:
        values: npt.NDArray[np.float32] = array.astype(np.float32)
        values *= self._inverse
        np.rint(values, out=values)
        values += self._zero
        np.clip(values, self._low, self._high, out=values)
        stored: Array = values.astype(self._stored)
        return stored

    def dequantize(self, array: Array) -> Array:
        values: npt.NDArray[np.float32] = array.astype(np.float32)
        values -= self._zero
        values *= self._scale
        real: Array = values.astype(self._real, copy=False)
        return real


def codec(seen: Signature, own: Signature) -> Codec | None:
    """The codec between the two, None if the tensors agree.

    Raises:
        PackageRefused: dtypes differ, and the file's tensor says nothing of its quantization.
    """
    inputs = _affine(seen.inputs, own.inputs)
    outputs = _affine(seen.outputs, own.outputs)
    return Codec(inputs, outputs) if inputs or outputs else None


def _affine(seen: tuple[TensorSpec, ...], own: tuple[TensorSpec, ...]) -> dict[str, _Affine]:
    found: dict[str, _Affine] = {}
    for one, other in zip(seen, own, strict=True):
        if one.dtype == other.dtype:
            continue
        if other.quantization is None:
            raise PackageRefused(
                f"tensor {one.name!r}: {other} in the file, {one} outside, and no quantization between"
            )
        found[one.name] = _Affine(other.quantization, one, other)
    return found
