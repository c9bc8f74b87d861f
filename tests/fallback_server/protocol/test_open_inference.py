import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from fallback_server.protocol.open_inference import (
    datatype_of,
    numpy_dtype,
    raw_view,
    read_contents,
    read_raw,
    write_raw,
)
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.protocol.tensors import TensorCodecError

DTYPES = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda name: hn.arrays(numpy_dtype(name), hn.array_shapes(min_dims=0, max_dims=3, min_side=0))
    )
)
def test_raw_contents_read_back_as_the_same_array(array):
    """Every datatype and shape survives, scalars and empty ones too."""
    back = read_raw(write_raw(array), datatype_of(array.dtype), array.shape)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=20)))
def test_raw_strings_read_back_as_the_same_bytes(values):
    """Empty ones and zeros at the end too."""
    array = np.empty(len(values), object)
    array[:] = values
    assert read_raw(write_raw(array), "BYTES", [len(values)]).tolist() == values


def test_bfloat16_has_a_datatype():
    """Where ml_dtypes is, which TensorFlow brings."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([1.5, -2], bfloat16)
    assert datatype_of(array.dtype) == "BF16"
    assert read_raw(write_raw(array), "BF16", [2]).tolist() == [1.5, -2]


REFUSED = [
    (b"", "FP33", [0], "datatype 'FP33' is none of BOOL"),
    (b"1234", "FP32", [2], r"4 raw bytes, FP32 of shape \[2\] needs 8"),
    (b"", "FP32", [-1], "negative"),
    (b"", "FP32", [2**40, 0], "too large"),
    (b"", "FP32", [0] * 65, "rank 65"),
    (b"", "BYTES", [1], "can't hold the 1 strings"),
    (b"\x05\0\0\0abc", "BYTES", [1], "ends 2 bytes beyond"),
    (b"\x04\0\0\0abcd", "BYTES", [2], "end at string 1 of 2"),
    (b"\x01\0\0\0abc", "BYTES", [1], "2 bytes are left"),
]


@pytest.mark.parametrize(("data", "datatype", "shape", "text"), REFUSED)
def test_contents_that_do_not_fit_are_refused(data, datatype, shape, text):
    """The text says what came and what the shape needs."""
    with pytest.raises(TensorCodecError, match=text):
        read_raw(data, datatype, shape)


FIELDS = {"BOOL": "bool", "FP32": "fp32", "FP64": "fp64", "INT64": "int64", "UINT64": "uint64", "BYTES": "bytes"}


def contents(array):
    name = datatype_of(array.dtype)
    field = FIELDS.get(name) or ("uint" if name.startswith("U") else "int")
    return pb.InferTensorContents(**{f"{field}_contents": array.reshape(-1).tolist()})


@given(
    st.sampled_from([name for name in DTYPES if name != "FP16"]).flatmap(
        lambda name: hn.arrays(numpy_dtype(name), hn.array_shapes(min_dims=0, max_dims=3, min_side=0))
    )
)
def test_typed_values_read_back_as_the_same_array(array):
    """Every datatype that has typed values, and strings."""
    back = read_contents(contents(array), datatype_of(array.dtype), array.shape)
    assert (back.dtype, back.tobytes()) == (array.dtype, array.tobytes())
    strings = np.array([[b"a", b""]], object)
    assert read_contents(contents(strings), "BYTES", [1, 2]).tolist() == strings.tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "values", "said"),
    [
        ("INT8", [1], {"int_contents": [300]}, "out of INT8's range, -128 to 127"),
        ("FP32", [2], {"fp32_contents": [1]}, "1 values.*which has 2"),
        ("FP32", [1], {"fp64_contents": [1]}, "FP32 comes in fp32_contents, got fp64_contents"),
        ("FP16", [1], {"fp32_contents": [1]}, "FP16 comes as raw contents alone"),
    ],
)
def test_typed_values_that_do_not_fit_are_refused(datatype, shape, values, said):
    """Values in a foreign field, out of range, of another number, or of a datatype that has none."""
    with pytest.raises(TensorCodecError, match=said):
        read_contents(pb.InferTensorContents(**values), datatype, shape)


def test_a_view_is_the_arrays_own_memory():
    """Nothing is copied but what lies in another order."""
    array = np.arange(6, dtype=np.int32)
    assert np.shares_memory(np.frombuffer(raw_view(array), np.int32), array)
    for other in (array[::2], array.reshape(2, 3).T, array.astype(">i4")):
        np.testing.assert_array_equal(read_raw(raw_view(other), "INT32", other.shape), other)
