import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec.structs import replace
from support.edge_cascades import CASCADE, manifest_of, probabilities, signature_of

from converter.artifact import Cascade, TensorSpec
from converter.cascade import Evidence
from converter.cascade import confidences as converters
from edge_runtime.routing.unsure import Bar, bars, confidences, merged, of_rows, unsure_rows, why_never
from edge_runtime.types import InferRequest

LOGITS = Bar("scores", "softmax", 0.8)
CHANCES = Bar("scores", "max", 0.8)
EITHER = Bar("scores", "either", None)


def request(rows, *, batched=True):
    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    return InferRequest(model="m", version=1, signature="s", inputs={"x": x}, rows=rows, start_s=0.0, batched=batched)


@pytest.mark.parametrize(
    ("bar", "scores", "unsure"),
    [
        (CHANCES, [[0.9, 0.1]], [False]),
        (CHANCES, [[0.8, 0.2], [0.79, 0.21]], [False, True]),
        (LOGITS, [[2.0, 0.0], [1.0, 0.0]], [False, True]),
        (LOGITS, [[1000.0, 998.0], [-1000.0, -1000.5]], [False, True]),
        (EITHER, [[0.9, 0.1], [0.7, 0.3]], [False, True]),
        (EITHER, [[2.0, 0.5], [0.9, 0.1]], [False, True]),
        (CHANCES, [[np.nan, 0.9]], [True]),
        (LOGITS, [[np.nan, 9.0]], [True]),
        (LOGITS, [[np.inf, 9.0]], [True]),
    ],
)
def test_rows_below_the_threshold_are_unsure(bar, scores, unsure):
    """Of probabilities and of logits; at the threshold is sure, and what is no number is not."""
    threshold = bar.threshold or 0.8
    found = unsure_rows(bar, threshold, {"scores": np.array(scores)})
    assert found.tolist() == unsure


def test_an_answer_without_a_batch_axis_is_one_row():
    """Its scores may come as a vector."""
    assert unsure_rows(CHANCES, 0.8, {"scores": np.array([0.5, 0.5])}).tolist() == [True]


@given(arrays(np.float32, (7, 4), elements=st.floats(-50, 50, width=32)), st.sampled_from(["max", "softmax"]))
def test_confidence_is_what_the_converter_measured(scores, kind):
    """The device's formula is the converter's, bit for bit: else the threshold would be about something else."""
    np.testing.assert_array_equal(confidences(scores, kind), converters(scores, kind))


@given(st.integers(0, 10_000), st.integers(20, 200))
def test_just_the_samples_that_the_converter_escalated_are_unsure(seed, count):
    """Its escalation rate comes true on its own data, and so does the accuracy of both together."""
    random = np.random.default_rng(seed)
    small, large = (probabilities(random, count, sharpness) for sharpness in (3.0, 6.0))
    labels = np.where(random.random(count) < 0.9, large.argmax(axis=1), random.integers(0, 4, count))
    evidence = Evidence("max")
    evidence.add(large, small, labels)
    found = evidence.result("scores")
    unsure = unsure_rows(Bar("scores", "max", found.threshold), found.threshold, {"scores": small})
    assert unsure.mean() == pytest.approx(found.escalation_rate, abs=1e-6)
    answers = np.where(unsure, large.argmax(axis=1), small.argmax(axis=1))
    assert (answers == labels).mean() == pytest.approx(found.accuracy, abs=1e-6)


FIRST, SECOND = signature_of("serving_default"), signature_of("other")
BOX = TensorSpec(name="box", dtype="float32", shape=(-1, 4))


@pytest.mark.parametrize(
    ("signatures", "output", "found"),
    [
        ((FIRST,), "scores", {"serving_default": Bar("scores", "max", 0.8)}),
        ((FIRST, SECOND), "other:scores", {"other": Bar("scores", "max", 0.8)}),
        ((FIRST, SECOND), "serving_default:scores", {}),
        ((FIRST,), "gone", {}),
    ],
)
def test_the_cascade_is_of_one_signature(signatures, output, found):
    """Outputs of the first go by their names, others by `SIGNATURE:OUTPUT`; requests through another are never sent."""
    manifest = manifest_of(signatures, replace(CASCADE, output=output))
    assert bars(manifest, "float32") == found
    assert bars(manifest, "gone") == {one.name: Bar("scores", "either", None) for one in signatures}


def test_a_name_that_could_be_two_outputs_is_the_firsts():
    """As the converter, which measures no other output of that name."""
    odd = TensorSpec(name="other:scores", dtype="float32", shape=(-1, 4))
    manifest = manifest_of((replace(FIRST, outputs=(odd,)), SECOND), replace(CASCADE, output="other:scores"))
    assert list(bars(manifest, "float32")) == ["serving_default"]


@pytest.mark.parametrize(
    ("outputs", "labels", "output"),
    [
        ([("scores", "float32", (-1, 4))], (), "scores"),
        ([("scores", "float32", (-1, 4)), ("box", "float32", (-1, 3))], ("a", "b", "c", "d"), "scores"),
        ([("scores", "float32", (-1, 4)), ("box", "float32", (-1, 4))], ("a", "b", "c", "d"), None),
        ([("scores", "float32", (-1, 4)), ("box", "float32", (-1, 3))], (), None),
        ([("map", "float32", (-1, 8, 8))], (), None),
        ([("value", "float32", (-1, 1))], (), None),
        ([("classes", "int64", (-1, 4))], (), None),
    ],
)
def test_without_a_threshold_in_the_package_the_output_must_be_plain(outputs, labels, output):
    """An application's own threshold is for the one output that can be class scores; nothing is guessed."""
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in outputs)
    manifest = manifest_of((replace(FIRST, outputs=specs),), None, labels=labels)
    found = bars(manifest, "float32")
    assert found == ({"serving_default": Bar(output, "either", None)} if output else {})
    assert bool(why_never(manifest, 0.5)) is (output is None)


def test_why_a_cascade_never_asks():
    """It is told once when the version is loaded, instead of nothing ever being sent."""
    assert why_never(manifest_of((FIRST,), None), "off") == ""
    assert why_never(manifest_of((FIRST,), CASCADE), "on") == ""
    assert "has no threshold" in why_never(manifest_of((FIRST,), None), "on")
    assert "no output" in why_never(manifest_of((FIRST,), replace(CASCADE, output="gone")), "on")


def test_of_a_batch_the_unsure_rows_are_sent():
    """In their order; the whole where all are meant, or where there is no batch axis."""
    asked = request(4)
    part = of_rows(asked, np.array([True, False, False, True]))
    assert (part.rows, part.inputs["x"].tolist()) == (2, [[0.0, 1.0], [6.0, 7.0]])
    assert of_rows(asked, np.array([True] * 4)) is asked
    alone = request(1, batched=False)
    assert of_rows(alone, np.array([True])) is alone


@given(st.lists(st.booleans(), min_size=1, max_size=9).filter(any))
def test_rows_come_back_where_they_belong(marks):
    """The server's rows replace those that it was asked for, and no other; the device's arrays stay as they are."""
    rows = np.array(marks)
    local = {"scores": np.zeros((len(rows), 3), np.float32), "count": np.zeros(len(rows), np.int64)}
    places = np.flatnonzero(rows)
    better = {"scores": np.repeat(places[:, np.newaxis] + 1, 3, 1).astype(np.float32), "count": places + 1}
    found = merged(local, rows, better)
    expected = np.where(rows, np.arange(len(rows)) + 1, 0)
    assert found["count"].tolist() == expected.tolist()
    assert found["scores"][:, 0].tolist() == expected.tolist()
    assert not local["scores"].any()


@pytest.mark.parametrize(
    ("better", "says"),
    [
        ({}, "the server gave nothing"),
        ({"scores": np.zeros((2, 3), np.float64)}, r"the server gave float64\[2, 3\], the device float32\[4, 3\]"),
        ({"scores": np.zeros((2, 5), np.float32)}, r"float32\[2, 5\]"),
        ({"scores": np.zeros((3, 3), np.float32)}, r"float32\[3, 3\]"),
    ],
)
def test_what_does_not_fit_is_not_put_together(better, says):
    """A model of other classes has not answered this question."""
    with pytest.raises(ValueError, match=says):
        merged({"scores": np.zeros((4, 3), np.float32)}, np.array([True, False, True, False]), better)


def test_two_variants_may_have_two_thresholds():
    """An int8 variant's confidence is another than a float's."""
    manifest = manifest_of((FIRST,), CASCADE)
    int8 = replace(manifest.variants[0], name="int8", cascade=replace(CASCADE, threshold=0.7))
    manifest = replace(manifest, variants=(*manifest.variants, int8))
    assert [bars(manifest, name)["serving_default"].threshold for name in ("float32", "int8")] == [0.8, 0.7]
    assert isinstance(int8.cascade, Cascade)
