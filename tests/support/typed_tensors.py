"""Typed values by protobuf's own writer: what ours is held against."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fallback_server.protocol.packed import varint
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import wire_dtype

FIELD_OF = {
    "float16": "half_val",
    "bfloat16": "half_val",
    "float32": "float_val",
    "float64": "double_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "bool": "bool_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    **dict.fromkeys(["int8", "int16", "int32", "uint8", "uint16", "int4", "uint4", "int2", "uint2"], "int_val"),
    **dict.fromkeys(["float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"], "float8_val"),
    **dict.fromkeys(["float8_e5m2fnuz", "float4_e2m1fn"], "float8_val"),
}
"""numpy's name -> where TensorFlow has the values."""

DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in FIELD_OF}
NUMBERS = {field.name: field.number for field in pb.TensorProto.DESCRIPTOR.fields}

_PARTS = {"half_val": np.uint16, "scomplex_val": np.float32, "dcomplex_val": np.float64, "int_val": np.int64}
_WIRE_TYPES = {"float_val": 5, "scomplex_val": 5, "double_val": 1, "dcomplex_val": 1}


@st.composite
def arrays(draw, max_size=6):
    """1-D arrays of any dtype; their bits are drawn, since hypothesis knows numpy's own dtypes alone."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    sizes = st.integers(0, max_size)
    if dtype.name == "bool":
        return draw(hnp.arrays(bool, sizes))
    if dtype.name.endswith(("int2", "int4", "float4_e2m1fn")):
        return draw(hnp.arrays(np.int8, sizes, elements=st.integers(0, 1))).astype(dtype)
    bits = draw(hnp.arrays(np.uint64, sizes))
    return np.concatenate([bits, bits]).view(dtype)


def header(array):
    """Its dtype and shape."""
    dim = [{"size": size} for size in array.shape]
    return pb.TensorProto(dtype=wire_dtype(array.dtype), tensor_shape={"dim": dim})


def values_of(array):
    """What protobuf's field takes: a list, or the bytes of `float8_val`."""
    name = FIELD_OF[array.dtype.name]
    flat = array.reshape(-1)
    if name == "float8_val":
        return flat.tobytes()
    if name == "int_val":
        flat = flat.astype(np.int64)
    return flat.view(_PARTS.get(name, flat.dtype)).tolist()


def typed(array):
    """The array with typed values."""
    proto = header(array)
    proto.MergeFrom(pb.TensorProto(**{FIELD_OF[array.dtype.name]: values_of(array)}))
    return proto


def field_in_pieces(array, pieces, *, packed):
    """The bytes of the field of the values alone: in packed pieces, or each value on its own."""
    name = FIELD_OF[array.dtype.name]
    values = values_of(array)
    if name == "float8_val":
        return pb.TensorProto(float8_val=values).SerializeToString()
    if packed:
        parts = np.array_split(np.arange(len(values)), pieces)
        return b"".join(
            pb.TensorProto(**{name: [values[i] for i in part]}).SerializeToString() for part in parts if len(part)
        )
    tag = varint(NUMBERS[name] << 3 | _WIRE_TYPES.get(name, 0))
    ones = [pb.TensorProto(**{name: [value]}).SerializeToString() for value in values]
    return b"".join(tag + one[len(tag) + 1 :] for one in ones)
