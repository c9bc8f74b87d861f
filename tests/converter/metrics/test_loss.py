import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.metrics.loss import loss_points


@pytest.mark.parametrize(
    ("primary", "value", "original", "loss", "reference"),
    [
        ("accuracy", 0.90, {"accuracy": 0.95}, 5.0, 95.0),
        ("accuracy", 0.96, {"accuracy": 0.95}, -1.0, 95.0),
        ("top5_accuracy", 0.98, {"accuracy": 0.9, "top5_accuracy": 0.99}, 1.0, 99.0),
        ("top1_agreement", 0.985, {}, 1.5, 100.0),
        ("f1", 0.75, {}, 25.0, 100.0),
        ("cosine", -1.0, {}, 200.0, 100.0),
        ("relative_rmse", 0.03, {}, 3.0, 100.0),
        ("sqnr_db", 20.0, {}, 10.0, 100.0),
        ("sqnr_db", 200.0, {}, 0.0, 100.0),
        ("margin", 1.5, {"margin": 2.0}, 50.0, 200.0),
    ],
)
def test_losses_are_in_points(primary, value, original, loss, reference):
    """The documented table, row by row; a gain stays negative."""
    assert loss_points(primary, {primary: value}, original) == (loss, reference)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_better_variant_never_loses_more(one, other):
    """The order of two accuracies is the order of their losses."""
    losses = [loss_points("accuracy", {"accuracy": value}, {"accuracy": 0.5})[0] for value in sorted((one, other))]
    assert losses[0] >= losses[1]
