import numpy as np
import pytest
from support.edge_models import rows, scale_signature

from converter.artifact import Signature, TensorSpec
from edge_runtime import InvalidInput
from edge_runtime.inputs import InputCheck

TWO = Signature(
    name="s",
    inputs=(
        TensorSpec(name="a", dtype="float32", shape=(-1, 2)),
        TensorSpec(name="b", dtype="string", shape=(-1,)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),),
    batch_axis=0,
)
STRINGS = np.array([b"p", b"q"], dtype=object)


def test_array_of_single_input():
    """One array stands for the only input, and its first dimension is the rows."""
    x = rows(3)
    arrays, count = InputCheck("scale/1", scale_signature())(x)
    assert arrays["x"] is x
    assert count == 3


def test_arrays_by_name():
    """Several inputs are taken by name, strings included."""
    arrays, count = InputCheck("m/1", TWO)({"b": STRINGS, "a": np.zeros((2, 2), np.float32)})
    assert set(arrays) == {"a", "b"}
    assert count == 2


def test_unbatched_signature_has_one_row():
    """Where there is no batch axis a request counts as one row, whatever its shape."""
    signature = scale_signature(batched=False)
    assert InputCheck("m/1", signature)(rows(1))[1] == 1


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (rows(2).astype(np.float64), r"'x' must be float32\[-1, 4\].*got float64\[2, 4\]"),
        (rows(2)[0], r"'x' must be float32\[-1, 4\].*got float32\[4\]"),
        (rows(2)[:, :3], r"got float32\[2, 3\]"),
        (rows(2)[:0], "at least one row"),
        ({"z": rows(1)}, r"missing: \['x'\], not known: \['z'\]"),
        ({"x": [1, 2, 3, 4]}, "'x' must be a numpy array, got list"),
        ([1.0], "got list"),
    ],
)
def test_refusals_name_the_fault(inputs, said):
    """A wrong input is refused with its name, what was expected and what came."""
    with pytest.raises(InvalidInput, match=said):
        InputCheck("scale/1", scale_signature())(inputs)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (rows(1), "pass them by name"),
        ({"a": np.zeros((3, 2), np.float32), "b": STRINGS}, "disagree on the number of rows"),
        ({"a": np.zeros((2, 2), np.float32), "b": np.zeros(2)}, r"'b' must be string\[-1\]"),
    ],
)
def test_refusals_of_several_inputs(inputs, said):
    """Inputs that don't go together are refused."""
    with pytest.raises(InvalidInput, match=said):
        InputCheck("m/1", TWO)(inputs)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (np.ma.masked_array(rows(1), mask=[[1, 0, 0, 0]]), "masked array"),
        ({"x": np.ma.masked_array(rows(1), mask=[[1, 0, 0, 0]])}, "masked array"),
    ],
)
def test_masks_are_not_lost_silently(inputs, said):
    """A masked array is refused: the model would see what the mask hides."""
    with pytest.raises(InvalidInput, match=said):
        InputCheck("scale/1", scale_signature())(inputs)


def test_string_inputs_hold_strings_only():
    """An array of other objects is refused before it reaches an interpreter or the wire."""
    with pytest.raises(InvalidInput, match="must hold bytes or str"):
        InputCheck("m/1", TWO)({"a": np.zeros((2, 2), np.float32), "b": np.array([b"p", 3], dtype=object)})


def test_array_without_dimensions_is_refused_where_rows_are_wanted():
    """A scalar has no rows: it is refused as any other wrong shape, also where a row is a scalar."""
    one = TensorSpec(name="x", dtype="float32", shape=(-1,))
    signature = Signature(name="s", inputs=(one,), outputs=(one,), batch_axis=0)
    with pytest.raises(InvalidInput, match=r"must be float32\[-1\].*got float32\[\]"):
        InputCheck("m/1", signature)(np.array(1.0, np.float32))
