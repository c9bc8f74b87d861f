"""Resizing images: separable filters in numpy.

The numbers are those of `tf.image.resize` (TensorFlow 2, half-pixel centres): pixel i covers [i, i + 1), output pixel o
has its centre at (o + 0.5) * in / out, a filter that reaches over the edge is cut there and normalised again. Bicubic
without antialias can differ by some tenths of 255, since TensorFlow takes its weights from a table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converter.artifact.errors import RawInvalid

Method = Literal["nearest", "bilinear", "bicubic", "lanczos3", "area"]

MAX_SIDE = 65_535
"""Pixels along a side of what is resized: JPEG's own bound. It bounds the filters' memory."""

_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float32]

_CACHED_FILTERS = 32
"""Filters that are kept: two for each pair of sizes, and a device has few cameras. Each takes at most some 2 MB."""


def _triangle(x: _Array) -> _Array:
    return np.maximum(1.0 - x, 0.0)


def _keys_cubic(x: _Array) -> _Array:
    """R. Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos3(x: _Array) -> _Array:
    return np.where(x < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_KERNELS: dict[str, tuple[Callable[[_Array], _Array], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_keys_cubic, 2.0),
    "lanczos3": (_lanczos3, 3.0),
}
"""By method: the kernel over distances of 0 and more, and the distance from which on it is 0."""


def resize(image: _Array, size: tuple[int, int], method: Method, *, antialias: bool) -> _Array:
    """An image [height, width, channels] of numbers -> one of `size` = (height, width).

    `nearest` keeps the dtype, as does an image that has the size already; all else is float32, not clipped: bicubic and
    lanczos3 overshoot at edges. With `antialias` a filter is widened where the image gets smaller; `nearest` and `area`
    know no such thing.

    Raises:
        RawInvalid: the image has no pixels, or a side of more than `MAX_SIDE`.
    """
    height, width = image.shape[:2]
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise RawInvalid(f"an image of {height} x {width} pixels can't be resized; a side has 1 to {MAX_SIDE}")
    if (height, width) == size:
        return image
    if method == "nearest":
        return image[_nearest(height, size[0])[:, None], _nearest(width, size[1])]
    # The side that shrinks most goes first, which leaves least to do for the other.
    if size[0] * width <= size[1] * height:
        return _across(_down(image, size[0], method, antialias=antialias), size[1], method, antialias=antialias)
    return _down(_across(image, size[1], method, antialias=antialias), size[0], method, antialias=antialias)


def _nearest(length: int, wanted: int) -> npt.NDArray[np.int64]:
    # In float32, as TensorFlow computes it: in float64 a centre that falls between two pixels goes to the other one.
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * (np.float32(length) / np.float32(wanted))
    indices: npt.NDArray[np.int64] = np.minimum(np.floor(centres).astype(np.int64), length - 1)
    return indices


def _across(image: _Array, width: int, method: Method, *, antialias: bool) -> _Floats:
    """Resizes the width: the image on its side."""
    turned = _down(np.ascontiguousarray(image.transpose(1, 0, 2)), width, method, antialias=antialias)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


def _down(image: _Array, height: int, method: Method, *, antialias: bool) -> _Floats:
    """Resizes the height: each output row is a weighted sum of a few neighbouring rows."""
    length = image.shape[0]
    rows = image.reshape(length, -1)
    if length == height:
        return image.astype(np.float32, copy=False)
    if height > length:
        # Rows are used several times each: turned into floats once.
        rows = rows.astype(np.float32, copy=False)
    starts, weights = _filter(length, height, method, antialias)
    made = np.empty((height, rows.shape[1]), np.float32)
    for row, (start, own) in enumerate(zip(starts, weights, strict=True)):
        np.dot(own[: length - start], rows[start : start + len(own)].astype(np.float32, copy=False), out=made[row])
    return made.reshape(height, *image.shape[1:])


@functools.lru_cache(maxsize=_CACHED_FILTERS)
def _filter(length: int, wanted: int, method: Method, antialias: bool) -> tuple[list[int], _Floats]:  # noqa: FBT001  a key of the cache
    """For each output row the first input row, and the weights [wanted, span] of the rows from there on."""
    scale = length / wanted
    if method == "area":
        low = np.arange(wanted) * scale
        high = np.minimum(low + scale, length)
        first, last = np.floor(low), np.minimum(np.ceil(high), length) - 1
    else:
        kernel, radius = _KERNELS[method]
        widened = max(scale, 1.0) if antialias else 1.0
        centres = (np.arange(wanted) + 0.5) * scale
        first = np.maximum(np.ceil(centres - radius * widened - 0.5), 0)
        last = np.minimum(np.floor(centres + radius * widened - 0.5), length - 1)
    span = max(int((last - first).max()), 0) + 1
    sources = first[:, None] + np.arange(span)
    if method == "area":
        weights = np.minimum(sources + 1, high[:, None]) - np.maximum(sources, low[:, None])
    else:
        weights = kernel(np.abs(sources + 0.5 - centres[:, None]) / widened)
    weights = np.where(sources > last[:, None], 0.0, np.maximum(weights, 0.0) if method == "area" else weights)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return [math.floor(start) for start in first], weights
