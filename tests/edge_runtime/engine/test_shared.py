import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_runtime.engine import shared
from edge_runtime.engine.shared import Arena, Layout, Place, fill, lay_out, taken

NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.floating_dtypes(),
    arrays.complex_number_dtypes(),
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
STRINGS = arrays.arrays(object, SHAPES, elements=st.binary(max_size=9), fill=st.nothing())


@pytest.fixture
def pair():
    """An arena as its two sides have it."""
    one = Arena.make("test")
    other = Arena(os.dup(one.descriptor))
    yield one, other
    one.close()
    other.close()


def carried(one, other, given_arrays):
    layout, contents = lay_out(given_arrays)
    one.reserve(layout.end)
    fill(one.views(layout), given_arrays, contents)
    other.reach(one.size_bytes)
    return taken(layout, other.views(layout))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)), STRINGS), max_size=4), st.booleans()
)
def test_what_one_side_puts_in_the_other_takes_out(values, turned):
    """Any numbers and strings of any shape arrive as they were, also out of arrays that are not contiguous."""
    sent = {
        f"tensor {place}": value.T[..., ::-1] if turned and value.ndim else value for place, value in enumerate(values)
    }
    one = Arena.make("test")
    other = Arena(os.dup(one.descriptor))
    try:
        one.reserve(1)
        found = carried(one, other, sent)
    finally:
        one.close()
        other.close()
    assert list(found) == list(sent)
    for name, value in sent.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)


def test_text_arrives_as_its_bytes(pair):
    """An array of text becomes one of UTF-8, as an interpreter takes it."""
    found = carried(*pair, {"words": np.array(["grün", b"red"], object)})
    assert found["words"].tolist() == ["grün".encode(), b"red"]


def test_a_larger_array_makes_both_sides_map_anew(pair):
    """An arena grows by mapping it again, and views of what it was stay readable."""
    one, other = pair
    small = {"x": np.arange(4)}
    layout, _ = lay_out(small)
    carried(one, other, small)
    before, view = one.generation, one.views(layout)["x"]
    large = {"x": np.arange(100_000)}
    np.testing.assert_array_equal(carried(one, other, large)["x"], large["x"])
    assert one.generation > before
    assert view[0] == 0


def test_what_no_device_has_is_refused(pair, monkeypatch):
    """More than the bound is refused by its number, before memory is taken."""
    monkeypatch.setattr(shared, "MAX_ARENA_BYTES", 2**20)
    with pytest.raises(ValueError, match=r"2097152 bytes; at most 1048576"):
        pair[0].reserve(2**21)


def test_the_file_can_not_be_made_shorter(pair):
    """The other side can't take away memory that this one reads, which would end this process."""
    pair[0].reserve(1)
    with pytest.raises(PermissionError):
        os.ftruncate(pair[1].descriptor, 0)


@pytest.mark.parametrize("array", [np.array([None]), np.array(["2026-01-01"], "datetime64[D]"), np.zeros(1, "f4,i4")])
def test_other_values_than_numbers_and_strings_are_refused(array):
    """A dtype whose bytes mean nothing elsewhere is refused by its tensor's name."""
    with pytest.raises(TypeError, match="tensor 'x'"):
        lay_out({"x": array})


@pytest.mark.parametrize(
    "place",
    [
        Place("x", "<f4", (4,), 2**20, 16),
        Place("x", "<f4", (4,), -64, 16),
        Place("x", "<f4", (4,), 0, 12),
        Place("x", "<f4", (-1,), 0, -4),
        Place("x", "<f4", (2**62, 4), 0, 0),
        Place("x", "O", (2,), 0, 16),
        Place("x", "no dtype", (2,), 0, 16),
        Place("x", "string", (2**40,), 0, 64),
        Place("x", "string", (-3,), 0, 64),
        Place("x", "string", (2,), 0, 64),
        Place("x", "string", (2,), 0, -1),
    ],
)
def test_a_layout_that_is_wrong_is_refused(pair, place):
    """Whatever a broken worker says of where its results lie, nothing outside is read and no object is made up."""
    one, _ = pair
    one.reserve(1)
    one.write(0, b"\xff" * 64)
    layout = Layout((place,), 64)
    with pytest.raises((ValueError, TypeError)):
        taken(layout, one.views(layout))


def test_closing_again_does_nothing():
    """An arena is closed once, and its views may outlive it."""
    arena = Arena.make("test")
    arena.reserve(1)
    view = arena.views(Layout((Place("x", "|u1", (4,), 0, 4),), 64))["x"]
    arena.close()
    arena.close()
    assert view.tolist() == [0, 0, 0, 0]
