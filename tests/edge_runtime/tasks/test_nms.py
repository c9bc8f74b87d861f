import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import InvalidInput
from edge_runtime.tasks import BBox, nms
from edge_runtime.tasks.nms import MAX_CANDIDATES


def naive(boxes, scores, iou_threshold, classes, max_boxes):
    """The definition, box by box."""
    kept = []
    for index in sorted(range(len(boxes)), key=lambda one: -scores[one]):
        box = BBox(*boxes[index].tolist())
        rivals = [other for other in kept if classes is None or classes[other] == classes[index]]
        if box.valid and all(BBox.iou(box, BBox(*boxes[other].tolist())) <= iou_threshold for other in rivals):
            kept.append(index)
    return kept[:max_boxes]


@st.composite
def cases(draw):
    count = draw(st.integers(0, 25))
    boxes = draw(hnp.arrays(np.int16, (count, 4), elements=st.integers(0, 12)))
    scores = draw(hnp.arrays(np.float32, count, elements=st.sampled_from([0.1, 0.2, 0.5, 0.9])))
    classes = draw(st.none() | hnp.arrays(np.int64, count, elements=st.integers(0, 2)))
    return boxes, scores, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])), classes, draw(st.integers(1, 10))


@settings(max_examples=200)
@given(cases())
def test_it_keeps_what_the_definition_keeps(case):
    """The vectorised form and the naive one agree, ties and inverted boxes included."""
    boxes, scores, iou_threshold, classes, max_boxes = case
    kept = nms(boxes, scores, iou_threshold=iou_threshold, classes=classes, max_boxes=max_boxes)
    assert kept.tolist() == naive(boxes, scores, iou_threshold, classes, max_boxes)


@settings(max_examples=50)
@given(cases())
def test_what_stays_stays_again(case):
    """Suppressing the kept boxes once more changes nothing."""
    boxes, scores, iou_threshold, classes, max_boxes = case
    kept = nms(boxes, scores, iou_threshold=iou_threshold, classes=classes, max_boxes=max_boxes)
    again = nms(
        boxes[kept],
        scores[kept],
        iou_threshold=iou_threshold,
        classes=None if classes is None else classes[kept],
        max_boxes=max_boxes,
    )
    assert again.tolist() == list(range(len(kept)))


def test_boxes_that_are_no_numbers_never_stay():
    """NaN and infinity in a coordinate or NaN as a score do no harm to the others."""
    boxes = np.array([[0, 0, np.nan, 1], [0, 0, np.inf, 1], [0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    assert nms(boxes, np.array([9, 8, np.nan, 1], np.float32)).tolist() == [3]


def test_the_number_of_candidates_is_bounded():
    """Of more boxes than are looked at, the best are."""
    count = MAX_CANDIDATES + 10
    starts = np.arange(count, dtype=np.float32)[:, np.newaxis] * 2
    boxes = np.concatenate([starts, starts, starts + 1, starts + 1], axis=1)
    kept = nms(boxes, np.arange(count, dtype=np.float32), max_boxes=3)
    assert kept.tolist() == [count - 1, count - 2, count - 3]


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "says"),
    [
        (np.zeros((2, 5)), np.zeros(2), {}, r"boxes must be numbers \[N, 4\], got float64\[2, 5\]"),
        (np.zeros((2, 4)), np.zeros(3), {}, r"scores must be numbers \[2\], as the boxes, got float64\[3\]"),
        (np.zeros((2, 4)), np.zeros(2), {"classes": np.zeros(1)}, r"classes must be numbers \[2\]"),
        (np.zeros((2, 4)), np.zeros(2), {"iou_threshold": 1.5}, "iou_threshold must be from 0 to 1, got 1.5"),
        ([[0, 0, 1, 1]], [1.0], {}, "boxes must be a numpy array, got list"),
        (np.zeros((1, 4)), [1.0], {}, "scores must be a numpy array, got list"),
        (np.zeros((2, 4)), np.zeros(2), {"max_boxes": 1.5}, "max_boxes must be a whole number, got 1.5"),
        (np.zeros((2, 4)), np.zeros(2), {"max_boxes": 0}, "max_boxes must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_named(boxes, scores, options, says):
    """The text says what was needed and what came."""
    with pytest.raises(InvalidInput, match=says):
        nms(boxes, scores, **options)
