import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import VariantUnusable
from converter.metrics import SQNR_LIMIT_DB, Comparison, Plan, accuracy, rounded, sqnr_db

SCORES = Plan(kind="scores", primary="top1_agreement", classes=4)
LABELLED = Plan(kind="scores", primary="accuracy", classes=4, labelled=True)
MAP = Plan(kind="map", primary="f1")
REGRESSION = Plan(kind="regression", primary="relative_rmse")
IDS = Plan(kind="classes", primary="equal", classes=4)


def compare(plan, original, found, labels=None, *, step=None):
    comparison = Comparison("y", plan)
    step = step or len(original)
    for start in range(0, len(original), step):
        part = slice(start, start + step)
        comparison.add(original[part], found[part], None if labels is None else labels[part], start)
    return comparison


def compared(plan, original, found, labels=None, *, step=None):
    return compare(plan, original, found, labels, step=step).metrics()


def test_rmse_and_sqnr_of_known_arrays():
    """An error of 1 on values of 10: RMSE 1, signal to noise 100, that is 20 dB."""
    found = compared(REGRESSION, np.full((4, 3), 10.0), np.full((4, 3), 11.0))
    assert found["rmse"] == 1.0
    assert found["sqnr_db"] == 20.0


def test_relative_rmse_is_in_units_of_the_spread():
    """Values of -2 and 2 have a standard deviation of 2, wherever they lie: an error of 1 is a half of it."""
    values = np.array([[-2.0], [2.0]])
    assert compared(REGRESSION, values, values + 1)["relative_rmse"] == 0.5
    assert compared(REGRESSION, values + 1e3, values + 1e3 + 1)["relative_rmse"] == 0.5


@pytest.mark.parametrize("wobble", [0.0, 0.9e-3])
def test_an_error_on_a_constant_original_is_relative_to_its_values(wobble):
    """There is no spread to speak of: a rounding to float16 is next to nothing, one half is one half."""
    original = 0.3 * np.array([[1 - wobble], [1 + wobble]])
    rounding = original.astype(np.float16).astype(np.float64)
    assert compared(REGRESSION, original, rounding)["relative_rmse"] < 5e-4
    assert compared(REGRESSION, original, 1.5 * original)["relative_rmse"] == 0.5
    assert compared(REGRESSION, original, original)["relative_rmse"] == 0.0


def test_a_spread_of_a_thousandth_is_one():
    """From there on it is what an error is held against."""
    original = np.array([[1 - 1.1e-3], [1 + 1.1e-3]])
    assert compared(REGRESSION, original, original + 1.1e-3)["relative_rmse"] == 1.0


def test_an_error_on_an_original_of_zeros_is_relative_to_one():
    """Nothing says what it is an error of: in what is counted as lost a rounding stays a rounding."""
    for plan in (REGRESSION, Plan(kind="regression", primary="sqnr_db")):
        comparison = compare(plan, np.zeros((4, 2)), np.full((4, 2), 1e-3))
        assert comparison.findings(comparison.metrics(), {}).loss_points == pytest.approx(0.1)


def test_accuracy_and_agreement_are_shares_of_samples():
    """Of four samples three agree with the original, and two with the labels."""
    original = np.eye(4)
    found = original.copy()
    found[3] = [1.0, 0.0, 0.0, 0.0]
    result = compared(LABELLED, original, found, np.array([0, 1, 3, 3]))
    assert result["top1_agreement"] == 0.75
    assert result["accuracy"] == 0.5
    assert accuracy(original, np.array([0, 1, 3, 3])) == 0.75


def test_scores_that_are_no_numbers_are_never_right():
    """Neither the original's nor a variant's, whatever the label."""
    scores = np.array([[np.nan, np.nan], [1.0, 0.0]])
    labels = np.array([0, 0])
    plan = Plan(kind="scores", primary="accuracy", classes=2, labelled=True)
    assert accuracy(scores, labels) == compared(plan, scores, scores, labels)["accuracy"] == 0.5


def test_top_k_counts_labels_among_the_k_largest():
    """Of equal scores the first is the larger, as everywhere."""
    plan = Plan(kind="scores", primary="top2_accuracy", classes=3, labelled=True, top_k=2)
    scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.4, 0.4, 0.4]])
    result = compared(plan, scores, scores, np.array([1, 0, 2, 2]))
    assert result["top2_accuracy"] == 0.5
    assert accuracy(scores, np.array([1, 0, 2, 2]), 2) == 0.5


def test_without_labels_top_k_is_about_the_originals_best():
    """The original's first must be among the variant's first two."""
    plan = Plan(kind="scores", primary="top2_agreement", classes=3, top_k=2)
    original = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = np.array([[0.4, 0.5, 0.1], [0.1, 0.5, 0.4]])
    assert compared(plan, original, found)["top2_agreement"] == 0.5


def test_the_probability_of_one_class_is_that_of_two():
    """Above one half it is class 1."""
    plan = Plan(kind="scores", primary="accuracy", classes=2, labelled=True)
    values = np.array([[0.9], [0.4], [0.6]])
    assert compared(plan, values, values, np.array([1, 0, 0]))["accuracy"] == 0.666667
    assert compared(plan, values[:, 0], values[:, 0], np.array([1, 0, 0]))["accuracy"] == 0.666667


def test_a_map_that_lost_half_of_its_notes_is_not_nearly_as_good():
    """98 of 100 cells are empty: plain agreement reads 99 % when half of the notes are gone, recall a half."""
    original = np.zeros((10, 20, 100))
    original[:, :, ::50] = 0.9
    found = original.copy()
    found[:, :, 0] = 0.3
    agreement = ((original > 0.5) == (found > 0.5)).mean()
    comparison = compare(MAP, original, found)
    result = comparison.metrics()
    assert agreement == 0.99
    assert result["recall"] == 0.5
    assert result["precision"] == 1.0
    assert result["f1"] == 0.666667
    findings = comparison.findings(result, {})
    assert (findings.primary, findings.loss_points) == ("f1", 33.3333)
    assert findings.worst[0].original == "40 above 0.5"
    assert findings.worst[0].variant == "20 above 0.5"


def test_cells_count_above_the_threshold_that_was_given():
    """One true, one lost, one made up: every share is known."""
    plan = Plan(kind="map", primary="iou", threshold=0.2, also=("iou",))
    result = compared(plan, np.array([[0.3, 0.3, 0.1, 0.2]]), np.array([[0.3, 0.1, 0.3, 0.2]]))
    assert result["precision"] == result["recall"] == result["f1"] == 0.5
    assert result["iou"] == 0.333333


def test_a_map_without_any_cell_has_nothing_to_lose():
    """Nothing to find and nothing found is right."""
    result = compared(MAP, np.zeros((2, 3)), np.zeros((2, 3)))
    assert result["f1"] == result["precision"] == result["recall"] == 1.0


def test_class_ids_are_equal_or_not():
    """How far two ids lie apart means nothing: neither RMSE nor SQNR is given."""
    comparison = compare(IDS, np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]))
    assert comparison.metrics() == {"equal": 0.75}
    findings = comparison.findings(comparison.metrics(), {})
    assert findings.loss_points == 25.0
    assert findings.confusion[3] == (1, 0, 0, 0)
    assert [(one.sample, one.original, one.variant) for one in findings.worst] == [(3, "3", "0")]


def test_ids_that_the_original_never_gave_have_no_table():
    """There is no place for them, in whichever batch they come."""
    comparison = compare(IDS, np.array([0, 1, 2, 3]), np.array([0, 9, 2, 3]), step=1)
    findings = comparison.findings(comparison.metrics(), {})
    assert findings.confusion == findings.classes == ()


def test_iou_of_a_segmentation_is_the_mean_over_its_classes():
    """Class 0: one of two cells in both; class 1: two of three."""
    plan = Plan(kind="classes", primary="iou", also=("iou",))
    found = compared(plan, np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    assert found["iou"] == rounded((1 / 2 + 2 / 3) / 2)


def test_strings_are_equal_or_not():
    """No number is made of them."""
    plan = Plan(kind="other", primary="equal")
    assert compared(plan, np.array([b"a", b"b"]), np.array([b"a", b"c"])) == {"equal": 0.5}


def test_cosine_is_the_mean_over_the_samples():
    """The same direction is 1, a right angle 0, two zero vectors 1; large values don't overflow."""
    plan = Plan(kind="regression", primary="cosine", also=("cosine",))
    original = np.array([[1.0, 0.0], [1e200, 0.0], [0.0, 0.0], [1.0, 0.0]])
    found = np.array([[2.0, 0.0], [0.0, 1e200], [0.0, 0.0], [0.0, 0.0]])
    assert compared(plan, original, found)["cosine"] == 0.5


def test_each_class_is_told_apart():
    """By label: its samples, what both get right, and how often they say the same."""
    original = np.eye(4)[[0, 0, 1, 1]]
    found = np.eye(4)[[0, 1, 1, 1]]
    comparison = compare(LABELLED, original, found, np.array([0, 0, 1, 2]))
    findings = comparison.findings(comparison.metrics(), {"accuracy": 0.75})
    told = [(one.label, one.samples, one.original, one.variant, one.agreement) for one in findings.classes]
    assert told == [(0, 2, 1.0, 0.5, 0.5), (1, 1, 1.0, 1.0, 1.0), (2, 1, 0.0, 0.0, 1.0)]
    assert findings.confusion[:2] == ((1, 1, 0, 0), (0, 2, 0, 0))
    assert (findings.loss_points, findings.reference_points) == (25.0, 75.0)


def test_without_labels_classes_are_the_originals():
    """Accuracies are then unknown, and not guessed."""
    comparison = compare(SCORES, np.eye(4)[[0, 0, 1]], np.eye(4)[[0, 1, 1]])
    findings = comparison.findings(comparison.metrics(), None)
    assert [(one.label, one.original, one.agreement) for one in findings.classes] == [(0, None, 0.5), (1, None, 1.0)]
    assert findings.loss_points is None


def test_large_numbers_of_classes_have_no_matrix():
    """A thousand classes have a table, more than a hundred no confusion."""
    plan = Plan(kind="scores", primary="top1_agreement", classes=1000)
    comparison = compare(plan, np.eye(1000)[:5], np.eye(1000)[:5])
    findings = comparison.findings(comparison.metrics(), {})
    assert len(findings.classes) == 5
    assert findings.confusion == ()


@given(st.integers(1, 7))
def test_batches_do_not_matter(step):
    """However the samples are cut into batches, metrics and findings are the same."""
    random = np.random.default_rng(0)
    original, found = random.uniform(size=(2, 20, 4)).astype(np.float32)
    labels = random.integers(0, 4, 20)
    for plan, truth in ((LABELLED, labels), (MAP, None), (REGRESSION, None)):
        whole, parts = (compare(plan, original, found, truth, step=one) for one in (None, step))
        assert whole.metrics() == parts.metrics()
        own = {"accuracy": 0.5} if plan.labelled else {}
        assert whole.findings(whole.metrics(), own) == parts.findings(parts.metrics(), own)


@given(st.integers(0, 100), st.integers(1, 30))
def test_the_worst_ten_are_those_of_a_full_sort(seed, step):
    """The worst first, of equal ones the earlier sample; those without error are not listed."""
    random = np.random.default_rng(seed)
    original = random.normal(size=(30, 2))
    found = original + np.round(random.normal(size=(30, 1)))
    worst = compare(REGRESSION, original, found, step=step).findings({"relative_rmse": 0.0}, {}).worst
    errors = np.sqrt(np.square(found - original).mean(axis=1))
    order = [index for index in np.argsort(-errors.round(9), kind="stable") if errors[index] > 0][:10]
    assert sorted(one.error for one in worst) == sorted(rounded(errors[index]) for index in order)
    assert [one.error for one in worst] == sorted((one.error for one in worst), reverse=True)


def test_equal_outputs_have_the_largest_sqnr_that_json_can_hold():
    """No error is 200 dB and not infinity; without any signal noise is held against ones."""
    assert compared(REGRESSION, np.ones((2, 2)), np.ones((2, 2)))["sqnr_db"] == SQNR_LIMIT_DB
    assert compared(REGRESSION, np.zeros((2, 2)), np.zeros((2, 2)))["sqnr_db"] == SQNR_LIMIT_DB
    assert compared(REGRESSION, np.zeros((2, 2)), np.ones((2, 2)))["sqnr_db"] == 0.0


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_sqnr_is_always_finite_and_within_its_limits(signal, noise):
    """Whatever the sums, JSON can hold the figure."""
    found = sqnr_db(signal, noise)
    assert math.isfinite(found)
    assert abs(found) <= SQNR_LIMIT_DB
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_squares_that_overflow_are_still_numbers():
    """A float64 output beyond 1e154 has metrics and findings that JSON can hold."""
    comparison = compare(REGRESSION, np.array([[1e300, 2e300]]), np.full((1, 2), -1e300))
    found = comparison.metrics()
    assert all(math.isfinite(value) for value in found.values())
    assert math.isfinite(comparison.findings(found, {}).worst[0].error)


def test_a_value_that_is_not_finite_fails_the_variant():
    """NaN where the original has a number is named with its sample, counted over all batches."""
    found = np.ones((6, 2))
    found[5, 1] = np.nan
    with pytest.raises(VariantUnusable, match="'y' is nan for sample 5"):
        compared(REGRESSION, np.ones((6, 2)), found, step=2)


def test_where_the_original_is_not_finite_nothing_is_compared():
    """An original that gives -inf can't be held against a variant that gives another number there."""
    original, found = np.array([[1.0, -np.inf]]), np.array([[1.0, -1e9]])
    assert compared(REGRESSION, original, found)["rmse"] == 0.0


def test_another_shape_fails_the_variant():
    """Both shapes are named."""
    with pytest.raises(VariantUnusable, match=r"\[2, 3\].*\[2, 2\]"):
        compared(REGRESSION, np.ones((2, 2)), np.ones((2, 3)))


def test_integers_are_compared_without_wrapping_around():
    """Where an error of integers was asked for, the difference of uint8 values is taken in floats."""
    assert compared(REGRESSION, np.array([[1]], np.uint8), np.array([[3]], np.uint8))["rmse"] == 2.0


def test_rounding_keeps_six_digits():
    """Digits beyond what was measured are dropped, whatever the magnitude."""
    assert rounded(1 / 3) == 0.333333
    assert rounded(123456789.0) == 123457000.0
