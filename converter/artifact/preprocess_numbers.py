"""The numeric steps of preprocessing, and the dtype of what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]


def shortest(constants: tuple[float, ...], neutral: float) -> tuple[float, ...]:
    """Equal constants once, neutral ones not at all; without integers and negative zeros, which are written apart."""
    values = tuple(float(value) + 0.0 for value in constants)
    if len(set(values)) == 1:
        values = values[:1]
    return () if values == (neutral,) else values


def normalised(values: npt.NDArray[Any], scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> _Array:
    """`(values * scale - mean) / std`, all float32; mean and std: empty, one value, or one each along the last axis."""
    if scale != 1.0:
        values = values * np.float32(scale)
    if mean:
        values = values - np.asarray(mean, dtype=np.float32)
    if std:
        values = values / np.asarray(std, dtype=np.float32)
    return values


def to_dtype(values: _Array, dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """The values as `dtype`; as integers they are rounded to the nearest even and clipped to what the dtype holds."""
    if dtype.kind in "iu" and values.dtype.kind in "fiu" and values.dtype != dtype:
        values = _clipped(values, np.iinfo(np.dtype(dtype.name)))
    shaped: npt.NDArray[np.generic] = values.astype(dtype, copy=False)
    return shaped


def _clipped(values: _Array, bounds: Any) -> _Array:
    if values.dtype.kind in "iu":
        own: Any = np.iinfo(np.dtype(values.dtype.name))
        fitting: _Array = np.clip(values, max(own.min, bounds.min), min(own.max, bounds.max))
        return fitting
    # As a float, the largest int64 is one too large; the next smaller float is not.
    high = np.float64(bounds.max)
    high = high if int(high) <= bounds.max else np.nextafter(high, 0.0)
    clipped: _Array = np.clip(np.rint(values.astype(np.float64)), bounds.min, high)
    return clipped
