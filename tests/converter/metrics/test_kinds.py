import numpy as np
import pytest

from converter.errors import DataInvalid, OptionInvalid
from converter.metrics import make_plans, parse_request

RANDOM = np.random.default_rng(0)
SOFTMAX = RANDOM.dirichlet(np.ones(4), size=20).astype(np.float32)
LOGITS = RANDOM.normal(size=(20, 4)).astype(np.float32) * 3
SIGMOIDS = RANDOM.uniform(size=(20, 4)).astype(np.float32)
NOTES = RANDOM.uniform(size=(20, 8, 5)).astype(np.float32)
BOXES = RANDOM.normal(size=(20, 8, 5)).astype(np.float32) * 100
FORECAST = RANDOM.normal(size=(20, 1)).astype(np.float32)
PROBABILITY = RANDOM.uniform(size=(20, 1)).astype(np.float32)
IDS = RANDOM.integers(0, 4, 20)
WORDS = np.array([b"word"] * 20)
LABELS = RANDOM.integers(0, 4, 20)
LABELS[0] = 3


def plans(labels=None, metrics=None, **outputs):
    return make_plans(outputs, labels, metrics or {}, origin="test.npz")[0]


@pytest.mark.parametrize(
    ("name", "values", "kind", "primary"),
    [
        ("y", SOFTMAX, "scores", "top1_agreement"),
        ("y", SOFTMAX.astype(np.float16), "scores", "top1_agreement"),
        ("y", np.log(SOFTMAX), "scores", "top1_agreement"),
        ("logits", LOGITS, "scores", "top1_agreement"),
        ("y", LOGITS, "regression", "relative_rmse"),
        ("y", SIGMOIDS, "map", "f1"),
        ("notes", NOTES, "map", "f1"),
        ("y", NOTES * 0.4, "regression", "relative_rmse"),
        ("boxes", BOXES, "regression", "relative_rmse"),
        ("y", FORECAST, "regression", "relative_rmse"),
        ("y", FORECAST[:, 0], "regression", "relative_rmse"),
        ("y", PROBABILITY, "regression", "relative_rmse"),
        ("y", IDS, "classes", "equal"),
        ("y", IDS > 1, "classes", "equal"),
        ("y", WORDS, "other", "equal"),
    ],
)
def test_what_an_output_is_shows_in_its_values(name, values, kind, primary):
    """The documented rules, row by row, without labels."""
    plan = plans(**{name: values})[name]
    assert (plan.kind, plan.primary) == (kind, primary)


@pytest.mark.parametrize("values", [SOFTMAX, LOGITS, SIGMOIDS])
def test_labels_make_scores_of_floats_with_as_many_classes(values):
    """Logits and sigmoids are then scores too."""
    plan = plans(LABELS, y=values)["y"]
    assert (plan.kind, plan.primary, plan.labelled, plan.classes) == ("scores", "accuracy", True, 4)


def test_labels_of_two_classes_fit_one_probability():
    """A binary classifier ends in one sigmoid."""
    plan = plans(LABELS % 2, y=PROBABILITY)["y"]
    assert (plan.kind, plan.classes, plan.labelled) == ("scores", 2, True)
    assert not plans(LABELS % 2, y=FORECAST)["y"].labelled


def labelled(found):
    return {name for name, plan in found.items() if plan.labelled}


def test_labels_belong_to_the_output_that_knows_them():
    """An embedding with enough columns is not held against the labels, nor a box, nor another head's softmax."""
    other = RANDOM.dirichlet(np.ones(5), size=20).astype(np.float32)
    for known in (SOFTMAX, LOGITS):
        found = plans(known.argmax(axis=1), boxes=LOGITS[::-1], colour=other, y=known, embedding=np.tile(9 * other, 8))
        assert labelled(found) == {"y"}
        assert (found["colour"].kind, found["colour"].primary) == ("scores", "top1_agreement")
        assert found["boxes"].kind == found["embedding"].kind == "regression"


def test_labels_of_few_classes_do_not_turn_boxes_into_scores():
    """Four coordinates could be four classes; that the labels are the logits' shows in what is right."""
    logits = RANDOM.normal(size=(20, 10)).astype(np.float32)
    logits[:, :4] += 10
    found = plans(logits.argmax(axis=1), out_a=logits, out_b=LOGITS)
    assert labelled(found) == {"out_a"}
    assert (found["out_b"].kind, found["out_b"].primary) == ("regression", "relative_rmse")


def test_of_equally_accurate_outputs_the_more_certain_one_has_the_labels():
    """Then the one with fewer classes, then the first by name."""
    wider = np.concatenate([LOGITS, np.full((20, 2), -9, np.float32)], axis=1)
    assert labelled(plans(LOGITS.argmax(axis=1), a=LOGITS, logits=LOGITS)) == {"logits"}
    assert labelled(plans(LOGITS.argmax(axis=1), a=wider, b=LOGITS)) == {"b"}
    assert labelled(plans(LOGITS.argmax(axis=1), b=LOGITS, a=LOGITS)) == {"a"}


def test_who_asks_for_accuracy_of_an_output_says_what_the_labels_are_of():
    """The others are measured by agreement then, however accurate; of several that were asked for it is one."""
    labels = SOFTMAX.argmax(axis=1)
    other = SOFTMAX[::-1]
    assert labelled(plans(labels, {"b": "top1"}, a=SOFTMAX, b=other)) == {"b"}
    assert labelled(plans(labels, {"a": "topk:2", "b": "top1"}, a=SOFTMAX, b=other)) == {"a"}
    with pytest.raises(DataInvalid, match="output 'few' has 2 classes"):
        plans(labels, {"few": "top1"}, a=SOFTMAX, few=np.eye(2)[labels % 2])


def test_agreement_never_takes_the_labels():
    """Scores are asked for it, and it needs some."""
    found = plans(SOFTMAX.argmax(axis=1), {"y": "agreement"}, y=SOFTMAX)["y"]
    assert (found.kind, found.primary, found.labelled, found.classes) == ("scores", "top1_agreement", False, 4)
    with pytest.raises(OptionInvalid, match="is for class scores"):
        plans(metrics={"y": "agreement"}, y=NOTES)


def notes(labels, metrics=None, **outputs):
    return make_plans(outputs, labels, metrics or {}, origin="test.npz")[1]


def test_what_the_labels_were_taken_for_is_told_where_there_was_a_choice():
    """With the accuracies that decided; not where one output alone fits, or was asked for."""
    labels = SOFTMAX.argmax(axis=1)
    other = np.roll(SOFTMAX, 1, axis=1)
    (told,) = notes(labels, a=other, y=SOFTMAX)
    assert "for output 'y', on which the original is right for 100.0 %" in told
    assert "'a' (0.0 %)" in told
    assert notes(labels, y=SOFTMAX, notes=NOTES) == ()
    assert notes(labels, {"y": "top1"}, a=other, y=SOFTMAX) == ()


@pytest.mark.parametrize(
    ("classes", "right", "told"), [(10, 14, True), (10, 16, False), (2, 54, True), (2, 56, False), (1000, 1, False)]
)
def test_labels_on_which_the_original_only_guesses_seem_not_to_fit(classes, right, told):
    """At most 1.5 times chance, and of two classes a tenth of the way from chance to all right."""
    labels = np.zeros(100, np.int64)
    scores = np.eye(classes)[(np.arange(100) >= right).astype(np.int64)]
    found = notes(labels, y=scores)
    assert [f"right for {right}.0 % of the samples, a guess among {classes} classes" in one for one in found] == (
        [True] if told else []
    )


def test_outputs_of_another_signature_have_the_labels_only_where_no_other_fits():
    """However accurate they are."""
    labels = SOFTMAX.argmax(axis=1)
    outputs = {"y": SOFTMAX[::-1], "second:y": SOFTMAX, "few": np.eye(2)[labels % 2]}

    def found(*names):
        return labelled(make_plans({one: outputs[one] for one in names}, labels, {}, origin="", later={"second:y"})[0])

    assert found("y", "second:y", "few") == {"y"}
    assert found("second:y", "few") == {"second:y"}


def test_labels_beyond_every_output_are_refused():
    """The label, its sample and the number of classes are named."""
    labels = LABELS.copy()
    labels[7] = 12
    with pytest.raises(DataInvalid, match=r"test.npz: label 12 of sample 7; output 'y' has 4 classes, 0 to 3"):
        plans(labels, y=SOFTMAX)


def test_without_scores_labels_are_left_alone():
    """A regression's labels are not checked against anything."""
    assert not plans(np.full(20, 400), y=FORECAST)["y"].labelled


def test_complex_numbers_are_not_compared():
    """There is no plan for them."""
    assert plans(y=FORECAST, z=FORECAST.astype(np.complex64)).keys() == {"y"}


def test_ids_have_a_table_where_they_are_few():
    """One more than the largest one are told apart; token ids are only equal or not."""
    assert plans(y=np.array([0, 5, 2]))["y"].classes == 6
    assert plans(y=np.array([0, 5000, 2]))["y"].classes == 0
    assert plans(y=np.array([-1, 5, 2]))["y"].classes == 0


@pytest.mark.parametrize(
    ("values", "asked", "kind", "primary"),
    [
        (LOGITS, "top1", "scores", "top1_agreement"),
        (LOGITS, "topk:2", "scores", "top2_agreement"),
        (SOFTMAX, "recall@0.3", "map", "recall"),
        (BOXES, "f1@10", "map", "f1"),
        (BOXES, "precision@-1", "map", "precision"),
        (SOFTMAX, "rmse", "regression", "relative_rmse"),
        (SOFTMAX, "sqnr", "regression", "sqnr_db"),
        (IDS, "rmse", "regression", "relative_rmse"),
        (NOTES, "cosine", "regression", "cosine"),
        (NOTES, "iou", "map", "iou"),
        (IDS, "iou", "classes", "iou"),
        (WORDS, "equal", "other", "equal"),
        (SOFTMAX, "my.module:margin", "scores", "margin"),
        (SOFTMAX, "my.module:rmse", "scores", "my.module:rmse"),
    ],
)
def test_a_metric_that_was_asked_for_is_the_primary_one(values, asked, kind, primary):
    """It says what the output is taken for; a function's name can't hide a metric's."""
    plan = plans(metrics={"y": asked}, y=values)["y"]
    assert (plan.kind, plan.primary) == (kind, primary)


def test_thresholds_and_counts_are_kept():
    """recall@0.3 counts cells above 0.3, topk:2 the two largest; labels make it an accuracy."""
    assert plans(metrics={"y": "recall@.3"}, y=NOTES)["y"].threshold == 0.3
    plan = plans(LABELS, metrics={"y": "topk:2"}, y=LOGITS)["y"]
    assert (plan.top_k, plan.primary, plan.labelled) == (2, "top2_accuracy", True)


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"z": "top1"}, r"'z' is no output of the model, which gives \['y'\]"),
        ({"y": "best"}, "metric 'best' is not known; known are top1, topk:K, recall@T"),
        ({"y": "topk:0"}, "K must be a positive integer"),
        ({"y": "topk"}, "not known"),
        ({"y": "recall@x"}, "T must be a number"),
        ({"y": "recall"}, "not known"),
        ({"y": "topk:5"}, "output 'y' has 4 classes"),
        ({"words": "rmse"}, "is for numbers; output 'words' is not that"),
        ({"y": "a:b:c"}, "not known"),
    ],
)
def test_metrics_that_cannot_be_taken_are_refused(metrics, says):
    """The known ones are listed."""
    outputs = {"words": WORDS} if "words" in metrics else {"y": SOFTMAX}
    with pytest.raises(OptionInvalid, match=says):
        plans(metrics=metrics, **outputs)


def test_scores_cannot_be_asked_of_a_map():
    """Only [samples, classes] has a largest class."""
    with pytest.raises(OptionInvalid, match=r"is for class scores, floats \[samples, classes\]; output 'y'"):
        plans(metrics={"y": "top1"}, y=NOTES)


def test_iou_has_a_usual_threshold():
    """One half, where none is given."""
    assert parse_request("iou").threshold == 0.5
    assert parse_request(" iou@0.25 ").threshold == 0.25


def test_values_that_are_not_finite_do_not_decide():
    """A masked class has a score of -inf; the others are still probabilities."""
    values = np.log(SOFTMAX)
    values[:, 0] = -np.inf
    assert plans(y=values)["y"].kind == "regression"
    values = SOFTMAX.copy()
    values[3] = np.nan
    assert plans(y=values)["y"].kind == "scores"
