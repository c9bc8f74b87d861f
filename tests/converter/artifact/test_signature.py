import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from converter.artifact import ManifestInvalid, Quantization, Signature, TensorSpec


def make(shape=(-1, 4), **fields):
    return TensorSpec(name="x", dtype="float32", shape=shape, **fields)


@given(stn.arrays(np.float32, stn.array_shapes(max_dims=3), elements=st.floats(-10, 10, width=32)))
def test_quantizing_and_back_is_off_by_half_a_step_at_most(values):
    """Within the range, no value moves by more than half of the scale."""
    quantization = Quantization(scales=(0.1,), zero_points=(3,))
    back = quantization.dequantize(quantization.quantize(values, np.int8))
    assert back.shape == values.shape
    assert back.dtype == np.float32
    assert np.all(np.abs(back - values) <= 0.05 + 1e-5)


def test_quantizing_clips():
    """Values beyond the range stop at the dtype's bounds."""
    assert Quantization(scales=(1.0,), zero_points=(0,)).quantize([1e9, -1e9, 1.5], np.int8).tolist() == [127, -128, 2]


def test_scales_along_an_axis():
    """With several scales, each index of the axis has its own."""
    quantization = Quantization(scales=(1.0, 0.5), zero_points=(0, 1), axis=1)
    assert quantization.quantize([[2.0, 2.0]], np.int8).tolist() == [[2, 5]]
    assert quantization.dequantize(np.array([[2, 5]], np.int8)).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("scales", "points"), [((), ()), ((1.0,), ()), ((0.0,), (0,)), ((-1.0,), (0,)), ((float("nan"),), (0,))]
)
def test_impossible_quantizations_are_refused(scales, points):
    """No scales, other numbers of zero points, and scales that are not positive."""
    with pytest.raises(ManifestInvalid):
        Quantization(scales=scales, zero_points=points)


@pytest.mark.parametrize("fields", [{"name": ""}, {"dtype": "float8"}, {"shape": (-2,)}])
def test_impossible_specs_are_refused(fields):
    """A spec has a name, a known dtype and possible dimensions."""
    with pytest.raises(ManifestInvalid):
        TensorSpec(**{"name": "x", "dtype": "float32", "shape": (1,), **fields})


def test_shapes_are_accepted_where_fixed_dimensions_agree():
    """Variable dimensions take any size, the rank must be the same."""
    assert make().accepts((7, 4))
    assert not make().accepts((7, 5))
    assert not make().accepts((7, 4, 1))


@pytest.mark.parametrize(
    "fields", [{"inputs": ()}, {"outputs": ()}, {"inputs": (make(), make())}, {"batch_axis": 2}, {"batch_axis": -1}]
)
def test_impossible_signatures_are_refused(fields):
    """Tensors on both sides, names once, a batch axis that every tensor has."""
    with pytest.raises(ManifestInvalid):
        Signature(**{"name": "s", "inputs": (make(),), "outputs": (make(),), **fields})


def test_rows_are_counted_along_the_batch_axis():
    """Without a batch axis, a request is one row."""
    arrays = {"x": np.zeros((3, 4))}
    batched = Signature(name="s", inputs=(make(),), outputs=(make(),), batch_axis=0)
    assert batched.rows(arrays) == 3
    assert Signature(name="s", inputs=(make(),), outputs=(make(),)).rows(arrays) == 1


def test_specs_say_what_they_are():
    """Specs are found by name, and print dtype and shape for messages."""
    signature = Signature(name="s", inputs=(make(),), outputs=(make(),))
    assert str(signature.input("x")) == "float32[-1, 4]"
    assert signature.output("x").numpy_dtype == np.float32
    with pytest.raises(KeyError):
        signature.input("y")
