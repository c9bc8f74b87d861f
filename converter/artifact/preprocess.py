"""Preprocessing that travels inside the package, so that it can't differ from the version that it belongs to.

One implementation for converter, device and server. It turns raw values (a camera's 0..255, a sensor's counts) into
what the model was trained on: `(raw * scale - mean) / std`, in float32, then the input's own dtype.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from converter.artifact.errors import ManifestInvalid
from converter.artifact.signature import TensorSpec


class InputPreprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one input is made from raw values.

    Attributes:
        scale: Factor on the raw values; 1/255 for 8-bit images that the model wants in 0..1.
        mean: Subtracted after scaling: empty for none, one value, or one for each index of the last axis.
        std: Divided by at the end: likewise.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ManifestInvalid(f"preprocessing: scale must be finite and not 0, got {self.scale}")
        if not all(math.isfinite(value) for value in self.mean):
            raise ManifestInvalid(f"preprocessing: mean must be finite, got {self.mean}")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ManifestInvalid(f"preprocessing: std must be finite and above 0, got {self.std}")

    def apply(self, raw: npt.ArrayLike, spec: TensorSpec) -> npt.NDArray[np.generic]:
        """Raw values -> an array of `spec`'s dtype and of raw's shape.

        For integer inputs values are rounded to the nearest even and clipped to what the dtype holds; integers that
        nothing is done to never pass through floats.

        Raises:
            ManifestInvalid: mean or std has neither one value nor one for each index of the last axis.
        """
        if self == _IDENTITY:
            return _to_dtype(np.asarray(raw), spec.numpy_dtype)
        values: npt.NDArray[Any] = np.asarray(raw, dtype=np.float32)
        channels = values.shape[-1] if values.ndim else 1
        for name, constants in (("mean", self.mean), ("std", self.std)):
            if len(constants) not in (0, 1, channels):
                raise ManifestInvalid(
                    f"preprocessing of {spec.name!r}: {name} has {len(constants)} values, the last axis has {channels}"
                )
        if self.scale != 1.0:
            values = values * np.float32(self.scale)
        if self.mean:
            values = values - np.asarray(self.mean, dtype=np.float32)
        if self.std:
            values = values / np.asarray(self.std, dtype=np.float32)
        return _to_dtype(values, spec.numpy_dtype)

    @property
    def canonical(self) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """Scale, mean and std, written the same way wherever they do the same."""
        return float(self.scale), _shortest(self.mean, 0.0), _shortest(self.std, 1.0)


def _shortest(constants: tuple[float, ...], neutral: float) -> tuple[float, ...]:
    """Equal constants once, neutral ones not at all; without integers and negative zeros, which are written apart."""
    values = tuple(float(value) + 0.0 for value in constants)
    if len(set(values)) == 1:
        values = values[:1]
    return () if values == (neutral,) else values


def _to_dtype(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    if dtype.kind in "iu" and values.dtype.kind in "fiu" and values.dtype != dtype:
        values = _clipped(values, np.iinfo(np.dtype(dtype.name)))
    shaped: npt.NDArray[np.generic] = values.astype(dtype, copy=False)
    return shaped


def _clipped(values: npt.NDArray[Any], bounds: Any) -> npt.NDArray[Any]:
    if values.dtype.kind in "iu":
        own: Any = np.iinfo(np.dtype(values.dtype.name))
        fitting: npt.NDArray[Any] = np.clip(values, max(own.min, bounds.min), min(own.max, bounds.max))
        return fitting
    # As a float, the largest int64 is one too large; the next smaller float is not.
    high = np.float64(bounds.max)
    high = high if int(high) <= bounds.max else np.nextafter(high, 0.0)
    clipped: npt.NDArray[Any] = np.clip(np.rint(values.astype(np.float64)), bounds.min, high)
    return clipped


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Preprocessing of a whole package: by input name; an input that is not named takes its values as they are."""

    inputs: dict[str, InputPreprocess] = {}

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of the canonical JSON form: equal where the same is done to the same inputs."""
        done = {name: one.canonical for name, one in self.inputs.items()}
        idle = _IDENTITY.canonical
        canonical = msgspec.json.encode({name: one for name, one in done.items() if one != idle}, order="sorted")
        return "sha256:" + hashlib.sha256(canonical).hexdigest()

    def apply(self, name: str, raw: npt.ArrayLike, spec: TensorSpec) -> npt.NDArray[np.generic]:
        """Raw values for the input `name` -> the array that the model takes."""
        return self.inputs.get(name, _IDENTITY).apply(raw, spec)


_IDENTITY = InputPreprocess()
