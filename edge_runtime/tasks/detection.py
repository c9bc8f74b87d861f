"""Detection: the objects in a picture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.tasks.answers import Answer, Labels, count_of, label_of, limit_of, outputs
from edge_runtime.tasks.bbox import BBox
from edge_runtime.tasks.forms import Form, Postprocessed
from edge_runtime.tasks.nms import nms

_IOU = 0.5
"""What is usual where the model leaves suppression to its caller."""


class Object(NamedTuple):
    """An object that was found.

    Attributes:
        id: Its class.
        score: What the model says of it.
        bbox: Where it is, in the unit that `image_scale` gives.
        label: The class's name; empty where no labels were given.
    """

    id: int
    score: float
    bbox: BBox
    label: str = ""


def detect(
    answer: Answer,
    *,
    form: Form | None = None,
    score_threshold: float = 0.25,
    iou_threshold: float | None = None,
    image_scale: tuple[float, float] = (1.0, 1.0),
    class_agnostic: bool = False,
    max_objects: int = 100,
    labels: Labels | None = None,
    row: int | None = None,
    signature: Signature | None = None,
) -> list[Object]:
    """The objects in one picture, the best score first.

    Args:
        answer: What the detector gave.
        form: How it answers, one of `edge_runtime.tasks.forms`; None is `Postprocessed()`.
        score_threshold: Objects with a lower score are left out.
        iou_threshold: Of two objects of a class that overlap more, the better stays: from 0 to 1. None: 0.5, and none
            for a form whose model has suppressed them itself.
        image_scale: (sx, sy), what x and y are multiplied by. The picture's width and height, where the model's boxes
            are in 0..1; (1, 1) leaves them as they are.
        class_agnostic: Objects of different classes suppress each other too.
        max_objects: At most so many.
        labels: The classes' names by id.
        row: Which row, where the answer has several.
        signature: What the outputs of a bare quantized file stand for.

    Raises:
        InvalidInput: the outputs are not of this form, and the text says what there is; or an option is none.
    """
    form = Postprocessed() if form is None else form
    if isinstance(form, type) or not callable(getattr(form, "read", None)):
        said = f"the class {form.__name__}" if isinstance(form, type) else repr(form)
        raise InvalidInput(f'form must be a form that was made, as Yolo(layout="channels_first"), got {said}')
    scale = _scale(image_scale)
    max_objects, threshold = count_of("max_objects", max_objects), limit_of("score_threshold", score_threshold)
    found = form.read(outputs(answer), row, signature)
    passed = np.flatnonzero(found.scores >= threshold)
    boxes, scores, ids = found.boxes[passed], found.scores[passed], found.ids[passed]
    if iou_threshold is None:
        iou_threshold = 1.0 if form.suppressed else _IOU
    # At 1 nothing is suppressed: no intersection is larger than the union.
    kept = nms(
        boxes,
        scores,
        iou_threshold=iou_threshold,
        classes=None if class_agnostic else ids,
        max_boxes=max_objects,
    )
    scaled = boxes[kept] * np.asarray([*scale, *scale], np.float32)
    return [
        Object(int(number), float(score), BBox(*map(float, box)), label_of(labels, int(number)))
        for number, score, box in zip(ids[kept], scores[kept], scaled, strict=True)
    ]


def _scale(given: Any) -> tuple[float, float]:
    """Raises InvalidInput where it is not two numbers above 0."""
    try:
        x, y = (limit_of("image_scale", one) for one in given)
    except (TypeError, ValueError, InvalidInput):
        x = y = math.nan
    if not (0 < x < math.inf and 0 < y < math.inf):
        raise InvalidInput(f"image_scale must be two numbers above 0, as (width, height), got {given!r}")
    return x, y
