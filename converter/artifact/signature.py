"""Tensor specs and signatures: what goes into a model and what comes out, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from converter.artifact.errors import ManifestInvalid

VARIABLE = -1
"""A dimension whose size the caller chooses."""

DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "complex64", "complex128", "string"}
)
"""The dtypes that a spec may have: numpy's names, and `string` for arrays of bytes."""


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """Affine quantization: real = scale * (stored - zero_point).

    Attributes:
        scales: One for the whole tensor, or one for each index along `axis`.
        zero_points: As many as `scales`.
        axis: The quantized dimension where there are several scales, else 0.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    def __post_init__(self) -> None:
        if not self.scales or len(self.scales) != len(self.zero_points):
            raise ManifestInvalid(
                f"quantization needs as many zero points as scales: {len(self.scales)} scales, "
                f"{len(self.zero_points)} zero points"
            )
        if not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ManifestInvalid(f"quantization scales must be positive and finite: {self.scales}")

    def quantize(self, values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Finite real numbers -> stored integers of `dtype`, same shape: rounded half to even, clipped to its range."""
        real: npt.NDArray[Any] = np.asarray(values, dtype=np.float32)
        scale, zero_point = self._constants(real.ndim)
        bounds = np.iinfo(np.dtype(dtype))
        stored: npt.NDArray[Any] = np.clip(np.rint(real * (np.float32(1) / scale)) + zero_point, bounds.min, bounds.max)
        return stored.astype(dtype)

    def dequantize(self, stored: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Stored integers -> the real numbers that they stand for, float32, same shape."""
        integers: npt.NDArray[Any] = np.asarray(stored)
        scale, zero_point = self._constants(integers.ndim)
        return (integers.astype(np.float32) - zero_point) * scale

    def _constants(self, rank: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scales and zero points, shaped to broadcast along `axis` over an array of that rank."""
        shape = [1] * rank
        if len(self.scales) > 1:
            shape[self.axis] = len(self.scales)
        else:
            shape = []
        return (
            np.asarray(self.scales, dtype=np.float32).reshape(shape),
            np.asarray(self.zero_points, dtype=np.float32).reshape(shape),
        )


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output.

    Attributes:
        name: The name in the signature.
        dtype: A name out of `DTYPES`.
        shape: Dimensions; -1 is variable. The batch axis is one of them.
        quantization: For integer tensors that stand for real numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ManifestInvalid("a tensor spec has no name")
        if self.dtype not in DTYPES:
            raise ManifestInvalid(f"tensor {self.name!r}: unknown dtype {self.dtype!r}")
        if any(dim < VARIABLE for dim in self.shape):
            raise ManifestInvalid(f"tensor {self.name!r}: impossible shape {list(self.shape)}")

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype of arrays for this tensor; strings are `object` arrays of bytes."""
        return np.dtype(object) if self.dtype == "string" else np.dtype(self.dtype)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits: same rank, and equal wherever the spec fixes a dimension."""
        return len(shape) == len(self.shape) and all(
            want in (VARIABLE, have) for want, have in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A named entry point of a model.

    Attributes:
        name: The key in the SavedModel, `serving_default` as a rule.
        inputs: In a fixed order; names are unique.
        outputs: The same.
        batch_axis: The axis along which requests can be joined, in every input and output; None if they can't.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axis: int | None = None

    def __post_init__(self) -> None:
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            if not names:
                raise ManifestInvalid(f"signature {self.name!r} has no {kind}")
            if len(set(names)) != len(names):
                raise ManifestInvalid(f"signature {self.name!r} names an {kind} twice: {names}")
        if self.batch_axis is not None:
            for spec in (*self.inputs, *self.outputs):
                if not 0 <= self.batch_axis < len(spec.shape):
                    raise ManifestInvalid(
                        f"signature {self.name!r}: batch axis {self.batch_axis} is not in {spec.name!r} {spec}"
                    )

    def input(self, name: str) -> TensorSpec:
        """The input of that name; KeyError if there is none."""
        return _by_name(self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError if there is none."""
        return _by_name(self.outputs, name)

    def rows(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> int:
        """How many rows a request has along the batch axis; 1 where there is none. The arrays fit the specs."""
        if self.batch_axis is None:
            return 1
        return int(arrays[self.inputs[0].name].shape[self.batch_axis])


def _by_name(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise KeyError(name)
