import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.picture_models import colours_detector

from edge_runtime import InvalidInput, Runtime
from edge_runtime.tasks import Boxes, Object, Postprocessed, Ssd, Yolo, detect

OPERATOR = "TFLite_Detection_PostProcess"


def postprocessed(names=(OPERATOR, f"{OPERATOR}:1", f"{OPERATOR}:2", f"{OPERATOR}:3"), count=2.0):
    """Two objects and a third that is not there."""
    boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 0.5], [0, 0, 1, 1]]], np.float32)
    classes, scores = np.array([[3.0, 1.0, 9.0]], np.float32), np.array([[0.9, 0.4, 0.8]], np.float32)
    return dict(zip(names, (boxes, classes, scores, np.array([count], np.float32)), strict=True))


def rounded(found):
    return [(one.id, round(one.score, 4), tuple(round(side, 4) for side in one.bbox), one.label) for one in found]


def test_the_operators_output_in_pixels():
    """Boxes of 0..1 come out in the picture's pixels, x first, as many as are counted."""
    found = detect(postprocessed(), image_scale=(200, 100), labels={3: "cat"})
    assert rounded(found) == [(3, 0.9, (40, 10, 120, 50), "cat"), (1, 0.4, (0, 0, 100, 100), "")]
    assert isinstance(found[0], Object)
    assert [one.id for one in detect(postprocessed(), score_threshold=0.5)] == [3]
    assert [one.id for one in detect(postprocessed(count=0.0))] == []


def test_the_real_operator(tmp_path):
    """A real detector's file, bare: its outputs are found by their names, and scaled to the picture."""
    path = tmp_path / "colours.tflite"
    path.write_bytes(colours_detector())
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 1, 1], image[0, 1, 0, 2] = 192, 128
    with Runtime.open(path) as runtime:
        found = detect(runtime.model().predict(image), image_scale=(200, 100), labels=("green", "blue"))
    assert rounded(found) == [(0, 0.75, (100, 0, 200, 50), "green"), (1, 0.5, (0, 50, 100, 100), "blue")]


def test_outputs_with_other_names_must_be_named():
    """Order and size say nothing for sure; the names do."""
    answer = postprocessed(names=("a", "b", "c", "d"))
    with pytest.raises(InvalidInput, match=r"which output is what\? There are 'a' float32\[1, 3, 4\]"):
        detect(answer)
    assert len(detect(answer, form=Postprocessed(boxes="a", classes="b", scores="c", count="d"))) == 2
    assert len(detect(answer, form=Postprocessed(boxes="a", classes="b", scores="c", count=""))) == 3
    assert (
        len(detect(postprocessed(("detection_boxes", "detection_classes", "detection_scores", "num_detections")))) == 2
    )


def test_a_suppressed_answer_is_suppressed_again_on_request_only():
    """The operator has done it; a lower threshold may be wanted."""
    answer = postprocessed()
    for array in list(answer.values())[:2]:
        array[0, 1] = array[0, 0]
    assert len(detect(answer)) == 2
    assert len(detect(answer, iou_threshold=0.5)) == 1


def yolo(objects, classes=3, candidates=8):
    """[1, M, 4 + C] with the objects (box, class, score) in the first places."""
    values = np.zeros((1, candidates, 4 + classes), np.float32)
    for place, (box, number, score) in enumerate(objects):
        values[0, place, :4], values[0, place, 4 + number] = box, score
    return values


def test_yolo_with_suppression_by_class():
    """Of two boxes over one object the better stays; over another class's both do, unless classes don't count."""
    near = [((10, 10, 4, 4), 1, 0.9), ((10, 10, 4, 5), 1, 0.8), ((10, 10, 4, 4), 2, 0.7), ((30, 30, 2, 2), 1, 0.6)]
    answer, form = yolo(near), Yolo(layout="channels_last")
    expected = [(1, 0.9, (8, 8, 12, 12), ""), (2, 0.7, (8, 8, 12, 12), ""), (1, 0.6, (29, 29, 31, 31), "")]
    assert rounded(detect(answer, form=form)) == expected
    assert rounded(detect(answer.transpose(0, 2, 1), form=Yolo(layout="channels_first"))) == expected
    assert len(detect(answer, form=form, class_agnostic=True)) == 2
    assert len(detect(answer, form=form, max_objects=1)) == 1
    assert rounded(detect(answer, form=form, image_scale=(0.5, 2)))[2] == (1, 0.6, (14.5, 58, 15.5, 62), "")


def test_yolo_with_objectness_and_logits():
    """Scores are multiplied by the objectness, both made from logits where told."""
    answer = np.array([[[5, 5, 2, 2, 0.0, 3.0, -3.0]]], np.float32)
    (found,) = detect(answer, form=Yolo(layout="channels_last", objectness=True, activation="sigmoid"))
    assert (found.id, found.score) == (0, pytest.approx(0.5 / (1 + np.exp(-3.0))))


@given(st.lists(st.tuples(*[st.floats(0.0625, 0.875, width=32)] * 4), min_size=1, max_size=6))
def test_an_ssd_head_decodes_what_was_encoded(boxes):
    """Boxes encoded against anchors come back: centre and size by the formula, inverted."""
    wanted = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], np.float32)
    anchors = np.tile(np.array([[0.5, 0.4, 0.2, 0.3]], np.float32), (len(boxes), 1))
    centres, sizes = (wanted[:, 1::-1] + wanted[:, 3:1:-1]) / 2, wanted[:, 3:1:-1] - wanted[:, 1::-1]
    raw = np.concatenate([(centres - anchors[:, :2]) / anchors[:, 2:] * 10, np.log(sizes / anchors[:, 2:]) * 5], axis=1)
    scores = np.zeros((1, len(boxes), 2), np.float32)
    scores[0, :, 1] = np.linspace(2, 1, len(boxes))
    found = detect(
        {"raw": raw[np.newaxis].astype(np.float32), "logits": scores},
        form=Ssd(boxes="raw", scores="logits", anchors=anchors),
        iou_threshold=1.0,
    )
    assert [one.id for one in found] == [0] * len(boxes)
    np.testing.assert_allclose([one.bbox for one in found], wanted, atol=1e-5)


def test_plain_boxes_and_scores():
    """Decoded boxes of any order, one score a box or several, logits and a background."""
    boxes = np.array([[[0, 1, 2, 3]]], np.float32)
    logits = np.log(np.array([[[0.2, 0.1, 0.7]]], np.float32))
    form = Boxes(boxes="b", scores="s", order="yxyx", activation="softmax", background=True)
    assert rounded(detect({"b": boxes, "s": logits}, form=form)) == [(1, 0.7, (1, 0, 3, 2), "")]
    one = detect({"b": boxes, "s": np.array([[0.8]], np.float32)}, form=Boxes(boxes="b", scores="s", order="xyxy"))
    assert rounded(one) == [(0, 0.8, (0, 1, 2, 3), "")]


@pytest.mark.parametrize(
    ("answer", "form", "says"),
    [
        (postprocessed(count=4.0), None, r"must be the count of objects, from 0 to 3, got \[4.0\]"),
        (postprocessed(count=np.nan), None, "must be the count of objects"),
        ({**postprocessed(), OPERATOR: np.zeros((1, 2, 4), np.float32)}, None, r"boxes \[N, M, 4\], classes \[N, M\]"),
        (np.zeros((1, 4, 9), np.float32), Yolo(layout="channels_first"), r"\[N, 4 \+ C, M\] is needed"),
        (np.zeros((1, 9, 5), np.float32), Yolo(layout="channels_last", objectness=True), r"\[N, M, 5 \+ C\] is needed"),
        (np.zeros((1, 9, 5), np.float32), Yolo(layout="first"), "layout must be channels_first or channels_last"),
        (
            {"b": np.zeros((1, 2, 4), np.float32), "s": np.zeros((1, 3), np.float32)},
            Boxes(boxes="b", scores="s", order="xyxy"),
            r"got 'b' float32\[1, 2, 4\], 's' float32\[1, 3\]",
        ),
        (
            {"b": np.zeros((1, 2, 4), np.float32), "s": np.zeros((1, 2, 3), np.float32)},
            Ssd(boxes="b", scores="s", anchors=np.zeros((5, 4))),
            r"anchors float32\[5, 4\]: \[2, 4\] are needed",
        ),
        (
            {"b": np.zeros((1, 2, 4), np.float32), "s": np.zeros((1, 2, 0), np.float32)},
            Boxes(boxes="b", scores="s", order="xyxy", activation="softmax"),
            r"got 'b' float32\[1, 2, 4\], 's' float32\[1, 2, 0\]",
        ),
        ({**postprocessed(), f"{OPERATOR}:1": np.full((1, 3), 1e30, np.float32)}, None, "a number that is no class's"),
        (postprocessed(), Yolo, r"form must be a form that was made, as Yolo\(.*, got the class Yolo"),
        (postprocessed(), "yolo", "form must be a form .*, got 'yolo'"),
    ],
)
def test_outputs_of_another_form_are_named(answer, form, says):
    """The text says what is needed and what there is."""
    with pytest.raises(InvalidInput, match=says):
        detect(answer, form=form)


@pytest.mark.parametrize("scale", [5, (1, 2, 3), (np.nan, 1), (0, 1), "ab", (1, "2"), None])
def test_an_image_scale_is_two_numbers(scale):
    """Anything else is named."""
    with pytest.raises(InvalidInput, match="image_scale must be two numbers above 0"):
        detect(postprocessed(), image_scale=scale)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_objects": 2.5}, "max_objects must be a whole number"),
        ({"score_threshold": None}, "score_threshold must be a number, got None"),
        ({"iou_threshold": "half"}, "iou_threshold must be a number"),
    ],
)
def test_options_that_are_none_are_named(options, says):
    """As bad input, whatever numpy would raise."""
    with pytest.raises(InvalidInput, match=says):
        detect(postprocessed(), **options)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_a_score_that_is_no_number_hides_no_other(activation):
    """Of a box's scores NaN is none; a box with no other is no object."""
    answer = {"b": np.ones((1, 2, 4), np.float32), "s": np.full((1, 2, 3), np.nan, np.float32)}
    answer["s"][0, 0, 1:] = 0.5, 0.9
    form = Boxes(boxes="b", scores="s", order="xyxy", activation=activation)
    assert [one.id for one in detect(answer, form=form, score_threshold=0)] == [2]
    assert [one.id for one in detect(answer, form=form, score_threshold=-np.inf)] == [2]


def test_infinite_logits_have_a_share():
    """The limit of what large ones have."""
    answer = {"b": np.ones((1, 1, 4), np.float32), "s": np.array([[[0, np.inf, -np.inf]]], np.float32)}
    (found,) = detect(answer, form=Boxes(boxes="b", scores="s", order="xyxy", activation="softmax"))
    assert (found.id, found.score) == (1, 1.0)
