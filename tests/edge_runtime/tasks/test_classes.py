import math

import numpy as np
import pytest

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import InvalidInput, Reply
from edge_runtime.tasks import Class, classify, read_labels

SCORES = np.array([[0.1, 0.6, 0.1, 0.2]], np.float32)


def reply(**outputs):
    return Reply(outputs=outputs, version=1, place="device:cpu", reason="local", latency_ms=1.0)


def signature(**quantizations):
    return Signature(
        name="serving_default",
        inputs=(TensorSpec(name="x", dtype="uint8", shape=(1, 4)),),
        outputs=tuple(
            TensorSpec(name=name, dtype="uint8", shape=(1, 4), quantization=one) for name, one in quantizations.items()
        ),
    )


def test_the_best_classes_first():
    """By score, of equal ones the lower id first, with labels from a list or by id."""
    found = classify(reply(scores=SCORES), labels=("a", "b", "c"))
    assert [(one.id, one.label) for one in found] == [(1, "b"), (3, ""), (0, "a"), (2, "c")]
    assert classify(SCORES, top_k=1, labels={1: "one"}) == [Class(1, pytest.approx(0.6), "one")]
    assert [one.id for one in classify({"scores": SCORES}, score_threshold=0.15)] == [1, 3]


def test_scores_that_are_no_numbers_are_left_out():
    """NaN is no class's score."""
    assert [one.id for one in classify(np.array([[math.nan, 1.0]], np.float32))] == [1]


def test_stored_integers_are_dequantized_by_the_signature():
    """A bare quantized file's scores are what its integers stand for."""
    stored = np.array([[0, 255, 128, 3]], np.uint8)
    half = Quantization(scales=(1 / 256,), zero_points=(0,))
    for answer in (reply(scores=stored), stored):
        found = classify(answer, top_k=2, signature=signature(scores=half))
        assert [(one.id, one.score) for one in found] == [(1, 255 / 256), (2, 0.5)]


def test_rows_and_outputs_are_chosen_by_name():
    """Of several, which one is said; axes of one pixel are passed over."""
    two = np.stack([SCORES[0], SCORES[0, ::-1]])
    assert classify(reply(a=two, b=SCORES), output="a", row=1, top_k=1)[0].id == 2
    assert classify(SCORES.reshape(1, 1, 1, 4), top_k=1)[0].id == 1


@pytest.mark.parametrize(
    ("answer", "options", "says"),
    [
        (reply(a=SCORES, b=SCORES), {}, r"there are the outputs 'a' float32\[1, 4\], 'b' float32\[1, 4\]: say which"),
        (reply(a=SCORES), {"output": "b"}, r"there is no output 'b'; there are 'a' float32\[1, 4\]"),
        (np.zeros((3, 4), np.float32), {}, r"'' float32\[3, 4\]: 3 rows, say which with row="),
        (SCORES, {"row": 1}, r"row 1 is not in 0..0"),
        (np.zeros((), np.float32), {}, "0 rows"),
        (np.zeros((1, 2, 4), np.float32), {}, r"scores \[N, C\] are needed"),
        (np.zeros((1, 4), np.uint8), {}, "integers, and nothing says what they stand for"),
        (np.array([[b"x"]], object), {}, "numbers are needed"),
        (SCORES, {"top_k": 0}, "top_k must be at least 1, got 0"),
        ([0.1, 0.9], {}, "one array is needed, got list"),
        (SCORES, {"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        (SCORES, {"score_threshold": "x"}, "score_threshold must be a number, got 'x'"),
        (SCORES, {"score_threshold": math.nan}, "score_threshold must be a number, got nan"),
        (SCORES, {"row": 0.5}, "row must be a whole number, got 0.5"),
        (SCORES, {"labels": 5}, "labels must be a sequence, or names by class id, got int"),
        (SCORES, {"signature": "x"}, "signature must be a model's, as model.signature, got str"),
    ],
)
def test_what_is_wrong_is_named(answer, options, says):
    """The text says what there is, and what to give."""
    with pytest.raises(InvalidInput, match=says):
        classify(answer, **options)


def test_label_files(tmp_path):
    """Numbered lines, plain lines, both forms of numbers, and lines that only begin with a digit."""
    file = tmp_path / "labels.txt"
    file.write_text("0  background\n5: great white shark\n\nplain\n7up\n  12 x y \n")
    assert read_labels(file) == {0: "background", 5: "great white shark", 3: "plain", 4: "7up", 12: "x y"}
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_labels(file)
    with pytest.raises(InvalidInput, match="No such file"):
        read_labels(tmp_path / "none.txt")
