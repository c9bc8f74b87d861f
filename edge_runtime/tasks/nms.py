"""Non-max suppression: of boxes that cover the same object, the best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InvalidInput
from edge_runtime.tasks.answers import count_of, limit_of
from edge_runtime.types import Array

MAX_CANDIDATES = 16_384
"""Boxes that are looked at, the best of them: so that a threshold that lets all pass costs no more than that."""


def nms(
    boxes: Array,
    scores: Array,
    *,
    iou_threshold: float = 0.5,
    classes: Array | None = None,
    max_boxes: int = 100,
) -> npt.NDArray[np.intp]:
    """Which boxes stay, the best score first: greedily, each suppresses those of its class that it overlaps too much.

    Boxes with a side beyond its opposite, or with a coordinate or score that is no number, never stay. The time is
    bounded by `max_boxes` times `MAX_CANDIDATES`.

    Args:
        boxes: [N, 4] as xmin, ymin, xmax, ymax.
        scores: [N].
        iou_threshold: Boxes whose intersection over union with a better one is above it go.
        classes: [N]; boxes of different classes don't suppress each other. None: all are of one.
        max_boxes: At most so many stay.

    Returns:
        Indices into `boxes`. Of equal scores the lower index comes first.

    Raises:
        InvalidInput: shapes that don't fit, or an option that is out of bounds.
    """
    _check(boxes, scores, iou_threshold, classes, max_boxes)
    # Coordinates may be of pixels: in float32 the area of a large picture's box has too few digits left.
    sides = boxes.astype(np.float64)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(sides).all(axis=1) & (sides[:, 0] <= sides[:, 2]) & (sides[:, 1] <= sides[:, 3])
        valid &= ~np.isnan(scores)
    left = np.flatnonzero(valid)
    left = left[np.argsort(-scores[left].astype(np.float64), kind="stable")][:MAX_CANDIDATES]
    areas = (sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1])
    kept: list[int] = []
    while len(left) and len(kept) < max_boxes:
        best, left = left[0], left[1:]
        kept.append(int(best))
        overlapping = _iou(sides, areas, best, left) > iou_threshold
        if classes is not None:
            overlapping &= classes[left] == classes[best]
        left = left[~overlapping]
    return np.array(kept, np.intp)


def _iou(
    sides: npt.NDArray[np.float64], areas: npt.NDArray[np.float64], one: np.intp, others: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Of one box with each of the others; 0 where neither has an area."""
    low, high = np.maximum(sides[one, :2], sides[others, :2]), np.minimum(sides[one, 2:], sides[others, 2:])
    common: npt.NDArray[np.float64] = np.clip(high - low, 0.0, None).prod(axis=1)
    whole = areas[one] + areas[others] - common
    shares: npt.NDArray[np.float64] = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return shares


def _check(boxes: Array, scores: Array, iou_threshold: float, classes: Array | None, max_boxes: int) -> None:
    given = [("boxes", boxes), ("scores", scores), *([] if classes is None else [("classes", classes)])]
    for name, array in given:
        if not isinstance(array, np.ndarray):
            raise InvalidInput(f"{name} must be a numpy array, got {type(array).__name__}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise InvalidInput(f"boxes must be numbers [N, 4], got {boxes.dtype}{list(boxes.shape)}")
    for name, array in given[1:]:
        if array.shape != (len(boxes),) or array.dtype.kind not in "fiu":
            raise InvalidInput(
                f"{name} must be numbers [{len(boxes)}], as the boxes, got {array.dtype}{list(array.shape)}"
            )
    if not 0 <= limit_of("iou_threshold", iou_threshold) <= 1:
        raise InvalidInput(f"iou_threshold must be from 0 to 1, got {iou_threshold}")
    count_of("max_boxes", max_boxes)
