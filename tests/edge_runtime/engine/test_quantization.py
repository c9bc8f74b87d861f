import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import InvalidInput, PackageRefused
from edge_runtime.engine.quantization import codec


def signature(dtype, quantization=None):
    spec = TensorSpec(name="t", dtype=dtype, shape=(-1, 3), quantization=quantization)
    return Signature(name="s", inputs=(spec,), outputs=(spec,), batch_axis=0)


FLOAT = signature("float32")


@given(
    hnp.arrays(np.float32, (2, 3), elements=st.floats(-3, 3, width=32)),
    st.floats(0.03, 0.5),
    st.integers(-20, 20),
)
def test_round_trip_is_within_half_a_step(values, scale, zero_point):
    """What int8 can represent comes back within half a quantization step."""
    step = Quantization(scales=(scale,), zero_points=(zero_point,))
    both = codec(FLOAT, signature("int8", step))
    stored = both.quantize({"t": values})["t"]
    assert stored.dtype == np.int8
    low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
    back = both.dequantize({"t": stored})["t"]
    np.testing.assert_allclose(back, np.clip(values, low, high), atol=scale * 0.501)


def test_values_beyond_the_range_are_clipped():
    """A value that int8 can't hold becomes the nearest it can, never one that wrapped around."""
    both = codec(FLOAT, signature("int8", Quantization(scales=(0.1,), zero_points=(0,))))
    stored = both.quantize({"t": np.array([[1e6, -1e6, 0]], np.float32)})["t"]
    assert stored.tolist() == [[127, -128, 0]]


def test_per_axis_quantization():
    """Several scales apply along their axis."""
    both = codec(FLOAT, signature("int8", Quantization(scales=(1.0, 2.0, 4.0), zero_points=(0, 0, 0), axis=1)))
    assert both.quantize({"t": np.full((1, 3), 4, np.float32)})["t"].tolist() == [[4, 2, 1]]


def test_equal_dtypes_need_no_codec():
    """A float variant has no codec, so that it costs nothing."""
    assert codec(FLOAT, FLOAT) is None


def test_unexplained_dtype_is_refused():
    """A file whose dtype differs without saying its quantization can't be run right, so it is not run."""
    with pytest.raises(PackageRefused, match="no quantization between"):
        codec(FLOAT, signature("int8"))


def test_nan_is_refused():
    """A NaN has no quantized form: it is refused instead of becoming a number."""
    both = codec(FLOAT, signature("int8", Quantization(scales=(0.1,), zero_points=(0,))))
    with pytest.raises(InvalidInput, match="'t' holds a NaN"):
        both.quantize({"t": np.array([[np.nan, 0, 0]], np.float32)})
