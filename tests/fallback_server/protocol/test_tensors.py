import contextlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.typed_tensors import typed

from fallback_server.protocol import tensors
from fallback_server.protocol.packed import varint
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import TensorCodecError, decode, dtype_name, encode, encode_parts

NUMBERS = ["float16", "float32", "float64", "int8", "int16", "int32", "int64"]
NUMBERS += ["uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"]
EXTENDED = ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(st.data(), st.sampled_from(NUMBERS))
@settings(deadline=None)
def test_round_trip_of_every_dtype(data, dtype):
    """What is encoded comes back equal, bit for bit, as tensor_content and as typed values."""
    array = data.draw(hnp.arrays(dtype, SHAPES))
    for proto in (encode(array), typed(array)):
        back = decode(pb.TensorProto.FromString(proto.SerializeToString()))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()
    assert dtype_name(encode(array).dtype) == dtype


@pytest.mark.parametrize("name", EXTENDED)
def test_what_numpy_alone_lacks(name):
    """bfloat16, float8 and int4 kinds go and come bit for bit, as tensor_content and as typed values."""
    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name))
    for proto in (encode(array), typed(array)):
        back = decode(proto)
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert dtype_name(encode(array).dtype) == name


def test_without_ml_dtypes_the_dtype_is_refused_by_name(monkeypatch):
    """A device that has no ml_dtypes is told which dtype it can't hold."""
    monkeypatch.setattr(tensors, "_extended", dict)
    with pytest.raises(TensorCodecError, match="bfloat16 has no numpy dtype here"):
        decode(pb.TensorProto(dtype=pb.DT_BFLOAT16, tensor_shape=shape(0)))


@given(st.data(), st.sampled_from([*NUMBERS, "object"]))
def test_parts_are_the_message(data, dtype):
    """The pieces follow each other to the same message as `encode` makes, and the array is read in place."""
    elements = st.binary(max_size=8) if dtype == "object" else None
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=elements))
    assert pb.TensorProto.FromString(b"".join(encode_parts(array))) == encode(array)
    base = np.zeros(8, np.float32)
    parts = encode_parts(base)
    base[0] = 1
    assert decode(pb.TensorProto.FromString(b"".join(parts)))[0] == 1


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=8)))
def test_round_trip_of_strings(array):
    """Arrays of bytes come back as they were, empty strings included."""
    back = decode(encode(array))
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_layouts():
    """Strided, big-endian, Fortran-ordered and str arrays are encoded by what they mean."""
    base = np.arange(12, dtype=np.int32).reshape(3, 4)
    for array in (base[:, ::2], base.T, np.asfortranarray(base), base.astype(">i4")):
        np.testing.assert_array_equal(decode(encode(array)), array)
    assert decode(encode(np.array(["ä", "b"]))).tolist() == ["ä".encode(), b"b"]


def test_last_value_repeats():
    """Fewer typed values than elements are filled up with the last, none at all with zeros: TensorFlow's rule."""
    shape = {"dim": [{"size": 2}, {"size": 2}]}
    some = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=[1, 2])
    assert decode(some).tolist() == [[1, 2], [2, 2]]
    none = pb.TensorProto(dtype=pb.DT_INT64, tensor_shape=shape)
    assert decode(none).tolist() == [[0, 0], [0, 0]]
    text = pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape, string_val=[b"a"])
    assert decode(text).tolist() == [[b"a", b"a"], [b"a", b"a"]]
    eighth = pb.TensorProto(dtype=pb.DT_FLOAT8_E5M2, tensor_shape=shape, float8_val=b"\1\2")
    assert decode(eighth).tobytes() == b"\1\2\2\2"


def content(data, *sizes, dtype=pb.DT_STRING):
    return pb.TensorProto(dtype=dtype, tensor_shape=shape(*sizes), tensor_content=data)


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=300)))
def test_strings_in_tensor_content(array):
    """All their lengths as varints, and then all of them, as `tf.io.parse_tensor` has it."""
    items = array.reshape(-1).tolist()
    data = b"".join([*(varint(len(item)) for item in items), *items])
    if data:
        back = decode(content(data, *array.shape))
        assert (back.shape, back.tolist()) == (array.shape, array.tolist())


def test_a_byte_is_a_bool_only_as_0_or_1():
    """Any other is true, as C has it, and doesn't reach a kernel as it is; what is well is not copied."""
    assert decode(content(b"\0\1\5\xff", 4, dtype=pb.DT_BOOL)).view(np.uint8).tolist() == [0, 1, 1, 1]
    assert not decode(content(b"\0\1", 2, dtype=pb.DT_BOOL)).flags.owndata


def test_decoded_content_is_no_copy():
    """tensor_content is read in place: hundreds of megabytes are not copied again."""
    proto = encode(np.zeros(1000, np.float32))
    assert not decode(proto).flags.owndata


def shape(*sizes, **more):
    return pb.TensorShapeProto(dim=[{"size": size} for size in sizes], **more)


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(2), tensor_content=b"123"), "has 3 bytes.*needs 8"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(2), float_val=[1, 2, 3]), "3 values.*has 2"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(-1)), "negative dimension"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(unknown_rank=True)), "unknown rank"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(2**40, 2**40)), "at most"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(*[1] * 65)), "rank 65, at most 64"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(0, 2**62, 2**62)), "dimensions that no array can have"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape(2**25), float_val=[1]), "claims 33554432 elements"),
        (pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape(2**24), string_val=[b"a"]), "claims 16777216 elements"),
        (pb.TensorProto(dtype=pb.DT_INT8, tensor_shape=shape(1), int_val=[300]), "out of int8's range, -128 to 127"),
        (pb.TensorProto(dtype=pb.DT_UINT8, tensor_shape=shape(1), int_val=[-1]), "out of uint8's range"),
        (pb.TensorProto(dtype=pb.DT_COMPLEX64, tensor_shape=shape(1), scomplex_val=[1]), "pairs"),
        (pb.TensorProto(dtype=pb.DT_INVALID), "unknown or not supported"),
        (pb.TensorProto(dtype=99), "dtype 99 is unknown or not supported"),
        (pb.TensorProto(dtype=11, tensor_shape=shape(1)), "dtype qint8 is not supported"),
        (pb.TensorProto(dtype=20, tensor_shape=shape()), "dtype resource is not supported"),
        (pb.TensorProto(dtype=24, tensor_shape=shape(1), float8_val=b"12"), "2 values.*has 1"),
        (pb.TensorProto(dtype=100), "dtype 100 is unknown or not supported"),
        (pb.TensorProto(dtype=101), "dtype float_ref is a reference, and no message can hold one"),
        (pb.TensorProto(dtype=29, tensor_shape=shape(1), int_val=[8]), "out of int4's range, -8 to 7"),
        (pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape(1), string_val=[b"a", b"b"]), "2 values"),
        (pb.TensorProto(dtype=7, tensor_shape=shape(2), tensor_content=b"\2\3abcdef"), "6 bytes.*lengths say 5"),
        (pb.TensorProto(dtype=7, tensor_shape=shape(2), tensor_content=b"\2\3abcd"), "4 bytes.*lengths say 5"),
        (pb.TensorProto(dtype=7, tensor_shape=shape(2), tensor_content=b"\2\xff"), "doesn't begin with the lengths"),
        (
            pb.TensorProto(dtype=7, tensor_shape=shape(1), tensor_content=b"\xff" * 5 + b"\0"),
            "the lengths of 1 strings",
        ),
        (pb.TensorProto(dtype=7, tensor_shape=shape(2**30), tensor_content=b"\0"), "the lengths of 1073741824 strings"),
        (pb.TensorProto(dtype=7, tensor_shape=shape(0), tensor_content=b"a"), "1 bytes.*lengths say 0"),
        (pb.TensorProto(dtype=10, tensor_shape=shape(2), tensor_content=b"\0"), "has 1 bytes.*needs 2"),
    ],
)
def test_refusals(proto, said):
    """A tensor whose values don't fit its shape or dtype is refused with both figures."""
    with pytest.raises(TensorCodecError, match=said):
        decode(proto)


@given(st.binary(max_size=60))
def test_any_message_is_read_or_refused(data):
    """Whatever bytes parse as a TensorProto, decoding gives an array or a TensorCodecError, and nothing else."""
    proto = pb.TensorProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # noqa: BLE001  protobuf's own refusal is not what is tested
        return
    if sum(1 for _ in proto.tensor_shape.dim) and np.prod([float(abs(d.size)) for d in proto.tensor_shape.dim]) > 1e6:
        return
    with contextlib.suppress(TensorCodecError):
        assert isinstance(decode(proto), np.ndarray)


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["2020-01-01"], dtype="datetime64[D]")])
def test_what_has_no_wire_form_is_refused(array):
    """Arrays of other objects or of dates are refused."""
    with pytest.raises(TensorCodecError):
        encode(array)


@pytest.mark.slow
@given(st.data(), st.sampled_from([*NUMBERS, *EXTENDED, "object"]))
@settings(deadline=None, max_examples=200)
def test_agrees_with_tensorflow(data, dtype):
    """TensorFlow reads what we write and we read what it writes, bit for bit: every dtype, strings, typed values."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    if dtype in EXTENDED:
        array = data.draw(hnp.arrays("uint8", SHAPES, elements=st.integers(0, 7))).astype(getattr(ml_dtypes, dtype))
    else:
        array = data.draw(hnp.arrays(dtype, SHAPES, elements=st.binary(max_size=5) if dtype == "object" else None))
    ours = encode(array).SerializeToString()
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(ours))
    wire = tf.DType(encode(array).dtype)
    theirs = tf.make_tensor_proto(array, dtype=wire, shape=array.shape).SerializeToString()
    for back in (read, decode(pb.TensorProto.FromString(theirs))):
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tolist() == array.tolist() if dtype == "object" else back.tobytes() == array.tobytes()


@pytest.mark.slow
@given(st.lists(st.one_of(st.just(b"x" * 130), st.binary(max_size=4)), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=300)
def test_strings_in_tensor_content_are_those_of_tensorflow(items, data):
    """What `tf.io.parse_tensor` reads we read, and what it refuses we refuse: whole, cut, changed and made up."""
    import tensorflow as tf

    whole = b"".join([*(varint(len(item)) for item in items), *items])
    at = data.draw(st.integers(0, len(whole)))
    written = data.draw(
        st.one_of(
            st.just(whole), st.binary(min_size=1, max_size=12), st.binary(max_size=2).map(lambda b: whole[:at] + b)
        )
    )
    if not written:
        return
    proto = content(written, len(items))
    try:
        theirs = tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy().tolist()
    except tf.errors.InvalidArgumentError:
        theirs = None
    try:
        ours = decode(proto).tolist()
    except TensorCodecError:
        ours = None
    assert ours == theirs
