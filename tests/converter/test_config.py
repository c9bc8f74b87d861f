from pathlib import Path

import pytest

from converter.config import ConvertOptions
from converter.errors import OptionInvalid

GOOD = {"saved_model": Path("m"), "name": "n", "version": 1, "output": Path("o")}


def test_the_least_that_is_needed_is_enough():
    """Only the model, its name, its version and the output have no default."""
    assert ConvertOptions(**GOOD).signature == "serving_default"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "'a/b'"),
        ({"version": 0}, "version 0: must be from 1"),
        ({"signature": ""}, "signature"),
        ({"time_limit_s": 0.0}, r"time limit: must be above 0 s, got 0\.0"),
        ({"time_limit_s": float("nan")}, "time limit"),
        ({"calibration_samples": 0}, "calibration samples: must be from 1 to 1000000, got 0"),
    ],
)
def test_options_out_of_bounds_are_refused(changes, says):
    """The message says the option, the bound and the value."""
    with pytest.raises(OptionInvalid, match=says):
        ConvertOptions(**{**GOOD, **changes})
