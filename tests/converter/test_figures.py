import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.figures import count_text, factor_text, in_order, metric_text, points_text, time_text


@pytest.mark.parametrize(
    ("value_us", "text"),
    [
        (0.85, "0.85 µs"),
        (9.876, "9.88 µs"),
        (77.54, "77.5 µs"),
        (412.0, "412 µs"),
        (999.7, "1.00 ms"),
        (1_905.0, "1.91 ms"),
        (2_500_000.0, "2.50 s"),
        (61_000_000.0, "61.0 s"),
    ],
)
def test_times_have_three_digits_and_a_unit_that_fits(value_us, text):
    """From a microsecond to a minute."""
    assert time_text(value_us) == text


@given(st.floats(0.001, 1e12))
def test_any_time_is_short(value_us):
    """No exponent, no twenty digits."""
    assert "e" not in time_text(value_us)
    assert len(time_text(value_us)) <= 12


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9622, "96.22%"),
        ("top5_agreement", 1.0, "100.00%"),
        ("relative_rmse", 0.031, "3.10%"),
        ("sqnr_db", 41.63, "41.6 dB"),
        ("rmse", 0.0025678, "0.00257"),
        ("cosine", 0.99987, "0.9999"),
        ("mine:accuracy", 3.5, "3.5"),
        ("accuracy", None, ""),
    ],
)
def test_metrics_are_written_by_what_they_are(name, value, text):
    """Shares in percent, decibels with their unit; what a user's own function means nobody knows."""
    assert metric_text(name, value) == text


def test_what_people_look_for_comes_first():
    """Accuracy, then agreement; what is not known in the middle; raw errors last."""
    assert in_order({"rmse", "own:metric", "accuracy", "sqnr_db", "top1_agreement"}) == [
        *("accuracy", "top1_agreement", "own:metric", "sqnr_db", "rmse"),
    ]


def test_small_figures():
    """Points never read -0.00; factors lose their decimals where they are large; numbers have a noun that fits."""
    assert [points_text(one) for one in (-0.001, 0.125, 7.0)] == ["0.00", "0.12", "7.00"]
    assert [factor_text(one) for one in (4.13, 9.96, 12.7)] == ["4.1x", "10x", "13x"]
    assert [count_text(1, "sample"), count_text(12_345, "sample"), count_text(7)] == ["1 sample", "12,345 samples", "7"]
