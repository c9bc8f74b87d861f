import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.typed_tensors import DTYPES, FIELD_OF, NUMBERS, arrays, header, typed

from fallback_server.protocol.packed import pack, pieces, varint
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import TensorCodecError, decode, encode_parts, numpy_dtype, wire_dtype

MANY = 300
"""Times an array: more integers than protobuf packs out of a list."""


def same(back, array):
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(arrays())
@settings(deadline=None)
def test_what_is_written_is_what_protobuf_writes(array):
    """Every dtype, in TensorFlow's field, each value once; and it is read back bit for bit."""
    for one in (array, array.reshape(1, -1), np.tile(array, MANY)):
        written = b"".join(encode_parts(one, typed=True))
        parsed = pb.TensorProto.FromString(written)
        assert parsed.SerializeToString() == typed(one).SerializeToString()
        assert len(written) == parsed.ByteSize()
        same(decode(parsed), one)


@given(st.lists(st.one_of(st.integers(0, 127), st.integers(0, 2**64 - 1)), max_size=20), st.integers(1, 2000))
def test_packed_integers(values, times):
    """Varints of every length, few and many, as protobuf packs them, which reads them back."""
    array = np.array(values * times, np.uint64)
    proto = pb.TensorProto(uint64_val=array.tolist())
    packed = b"".join(pack(array))
    assert proto.SerializeToString() == (b"\x8a\x01" + varint(len(packed)) + packed if packed else b"")


def test_a_byte_is_a_varint_where_seven_bits_do():
    """Bools and small unsigned bytes are not copied."""
    for array in (np.ones(1000, bool), np.full(1000, 127, np.uint8)):
        (part,) = pack(array)
        assert np.shares_memory(np.frombuffer(part, np.uint8), array)
        assert decode(pb.TensorProto.FromString(b"".join(encode_parts(array, typed=True)))).tolist() == array.tolist()


def test_floats_are_not_copied_on_their_way():
    """Neither when they are written nor when they were cut out of a message."""
    for dtype in ("float32", "float64", "complex64", "complex128", ml_dtypes.float8_e5m2):
        array = np.ones(1000, dtype)
        *_, part = encode_parts(array, typed=True)
        assert np.shares_memory(np.frombuffer(part, np.uint8), array.view(np.uint8))
        number = NUMBERS[FIELD_OF[array.dtype.name]]
        assert np.shares_memory(decode(header(array), cut={number: part}).view(np.uint8), array.view(np.uint8))


def test_millions_of_integers_are_read_piece_by_piece():
    """Pieces end between two varints, whichever lengths those have."""
    array = np.tile(np.int64([1, 300, -1, 2**40, 0]), 300_000)
    packed = b"".join(pack(array))
    cut = list(pieces(packed))
    assert (len(cut), b"".join(cut)) == (-(-len(packed) // 2**20), packed)
    np.testing.assert_array_equal(decode(header(array), cut={NUMBERS["int64_val"]: packed}), array)


@pytest.mark.parametrize(
    ("dtype", "cut", "said"),
    [
        (pb.DT_FLOAT, {"float_val": b"12345"}, "float_val has 5 bytes, 4 are a number"),
        (pb.DT_COMPLEX64, {"scomplex_val": b"1234"}, "pairs"),
        (pb.DT_FLOAT, {"float_val": b"1234" * 3}, "3 values.*has 2"),
        (pb.DT_INT64, {"int64_val": b"\xff" * 11}, "int64_val holds no packed numbers"),
        (pb.DT_INT64, {"int64_val": b"\xff" * 2**21}, "int64_val holds no packed numbers"),
        (pb.DT_INT64, {"int64_val": b"\x01\x80"}, "int64_val holds no packed numbers"),
        (pb.DT_INT64, {"int64_val": b"\1\2\3"}, "3 or more values for a tensor of 2 elements"),
        (pb.DT_INT8, {"int_val": b"\x80\x01"}, "out of int8's range"),
        (pb.DT_FLOAT8_E5M2, {"float8_val": b"123"}, "3 values.*has 2"),
    ],
)
def test_what_was_cut_out_and_is_wrong_is_refused(dtype, cut, said):
    """Halves of numbers, endless ones, too many, and such as the dtype can't hold."""
    proto = pb.TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": 2}]})
    with pytest.raises(TensorCodecError, match=said):
        decode(proto, cut={NUMBERS[name]: data for name, data in cut.items()})


def test_fewer_values_that_were_cut_out_are_filled_up():
    """With the last, as those that were not."""
    proto = pb.TensorProto(dtype=pb.DT_INT32, tensor_shape={"dim": [{"size": 4}]})
    assert decode(proto, cut={NUMBERS["int_val"]: b"\1\2"}).tolist() == [1, 2, 2, 2]
    proto.dtype = pb.DT_FLOAT8_E5M2
    assert decode(proto, cut={NUMBERS["float8_val"]: b"\1\2"}).tobytes() == b"\1\2\2\2"


@pytest.mark.slow
def test_numbers_are_tensorflows():
    """Every DataType by name, every field of TensorProto that this server reads, and each reference is refused."""
    from tensorflow.core.framework import tensor_pb2, types_pb2

    both = (pb.TensorProto, tensor_pb2.TensorProto)
    theirs = dict(types_pb2.DataType.items())
    assert dict(pb.DataType.items()) == {name: number for name, number in theirs.items() if number < 100}
    ours, fields = ({(each.name, each.number, each.type) for each in proto.DESCRIPTOR.fields} for proto in both)
    assert ours <= fields
    for name, number in theirs.items():
        if number > 100:
            with pytest.raises(TensorCodecError, match=f"dtype {name[3:].lower()} is a reference"):
                numpy_dtype(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_tensorflow_reads_typed_values(name):
    """Its kernel every dtype that it has one for, and `tf.make_ndarray` all but those that it lacks itself."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    array = (np.arange(600).reshape(2, 300) % 2).astype(DTYPES[name])
    data = b"".join(encode_parts(array, typed=True))
    if name not in {"float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz"}:
        same(tf.make_ndarray(tensor_pb2.TensorProto.FromString(data)), array)
    if name != "float4_e2m1fn":
        same(tf.io.parse_tensor(data, tf.DType(wire_dtype(array.dtype))).numpy(), array)
