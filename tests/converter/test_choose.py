import pytest

from converter.choose import Candidate, choose


def scores(accuracy, agreement=1.0, sqnr_db=40.0):
    return {"y": {"accuracy": accuracy, "top1_agreement": agreement, "sqnr_db": sqnr_db, "rmse": 0.0}}


def unlabelled(agreement, sqnr_db=40.0):
    return {"y": {"top1_agreement": agreement, "sqnr_db": sqnr_db, "rmse": 0.0}}


def values(sqnr_db):
    return {"y": {"sqnr_db": sqnr_db, "rmse": 0.0}}


def three(float32, dynamic, int8):
    """float32 of 100 bytes, dynamic of 30, int8 of 25, with these metrics; None leaves one out."""
    sizes = {"float32": (100, float32), "dynamic": (30, dynamic), "int8": (25, int8)}
    return [
        Candidate(name=name, size_bytes=size, metrics=metrics)
        for name, (size, metrics) in sizes.items()
        if metrics is not None
    ]


ORIGINAL = {"y": {"accuracy": 0.95}}


@pytest.mark.parametrize(
    ("candidates", "original", "chosen"),
    [
        (three(scores(0.95), scores(0.95), scores(0.95)), ORIGINAL, "int8"),
        (three(scores(0.95), scores(0.95), scores(0.94)), ORIGINAL, "int8"),  # a drop of just one point
        (three(scores(0.95), scores(0.95), scores(0.9389)), ORIGINAL, "dynamic"),
        (three(scores(0.95), scores(0.93), scores(0.93)), ORIGINAL, "float32"),
        (three(scores(0.95), scores(0.99), scores(0.10)), ORIGINAL, "dynamic"),  # better than the original
        (three(scores(0.95), None, scores(0.5)), ORIGINAL, "float32"),
        (three(None, scores(0.90, sqnr_db=30.0), scores(0.80, sqnr_db=10.0)), ORIGINAL, "dynamic"),
        (three(unlabelled(1.0), unlabelled(0.995), unlabelled(0.99)), {}, "int8"),
        (three(unlabelled(1.0), unlabelled(0.995), unlabelled(0.98)), {}, "dynamic"),
        (three(unlabelled(1.0), unlabelled(0.995), unlabelled(1.0, sqnr_db=19.0)), {}, "dynamic"),
        (three(values(130.0), values(25.0), values(20.0)), {}, "int8"),
        (three(values(130.0), values(15.0), values(10.0)), {}, "float32"),
        (three({}, {}, {}), {}, "float32"),
    ],
)
def test_the_smallest_that_is_good_enough_is_chosen(candidates, original, chosen):
    """The rule, row by row."""
    assert choose(candidates, original, measured=True) == chosen


def test_nothing_measured_means_float32():
    """Numeric error on calibration data is no reason to run anything but the baseline."""
    assert choose(three(unlabelled(1.0), unlabelled(1.0), unlabelled(1.0)), {}, measured=False) == "float32"


def test_without_float32_and_measurements_the_most_faithful_is_chosen():
    """Something is always chosen."""
    assert choose(three(None, {}, {}), {}, measured=False) == "dynamic"
    assert choose(three(None, values(10.0), values(12.0)), {}, measured=False) == "int8"


def test_every_output_must_be_good_enough():
    """A second output that was lost disqualifies a variant whose accuracy is fine."""
    good, bad = scores(0.95), {**scores(0.95), "z": {"sqnr_db": 3.0, "rmse": 1.0}}
    assert choose(three(good, good, bad), ORIGINAL, measured=True) == "dynamic"


def test_of_equally_small_ones_the_most_faithful_is_chosen():
    """A model with nothing to quantize stays float32."""
    both = [Candidate(name=name, size_bytes=10, metrics=scores(0.95)) for name in ("float32", "dynamic")]
    assert choose(both, ORIGINAL, measured=True) == "float32"
