"""The forms in which detectors answer, as data: which output is what, and how its numbers become boxes.

A form is said by whoever calls; nothing is told from sizes, which agree by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.tasks.answers import Floats, chosen, described, reals, row_of, shaped
from edge_runtime.types import Array

Activation = Literal["none", "sigmoid", "softmax"]
"""What must be done to scores that the model gives as logits."""

_KNOWN = (
    ("TFLite_Detection_PostProcess", *(f"TFLite_Detection_PostProcess:{number}" for number in (1, 2, 3))),
    ("detection_boxes", "detection_classes", "detection_scores", "num_detections"),
    ("boxes", "classes", "scores", "count"),
)
"""Names that say what they are: boxes, classes, scores, count. The first are the operator's own."""


_MAX_CLASS = 2**31
"""Class numbers are whole 32-bit numbers, as the operator's own; what lies beyond is no class."""


class Candidates(NamedTuple):
    """Boxes before any threshold.

    Attributes:
        boxes: [N, 4] as xmin, ymin, xmax, ymax.
        scores: [N].
        ids: [N], the classes.
    """

    boxes: Floats
    scores: Floats
    ids: npt.NDArray[np.int64]


class Form(Protocol):
    """How one detector answers."""

    @property
    def suppressed(self) -> bool:
        """Whether the model has suppressed what overlaps itself."""
        ...

    def read(self, found: dict[str, Array], row: int | None, signature: Signature | None) -> Candidates:
        """The candidates of one row; raises InvalidInput where the outputs are not of this form."""
        ...


@dataclass(frozen=True, kw_only=True)
class Postprocessed:
    """What the operator TFLite_Detection_PostProcess gives: at most M objects, the model's own suppression done.

    Boxes [N, M, 4] as ymin, xmin, ymax, xmax in 0..1; classes [N, M]; scores [N, M]; the count of those that are
    there, [N]. Where the outputs have none of the well-known names (`_KNOWN`), their names must be given.

    Attributes:
        boxes: The output's name, and so on.
        classes: Likewise.
        scores: Likewise.
        count: Likewise; "" where there is none, and all M are there.
    """

    boxes: str | None = None
    classes: str | None = None
    scores: str | None = None
    count: str | None = None

    suppressed = True

    def read(self, found: dict[str, Array], row: int | None, signature: Signature | None) -> Candidates:
        """See `Form`."""
        names = self._names(found)
        arrays = [_row(found, name, row, signature) for name in names[:3]]
        boxes, classes, scores = arrays
        size = len(boxes)
        if boxes.shape != (size, 4) or classes.shape != (size,) or scores.shape != (size,):
            raise InvalidInput(
                "boxes [N, M, 4], classes [N, M] and scores [N, M] are needed, got "
                + described({name: found[name] for name in names[:3]})
            )
        count = self._count(found, names[3], row, size)
        if not (np.abs(classes[:count]) < _MAX_CLASS).all():
            raise InvalidInput(f"output {names[1]!r} holds a number that is no class's")
        return Candidates(boxes[:count, [1, 0, 3, 2]], scores[:count], classes[:count].astype(np.int64))

    def _names(self, found: dict[str, Array]) -> tuple[str, str, str, str]:
        given = (self.boxes, self.classes, self.scores)
        if all(name is None for name in (*given, self.count)):
            for known in _KNOWN:
                if set(known) <= set(found):
                    return (known[0], known[1], known[2], known[3])
        if None in given:
            raise InvalidInput(
                f"which output is what? There are {described(found)}: give "
                "form=Postprocessed(boxes=NAME, classes=NAME, scores=NAME, count=NAME)"
            )
        return (self.boxes or "", self.classes or "", self.scores or "", self.count or "")

    def _count(self, found: dict[str, Array], name: str, row: int | None, size: int) -> int:
        if not name:
            return size
        name, array = chosen(found, name)
        values = array.reshape(-1)
        place = row or 0
        if place >= len(values) or not 0 <= values[place] <= size:
            raise InvalidInput(
                f"output {name!r} must be the count of objects, from 0 to {size}, got {values[:8].tolist()}"
            )
        return int(values[place])


@dataclass(frozen=True, kw_only=True)
class Yolo:
    """One output with all: box centre x, centre y, width, height, then a score for each class.

    Attributes:
        layout: `channels_first` is [N, 4 + C, M] (YOLOv8 and later as exported), `channels_last` [N, M, 4 + C].
        objectness: A fifth value comes before the classes' scores, which are multiplied by it (YOLOv3 to YOLOv7).
        output: The output's name, where there are several.
        activation: Where objectness and scores are logits, `sigmoid`.
    """

    layout: Literal["channels_first", "channels_last"]
    objectness: bool = False
    output: str | None = None
    activation: Activation = "none"

    suppressed = False

    def read(self, found: dict[str, Array], row: int | None, signature: Signature | None) -> Candidates:
        """See `Form`."""
        name, array = chosen(found, self.output)
        values = reals(name, row_of(name, array, row), signature)
        before = 5 if self.objectness else 4
        _check_layout(self.layout)
        channels = values.T if self.layout == "channels_first" else values
        if values.ndim != 2 or channels.shape[1] <= before:
            want = f"[N, {before} + C, M]" if self.layout == "channels_first" else f"[N, M, {before} + C]"
            raise InvalidInput(f"output {name!r} {shaped(array)}: {want} is needed for {self.layout}")
        scores = _activated(channels[:, 4:], self.activation)
        if self.objectness:
            scores = scores[:, 1:] * scores[:, :1]
        return _best(_corners(channels[:, :4], "cxcywh"), scores)


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Decoded boxes [N, M, 4] and scores [N, M, C] or [N, M], not suppressed yet.

    Attributes:
        boxes: The output's name.
        scores: Likewise.
        order: Of a box's numbers: corners `yxyx` or `xyxy` (minimum first), or centre and size `cxcywh`.
        activation: Where the scores are logits.
        background: Whether the first class is "nothing". It is left out, and ids count from the class behind it.
    """

    boxes: str
    scores: str
    order: Literal["yxyx", "xyxy", "cxcywh"]
    activation: Activation = "none"
    background: bool = False

    suppressed = False

    def read(self, found: dict[str, Array], row: int | None, signature: Signature | None) -> Candidates:
        """See `Form`."""
        boxes, scores = _boxes_and_scores(found, self.boxes, self.scores, row, signature)
        return _best(_corners(boxes, self.order), _activated(scores, self.activation)[:, self.background :])


@dataclass(frozen=True, kw_only=True)
class Ssd:
    """Boxes [N, M, 4] relative to M anchors, and scores [N, M, C]: an SSD head without its post-processing.

    The centre is `raw / scale * size of the anchor + centre of the anchor`, the size `exp(raw / scale) * size of the
    anchor` (Liu et al., SSD: Single Shot MultiBox Detector, 2016, eq. 2, with the variances as scales).

    Attributes:
        boxes: The output's name; a box is y, x, height, width.
        scores: Likewise.
        anchors: [M, 4] as centre y, centre x, height, width, in the unit that the boxes shall have.
        scales: For y, x, height and width.
        activation: Where the scores are logits.
        background: As in `Boxes`.
    """

    boxes: str
    scores: str
    anchors: Array = field(repr=False)
    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    activation: Activation = "sigmoid"
    background: bool = True

    suppressed = False

    def read(self, found: dict[str, Array], row: int | None, signature: Signature | None) -> Candidates:
        """See `Form`."""
        raw, scores = _boxes_and_scores(found, self.boxes, self.scores, row, signature)
        anchors = np.asarray(self.anchors, np.float32)
        if anchors.shape != raw.shape:
            raise InvalidInput(f"anchors {shaped(anchors)}: {list(raw.shape)} are needed, one for each box")
        steps = raw / np.asarray(self.scales, np.float32)
        with np.errstate(over="ignore"):  # A size that is infinite is no box, and goes.
            centres, sizes = steps[:, :2] * anchors[:, 2:] + anchors[:, :2], np.exp(steps[:, 2:]) * anchors[:, 2:]
        boxes = _corners(np.concatenate([centres[:, ::-1], sizes[:, ::-1]], axis=1), "cxcywh")
        return _best(boxes, _activated(scores, self.activation)[:, self.background :])


def _row(found: dict[str, Array], name: str, row: int | None, signature: Signature | None) -> Floats:
    name, array = chosen(found, name)
    return reals(name, row_of(name, array, row), signature)


def _boxes_and_scores(
    found: dict[str, Array], boxes: str, scores: str, row: int | None, signature: Signature | None
) -> tuple[Floats, Floats]:
    """[M, 4] and [M, C]."""
    sides, points = (_row(found, name, row, signature) for name in (boxes, scores))
    if points.ndim == 1:
        points = points[:, np.newaxis]
    if sides.ndim != 2 or sides.shape[1] != 4 or points.ndim != 2 or len(points) != len(sides) or not points.shape[1]:
        got = described({name: found[name] for name in (boxes, scores)})
        raise InvalidInput(f"boxes [N, M, 4] and scores [N, M, C] are needed, got {got}")
    return sides, points


def _best(boxes: Floats, scores: Floats) -> Candidates:
    """Of each box the class with the best score; NaN is no score, and hides no other."""
    if scores.shape[1] == 0:
        raise InvalidInput("there is no class beside the background")
    ids: npt.NDArray[Any] = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    return Candidates(boxes, scores[np.arange(len(scores)), ids], ids.astype(np.int64))


def _corners(boxes: Floats, order: str) -> Floats:
    """-> xmin, ymin, xmax, ymax."""
    if order == "xyxy":
        return boxes
    if order == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    if order != "cxcywh":
        raise InvalidInput(f"order must be yxyx, xyxy or cxcywh, got {order!r}")
    half = boxes[:, 2:] / np.float32(2)
    corners: Floats = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return corners


def _activated(scores: Floats, activation: str) -> Floats:
    if activation == "none":
        return scores
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == "sigmoid":
            return np.float32(1) / (np.float32(1) + np.exp(-scores))
        if activation == "softmax":
            # NaN is no score: its share is 0, and those of a box without any score are NaN.
            finite = np.nan_to_num(scores, nan=-np.inf, posinf=float(np.finfo(np.float32).max), neginf=-np.inf)
            shares = np.exp(finite - finite.max(axis=1, keepdims=True))
            whole: Floats = shares / shares.sum(axis=1, keepdims=True)
            return whole
    raise InvalidInput(f"activation must be none, sigmoid or softmax, got {activation!r}")


def _check_layout(layout: str) -> None:
    if layout not in ("channels_first", "channels_last"):
        raise InvalidInput(f"layout must be channels_first or channels_last, got {layout!r}")
