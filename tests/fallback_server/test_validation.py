import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.core.errors import InvalidInput
from fallback_server.validation import check_inputs, check_output_filter

ONE = signature({"a": (-1, 8, -1)}, {"y": (-1, 2), "z": (-1,)})
TWO = signature({"a": (-1, 2), "b": ((-1, 2), np.int32)}, {"y": (-1,)})
SCALAR = signature({"a": ()}, {"y": ()})
ANY = signature({"a": None}, {"y": None})


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("spec", "inputs", "rows"),
    [
        (ONE, {"a": zeros(5, 8, 3)}, 5),
        (TWO, {"a": zeros(4, 2), "b": zeros(4, 2, dtype=np.int32)}, 4),
        (SCALAR, {"a": zeros()}, 1),
        (ANY, {"a": zeros(7, 7, 7)}, 1),
        (ONE, {"a": zeros(0, 8, 3)}, 0),
    ],
)
def test_rows_of_what_fits(spec, inputs, rows):
    """The first dimension where there is a batch axis, 1 elsewhere."""
    assert check_inputs(spec, inputs) == rows


@pytest.mark.parametrize(
    ("spec", "inputs", "text"),
    [
        (ONE, {"a": zeros(8, 3)}, "input 'a': expected float32 [-1, 8, -1], got float32 [8, 3]"),
        (ONE, {"a": zeros(1, 9, 3)}, "input 'a': expected float32 [-1, 8, -1], got float32 [1, 9, 3]"),
        (ONE, {"a": zeros(1, 8, 3, dtype=np.float64)}, "expected float32 [-1, 8, -1], got float64 [1, 8, 3]"),
        (ONE, {"a": np.full((1, 8, 3), b"", object)}, "expected float32 [-1, 8, -1], got string [1, 8, 3]"),
        (SCALAR, {"a": zeros(1)}, "input 'a': expected float32 [], got float32 [1]"),
        (
            TWO,
            {"a": zeros(4, 2), "b": zeros(3, 2, dtype=np.int32)},
            "the inputs must have as many rows as each other: 'a' has 4, 'b' has 3",
        ),
        (
            ONE,
            {"a": zeros(1, 8, 3), "b": zeros(1)},
            (
                "input size does not match signature: 2!=1 len({a,b}) != len({a}). "
                "Sent extra: {b}. Missing but required: {}."
            ),
        ),
        (
            TWO,
            {},
            (
                "input size does not match signature: 0!=2 len({}) != len({a,b}). "
                "Sent extra: {}. Missing but required: {a,b}."
            ),
        ),
        (
            ONE,
            {"x": zeros(1)},
            "input tensor alias not found in signature: x. Inputs expected to be in the set {a}.",
        ),
    ],
)
def test_refusals_name_the_input_what_is_expected_and_what_came(spec, inputs, text):
    """Nothing that could end the process or be read wrongly gets past the check."""
    with pytest.raises(InvalidInput) as refusal:
        check_inputs(spec, inputs)
    assert text in str(refusal.value)


def test_output_filter():
    """Known outputs, each once."""
    check_output_filter(ONE, [])
    check_output_filter(ONE, ["z", "y"])
    with pytest.raises(InvalidInput) as refusal:
        check_output_filter(ONE, ["x"])
    assert str(refusal.value) == (
        "output tensor alias not found in signature: x Outputs expected to be in the set {y,z}."
    )
    with pytest.raises(InvalidInput, match=r"^duplicate output tensor alias: y$"):
        check_output_filter(ONE, ["y", "y"])
