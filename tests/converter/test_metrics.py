import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import VariantUnusable
from converter.metrics import SQNR_LIMIT_DB, Comparison, accuracy, is_numeric, looks_like_scores, rounded, sqnr_db


def compared(original, found, labels=None, *, scores=False, step=None):
    comparison = Comparison(scores=scores, labelled=labels is not None)
    step = step or len(original)
    for start in range(0, len(original), step):
        part = slice(start, start + step)
        comparison.add("y", original[part], found[part], None if labels is None else labels[part], start)
    return comparison.result()


@pytest.mark.parametrize(
    ("shape", "dtype", "is_scores"),
    [
        ((5, 2), np.float32, True),
        ((5, 1), np.float32, False),
        ((5,), np.float32, False),
        ((5, 2, 2), np.float32, False),
        ((5, 2), np.int64, False),
    ],
)
def test_scores_are_floats_of_two_classes_or_more(shape, dtype, is_scores):
    """Only [samples, classes] of floats is read as class scores."""
    assert looks_like_scores(shape, np.dtype(dtype)) is is_scores


def test_strings_and_complex_numbers_are_not_compared():
    """What can't be ordered or subtracted has no metrics."""
    assert not is_numeric(np.dtype("S4"))
    assert not is_numeric(np.dtype(np.complex64))
    assert is_numeric(np.dtype(bool))


def test_rmse_and_sqnr_of_known_arrays():
    """An error of 1 on values of 10: RMSE 1, signal to noise 100, that is 20 dB."""
    found = compared(np.full((4, 3), 10.0), np.full((4, 3), 11.0))
    assert found == {"rmse": 1.0, "sqnr_db": 20.0}


def test_accuracy_and_agreement_are_shares_of_samples():
    """Of four samples three agree with the original, and two with the labels."""
    original = np.eye(4)
    found = original.copy()
    found[3] = [1.0, 0.0, 0.0, 0.0]
    result = compared(original, found, np.array([0, 1, 3, 3]), scores=True)
    assert result["top1_agreement"] == 0.75
    assert result["accuracy"] == 0.5
    assert accuracy(original, np.array([0, 1, 3, 3])) == 0.75


@given(st.integers(1, 7))
def test_batches_do_not_matter(step):
    """However the samples are cut into batches, the result is the same."""
    random = np.random.default_rng(0)
    original, found = random.normal(size=(2, 20, 3)).astype(np.float32)
    labels = random.integers(0, 3, 20)
    assert compared(original, found, labels, scores=True, step=step) == compared(original, found, labels, scores=True)


def test_equal_outputs_have_the_largest_sqnr_that_json_can_hold():
    """No error is 200 dB and not infinity; no signal but noise is -200 dB."""
    assert compared(np.ones((2, 2)), np.ones((2, 2)))["sqnr_db"] == SQNR_LIMIT_DB
    assert compared(np.zeros((2, 2)), np.zeros((2, 2)))["sqnr_db"] == SQNR_LIMIT_DB
    assert compared(np.zeros((2, 2)), np.ones((2, 2)))["sqnr_db"] == -SQNR_LIMIT_DB


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_sqnr_is_always_finite_and_within_its_limits(signal, noise):
    """Whatever the sums, JSON can hold the figure."""
    found = sqnr_db(signal, noise)
    assert math.isfinite(found)
    assert abs(found) <= SQNR_LIMIT_DB
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_squares_that_overflow_are_still_numbers():
    """A float64 output beyond 1e154 has metrics that JSON can hold."""
    found = compared(np.full((1, 2), 1e300), np.full((1, 2), -1e300))
    assert all(math.isfinite(value) for value in found.values())


def test_a_value_that_is_not_finite_fails_the_variant():
    """NaN where the original has a number is named with its sample, counted over all batches."""
    found = np.ones((6, 2))
    found[5, 1] = np.nan
    with pytest.raises(VariantUnusable, match="'y' is nan for sample 5"):
        compared(np.ones((6, 2)), found, step=2)


def test_where_the_original_is_not_finite_nothing_is_compared():
    """An original that gives -inf can't be held against a variant that gives another number there."""
    original, found = np.array([[1.0, -np.inf]]), np.array([[1.0, -1e9]])
    assert compared(original, found)["rmse"] == 0.0


def test_another_shape_fails_the_variant():
    """Both shapes are named."""
    with pytest.raises(VariantUnusable, match=r"\[2, 3\].*\[2, 2\]"):
        compared(np.ones((2, 2)), np.ones((2, 3)))


def test_integers_are_compared_without_wrapping_around():
    """The difference of uint8 values is taken in floats."""
    assert compared(np.array([[1]], np.uint8), np.array([[3]], np.uint8))["rmse"] == 2.0


def test_rounding_keeps_six_digits():
    """Digits beyond what was measured are dropped, whatever the magnitude."""
    assert rounded(1 / 3) == 0.333333
    assert rounded(123456789.0) == 123457000.0
