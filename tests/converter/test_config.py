from pathlib import Path

import pytest

from converter.config import Budget, ConvertOptions
from converter.errors import OptionInvalid

GOOD = {"saved_model": Path("m"), "name": "n", "version": 1, "output": Path("o")}


def test_the_least_that_is_needed_is_enough():
    """Only the model, its name, its version and the output have no default."""
    assert ConvertOptions(**GOOD).signatures == ("serving_default",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "'a/b'"),
        ({"version": 0}, "version 0: must be from 1"),
        ({"signatures": ("",)}, "signature"),
        ({"signatures": ()}, "signature"),
        ({"signatures": ("a", "b", "a")}, "signature: 'a' is given twice"),
        ({"targets": ("coral-usb", "coral-usb")}, "target: 'coral-usb' is given twice"),
        ({"optimize": "beauty"}, "'beauty' is neither size nor latency"),
        ({"search_time_s": -1.0}, r"search time: must be 0 s or more, up to .*, got -1\.0"),
        ({"edgetpu_segments": 0}, "Edge TPU segments: must be from 1 to 16, got 0"),
        ({"memory_limit_bytes": 0}, "memory limit: must be above 0 bytes, got 0"),
        ({"jobs": 0}, "jobs: must be from 1 to this machine's"),
        ({"time_limit_s": 0.0}, r"time limit: must be above 0 s, up to .*, got 0\.0"),
        ({"time_limit_s": float("nan")}, "time limit"),
        ({"time_limit_s": float("inf")}, "time limit"),
        ({"metrics": {"scores": "top1"}}, "metric: there are no data to measure on"),
        ({"server_model": Path("m")}, "server model: no threshold can be found against it without --evaluation"),
        ({"budget": Budget()}, "max accuracy drop: nothing can be held against it without --evaluation"),
        ({"calibration_samples": 0}, "calibration samples: must be from 1 to 1000000, got 0"),
    ],
)
def test_options_out_of_bounds_are_refused(changes, says):
    """The message says the option, the bound and the value."""
    with pytest.raises(OptionInvalid, match=says):
        ConvertOptions(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("text", "budget"),
    [("0.5", Budget(points=0.5)), ("1", Budget(points=1.0)), ("relative:2%", Budget(points=2.0, relative=True))],
)
def test_a_budget_is_points_or_relative(text, budget):
    """Both forms of `--max-accuracy-drop`."""
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "1%", "relative:", "101", "inf", "relative:x%"])
def test_what_is_no_budget_is_refused(text):
    """The value is named."""
    with pytest.raises(OptionInvalid, match="max accuracy drop"):
        Budget.parse(text)


def test_a_relative_budget_is_of_the_originals_own_metric():
    """1 % of 80 points is 0.8 points, and a loss of just the bound is within it."""
    budget = Budget(points=1.0, relative=True)
    assert budget.allows(0.8, 80.0)
    assert not budget.allows(0.9, 80.0)
    assert Budget(points=0.5).allows(0.5, 80.0)
    assert not Budget(points=0.5).allows(0.51, 80.0)
