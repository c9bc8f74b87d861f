"""Between the tensors that callers see and those that a quantized file has.

The arithmetic is the contract's own, the one with which the converter measured the variant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime.errors import InvalidInput, PackageRefused
from edge_runtime.pixels import Reals
from edge_runtime.types import Array, Arrays

_FOLDED_STEPS = 1.0
"""How far stored values may be from pixels: half a step is the rounding of the zero point, the rest the scale's."""


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


class _Quantizes(Protocol):
    def quantize(self, array: Array) -> Array: ...


@dataclass(frozen=True)
class _PixelStep:
    """How an input goes in that may come as uint8 pixels.

    Attributes:
        folded: Whether pixels are what the file takes.
        reals: Makes of pixels what callers otherwise give.
        step: For what callers otherwise give; None if it goes in as it is.
    """

    folded: bool
    reals: Reals
    step: _Step | None

    def quantize(self, array: Array) -> Array:
        if array.dtype == np.uint8:
            if self.folded:
                return array
            array = self.reals(array)
        return array if self.step is None else self.step.quantize(array)


class Codec:
    """Quantizes inputs and dequantizes outputs of one signature; a tensor whose dtype agrees passes as it is."""

    def __init__(self, inputs: Mapping[str, _Quantizes], outputs: dict[str, _Step]) -> None:
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


def codec(
    seen: Signature, own: Signature, folded: Collection[str] = (), pixels: Mapping[str, Reals] | None = None
) -> Codec | None:
    """The codec between the two, None if the tensors agree.

    Args:
        seen: The tensors that callers see.
        own: The file's.
        folded: The inputs whose uint8 values in the file are pixels.
        pixels: The inputs that may come as pixels, see `edge_runtime.pixels`.

    Raises:
        PackageRefused: dtypes differ, and the file's tensor says nothing of its quantization; or an input is said to be
            folded, and its stored values are not pixels.
    """
    steps = _steps(seen.inputs, own.inputs)
    inputs: dict[str, _Quantizes] = dict(steps)
    for name, reals in (pixels or {}).items():
        if name in folded:
            _check_folded(own.input(name), reals)
        inputs[name] = _PixelStep(name in folded, reals, steps.get(name))
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


def _check_folded(own: TensorSpec, reals: Reals) -> None:
    """Stored values must stand for what preprocessing makes of such pixels, but for the rounding of a zero point."""
    if own.dtype != "uint8" or own.quantization is None:
        raise PackageRefused(f"input {own.name!r} is folded, and {own} in the file: it takes no pixels")
    ends = np.array([0, 255], np.uint8)
    want, have = reals(ends).astype(np.float64), own.quantization.dequantize(ends).astype(np.float64)
    if np.abs(want - have).max() > _FOLDED_STEPS * own.quantization.scales[0]:
        raise PackageRefused(
            f"input {own.name!r} is folded: its stored 0 and 255 are {have.tolist()}, "
            f"preprocessed they would be {want.tolist()}"
        )
