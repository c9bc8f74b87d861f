import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.artifact import TensorSpec
from converter.errors import OptionInvalid
from converter.sources.shapes import resolve, with_batch


def spec(name, *shape):
    return TensorSpec(name=name, dtype="float32", shape=shape)


INPUTS = {"main": [spec("x", -1, -1, 8), spec("y", -1, 3)], "other": [spec("x", -1, 5, 8)]}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"z": (1,)}, r"'z' is no input of the model, which takes \['x', 'y'\]"),
        ({"y": (1,)}, r"y=1 has 1 dimensions, the model's \[any,3\] has 2"),
        ({"y": (1, 4)}, r"y=1,4: dimension 1 is fixed at 3 in the model's \[any,3\]"),
        ({"y": (1, -1)}, "dimension 1 is fixed at 3"),
        ({"y": (0, 3)}, "at least 1, or -1"),
        ({"y": (-2, 3)}, "at least 1, or -1"),
        ({"x": (1, 6, 8)}, "dimension 1 is fixed at 5"),
    ],
)
def test_a_shape_that_contradicts_the_model_is_refused_with_both(asked, says):
    """In whichever signature the input is."""
    with pytest.raises(OptionInvalid, match=says):
        resolve(asked, INPUTS)


def test_what_is_not_asked_for_stays():
    """In every signature that has the input, and in no other."""
    assert resolve({"x": (2, 5, 8)}, INPUTS) == {
        "main": {"x": (2, 5, 8), "y": (-1, 3)},
        "other": {"x": (2, 5, 8)},
    }
    assert resolve({}, INPUTS)["main"] == {"x": (-1, -1, 8), "y": (-1, 3)}


def test_a_batch_is_fixed_where_it_is_variable():
    """Other dimensions, other signatures and fixed batches stay as they are."""
    shapes = {"main": {"x": (-1, -1, 8), "y": (4, 3), "z": ()}, "other": {"x": (-1, 5)}}
    assert with_batch(shapes, ["main"], 1) == {
        "main": {"x": (1, -1, 8), "y": (4, 3), "z": ()},
        "other": {"x": (-1, 5)},
    }


@given(
    st.lists(st.sampled_from([-1, 1, 2, 7]), max_size=4), st.lists(st.sampled_from([-2, -1, 0, 1, 2, 7]), max_size=4)
)
def test_a_shape_is_taken_just_where_the_model_allows_it(own, asked):
    """Then it is what was asked for, and every tensor of it fits the model's own."""
    model = spec("x", *own)
    allowed = all(dim == -1 or dim >= 1 for dim in asked) and len(asked) == len(own)
    allowed = allowed and all(have in (-1, want) for have, want in zip(own, asked, strict=False))
    if not allowed:
        with pytest.raises(OptionInvalid):
            resolve({"x": tuple(asked)}, {"main": [model]})
        return
    found = resolve({"x": tuple(asked)}, {"main": [model]})["main"]["x"]
    assert found == tuple(asked)
    assert model.accepts(tuple(9 if dim == -1 else dim for dim in found))
