import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.artifact import InputPreprocess, ManifestInvalid, Preprocess, RawInvalid, TensorSpec

constants = st.lists(st.floats(0.01, 10), max_size=3).map(tuple)
steps = st.builds(InputPreprocess, scale=st.floats(0.01, 10), mean=constants, std=constants)


def spec(dtype="float32"):
    return TensorSpec(name="image", dtype=dtype, shape=(-1, 3))


def test_scale_then_mean_then_std():
    """The formula is (raw * scale - mean) / std, by the last axis."""
    step = InputPreprocess(scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0,))
    found = step.apply(np.array([[4, 8, 12]], np.uint8), spec())
    np.testing.assert_array_equal(found, np.array([[0.5, 1.0, 1.5]], np.float32))
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_integers_are_rounded_and_clipped(dtype):
    """Values beyond the dtype stop at its bounds: none wraps around."""
    found = InputPreprocess(scale=2.0).apply(np.array([[1.25, 1e30, -1e30]]), spec(dtype))
    bounds = np.iinfo(dtype)
    assert found.dtype == np.dtype(dtype)
    assert found[0, 0] == 2
    assert found[0, 1] > bounds.max * 0.99
    assert found[0, 2] == bounds.min


@pytest.mark.parametrize("value", [2**24 + 1, 2**53 + 1, -(2**24) - 1])
def test_integers_that_nothing_is_done_to_stay_as_they_are(value):
    """Identifiers beyond float32's integers are not rounded on their way through."""
    found = Preprocess().apply("image", np.array([[value, 0, 1]]), spec("int64"))
    assert found[0, 0] == value


def test_integers_are_clipped_to_a_smaller_dtype_without_floats():
    """Signed and unsigned raw values both stop at the bounds."""
    assert InputPreprocess().apply(np.array([-5, 300]), spec("uint8")).tolist() == [0, 255]
    assert InputPreprocess().apply(np.array([2**64 - 1, 3], np.uint64), spec("int64")).tolist() == [2**63 - 1, 3]


def test_strings_pass():
    """An input that is not named takes strings as they are."""
    found = Preprocess().apply("text", np.array([b"a", b"bc"]), TensorSpec(name="text", dtype="string", shape=(-1,)))
    assert found.tolist() == [b"a", b"bc"]


def test_constants_must_fit_the_last_axis():
    """Two means for three channels are refused with both numbers."""
    with pytest.raises(ManifestInvalid, match="2 values, the last axis has 3"):
        InputPreprocess(mean=(1.0, 2.0)).apply(np.zeros((1, 3)), spec())


@pytest.mark.parametrize(
    "fields", [{"scale": 0.0}, {"scale": float("nan")}, {"mean": (float("inf"),)}, {"std": (0.0,)}, {"std": (-1.0,)}]
)
def test_impossible_constants_are_refused(fields):
    """Each is named."""
    with pytest.raises(ManifestInvalid, match=next(iter(fields))):
        InputPreprocess(**fields)


@given(steps, steps)
def test_fingerprints_are_equal_where_the_steps_are(one, other):
    """Equal steps, equal fingerprints; different steps, different ones."""
    first, second = (Preprocess(inputs={"x": step}).fingerprint for step in (one, other))
    assert (first == second) == (one.canonical == other.canonical)
    assert Preprocess(inputs={"x": one}).fingerprint == first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (InputPreprocess(scale=1), InputPreprocess(scale=1.0)),
        (InputPreprocess(), InputPreprocess(mean=(0.0,), std=(1.0,))),
        (InputPreprocess(mean=(-0.0, 1.0)), InputPreprocess(mean=(0, 1))),
        (InputPreprocess(mean=(0.5, 0.5, 0.5)), InputPreprocess(mean=(0.5,))),
    ],
)
def test_what_does_the_same_has_the_same_fingerprint(one, other):
    """A device and a server that spell the same preprocessing differently agree."""
    assert Preprocess(inputs={"x": one}).fingerprint == Preprocess(inputs={"x": other}).fingerprint


def test_doing_nothing_to_an_input_is_like_not_naming_it():
    """An input with the defaults adds nothing to the fingerprint."""
    assert Preprocess(inputs={"x": InputPreprocess()}).fingerprint == Preprocess().fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_inputs():
    """A TOML file may name them in any order."""
    one, two = InputPreprocess(scale=2.0), InputPreprocess(scale=3.0)
    assert Preprocess(inputs={"a": one, "b": two}).fingerprint == Preprocess(inputs={"b": two, "a": one}).fingerprint


@pytest.mark.parametrize("raw", [None, [None, 1.0], np.array([[None]])])
@pytest.mark.parametrize("step", [InputPreprocess(), InputPreprocess(scale=0.5)])
def test_nothing_is_no_value(raw, step):
    """Numpy would make NaN of it, and a model would answer that."""
    with pytest.raises(RawInvalid, match="preprocessing of 'x': values are needed, got None"):
        step.apply(raw, TensorSpec(name="x", dtype="float32", shape=(-1, 4)))
