"""Segmentation: the class of each pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.tasks.answers import Answer, chosen, limit_of, reals, row_of, shaped, whole
from edge_runtime.types import Array

MAX_CLASSES = 256
"""A mask holds a byte a pixel."""

MAX_PIXELS = 2**28
"""Of a mask that is made larger: 16,384 x 16,384."""


def segment(
    answer: Answer,
    *,
    output: str | None = None,
    threshold: float | None = None,
    row: int | None = None,
    signature: Signature | None = None,
) -> npt.NDArray[np.uint8]:
    """The class of each pixel: uint8 [height, width].

    Args:
        answer: Scores [N, H, W, C], of which the best is taken; or classes [N, H, W], as integers, or [N, H, W, 1].
        output: The output's name, where there are several.
        threshold: For an output with one score a pixel, [N, H, W, 1] or [N, H, W]: class 1 is where the score is above
            it, class 0 elsewhere.
        row: Which row, where there are several.
        signature: What the outputs of a bare quantized file stand for; needed for a threshold only.

    Raises:
        InvalidInput: the output has another shape or more than 256 classes, or real scores and no threshold; or a
            pixel has no score that is a number.
    """
    threshold = None if threshold is None else limit_of("threshold", threshold)
    name, array = chosen(answer, output)
    one = row_of(name, array, row)
    if one.ndim == 3 and one.shape[-1] == 1:
        one = one[..., 0]
    if one.ndim == 3 and threshold is None and one.dtype.kind in "fiu":
        if not 1 < one.shape[-1] <= MAX_CLASSES:
            raise InvalidInput(f"output {name!r} {shaped(array)}: 2 to {MAX_CLASSES} classes are needed")
        # Stored integers of one scale are ordered as what they stand for.
        return np.asarray(_best(name, one), np.uint8)
    if one.ndim != 2:
        hint = "one score a pixel [N, H, W, 1]" if threshold is not None else "scores [N, H, W, C] or classes [N, H, W]"
        raise InvalidInput(f"output {name!r} {shaped(array)}: {hint} are needed")
    if threshold is not None:
        scores = reals(name, one, signature)
        _check_scores(name, np.isnan(scores))
        return np.asarray(scores > threshold, np.uint8)
    if one.dtype.kind not in "iub":
        raise InvalidInput(
            f"output {name!r} {shaped(array)}: one score a pixel; give threshold= to tell the two classes"
        )
    if one.size and not 0 <= int(one.min()) <= int(one.max()) < MAX_CLASSES:
        raise InvalidInput(
            f"output {name!r}: classes from {one.min()} to {one.max()}, 0 to {MAX_CLASSES - 1} fit a mask"
        )
    return one.astype(np.uint8)


def _best(name: str, scores: Array) -> npt.NDArray[np.intp]:
    """The class of each pixel's best score [H, W, C]; NaN is no score, and hides no other."""
    best: npt.NDArray[np.intp] = scores.argmax(axis=-1)
    # Where there is a NaN, it is what was found.
    if scores.dtype.kind == "f" and np.isnan(np.take_along_axis(scores, best[..., np.newaxis], axis=-1)).any():
        absent = np.isnan(scores)
        _check_scores(name, np.asarray(absent.all(axis=-1)))
        best = np.where(absent, -np.inf, scores).argmax(axis=-1)
    return best


def _check_scores(name: str, absent: npt.NDArray[np.bool_]) -> None:
    """Raises InvalidInput where pixels have no score."""
    if absent.any():
        raise InvalidInput(f"output {name!r}: {int(absent.sum())} of {absent.size} pixels have no score but NaN")


def resize_mask(mask: Array, size: tuple[int, int]) -> Array:
    """A mask of another size, each pixel the nearest one's class: classes are never mixed.

    Args:
        mask: [height, width], or more axes behind.
        size: (width, height), as pictures have it.

    Raises:
        InvalidInput: it is no mask, or the size is below 1 or beyond `MAX_PIXELS`.
    """
    try:
        width, height = (whole("size", one) for one in size)
    except (TypeError, ValueError, InvalidInput):
        raise InvalidInput(f"size must be two whole numbers, (width, height), got {size!r}") from None
    if not isinstance(mask, np.ndarray):
        raise InvalidInput(f"a mask [height, width] is needed, got {type(mask).__name__}")
    if mask.ndim < 2 or not mask.shape[0] or not mask.shape[1]:
        raise InvalidInput(f"a mask [height, width] is needed, got {shaped(mask)}")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidInput(f"size must be 1 x 1 to {MAX_PIXELS} pixels, got {width} x {height}")
    # The pixel under the centre of each new one.
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    resized: Array = mask[rows[:, np.newaxis], columns]
    return resized
