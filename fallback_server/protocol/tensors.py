"""numpy arrays to and from TensorProto: every dtype that TensorFlow Serving takes but quantized and resource ones.

Arrays leave as `tensor_content` (one copy); what comes in may be `tensor_content` or typed values, and fewer typed
values than elements are filled up with the last, as TensorFlow does. Strings are `object` arrays of bytes. bfloat16,
float8 and int4 are there where `ml_dtypes` is, which TensorFlow brings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fallback_server.protocol.proto import tensor_pb2 as pb

Array = npt.NDArray[np.generic]
Buffer = bytes | bytearray | memoryview

MAX_ELEMENTS = 2**31 - 1
"""No message can hold more than 2 GiB; a shape that claims more is refused before anything is allocated."""

MAX_RANK = 64
"""numpy's limit; TensorFlow's is 254."""

MAX_FILLED_BYTES = 2**26
"""The largest array that is filled up with its last value: twenty bytes on the wire can claim any size."""


class TensorCodecError(ValueError):
    """A TensorProto that can't be read, or an array that has no wire form. The text says why."""


_NUMPY: dict[int, np.dtype[np.generic]] = {
    pb.DT_FLOAT: np.dtype(np.float32),
    pb.DT_DOUBLE: np.dtype(np.float64),
    pb.DT_HALF: np.dtype(np.float16),
    pb.DT_INT8: np.dtype(np.int8),
    pb.DT_INT16: np.dtype(np.int16),
    pb.DT_INT32: np.dtype(np.int32),
    pb.DT_INT64: np.dtype(np.int64),
    pb.DT_UINT8: np.dtype(np.uint8),
    pb.DT_UINT16: np.dtype(np.uint16),
    pb.DT_UINT32: np.dtype(np.uint32),
    pb.DT_UINT64: np.dtype(np.uint64),
    pb.DT_BOOL: np.dtype(np.bool_),
    pb.DT_COMPLEX64: np.dtype(np.complex64),
    pb.DT_COMPLEX128: np.dtype(np.complex128),
}
_WIRE = {dtype: number for number, dtype in _NUMPY.items()}

_ML_DTYPES = {
    int(pb.DT_BFLOAT16): "bfloat16",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
    33: "float4_e2m1fn",
}
"""What numpy alone can't hold: TensorFlow's number -> the name in ml_dtypes, of which an old one lacks the last."""

_REFUSED = {
    11: "qint8",
    12: "quint8",
    13: "qint32",
    15: "qint16",
    16: "quint16",
    20: "resource",
    21: "variant",
}
"""What no array can hold: TensorFlow's number -> its name, for the refusal."""


class Bounds(Protocol):
    """As numpy's iinfo and that of ml_dtypes have them."""

    @property
    def min(self) -> int: ...  # noqa: D102  told above

    @property
    def max(self) -> int: ...  # noqa: D102  told above


_VALUES = {
    pb.DT_FLOAT: "float_val",
    pb.DT_DOUBLE: "double_val",
    pb.DT_HALF: "half_val",
    pb.DT_BFLOAT16: "half_val",
    29: "int_val",
    30: "int_val",
    31: "int_val",
    32: "int_val",
    pb.DT_INT8: "int_val",
    pb.DT_INT16: "int_val",
    pb.DT_INT32: "int_val",
    pb.DT_INT64: "int64_val",
    pb.DT_UINT8: "int_val",
    pb.DT_UINT16: "int_val",
    pb.DT_UINT32: "uint32_val",
    pb.DT_UINT64: "uint64_val",
    pb.DT_BOOL: "bool_val",
    pb.DT_COMPLEX64: "scomplex_val",
    pb.DT_COMPLEX128: "dcomplex_val",
}

_TENSOR_CONTENT_TAG = b"\x22"
"""Field 4, length-delimited."""


def wire_dtype(dtype: np.dtype[np.generic]) -> int:
    """The DataType number of a numpy dtype; `object`, bytes and str are DT_STRING.

    Raises:
        TensorCodecError: TensorFlow has no such dtype.
    """
    if dtype.kind in "OSU":
        return int(pb.DT_STRING)
    number = _WIRE.get(dtype) or _WIRE.get(dtype.newbyteorder("="))
    if number is None:
        number = next((number for number, extended in _extended().items() if extended == dtype), None)
    if number is None:
        raise TensorCodecError(f"dtype {dtype} has no wire form")
    return int(number)


def numpy_dtype(number: int) -> np.dtype[np.generic]:
    """The numpy dtype of a DataType number; DT_STRING is `object`.

    Raises:
        TensorCodecError: unknown, or one that arrays can't hold.
    """
    if number == pb.DT_STRING:
        return np.dtype(object)
    dtype = _NUMPY.get(number)
    if dtype is not None:
        return dtype
    if number in _REFUSED:
        raise TensorCodecError(f"dtype {_REFUSED[number]} is not supported")
    if number not in _ML_DTYPES:
        raise TensorCodecError(f"dtype {number} is unknown or not supported")
    dtype = _extended().get(number)
    if dtype is None:
        raise TensorCodecError(f"{_ML_DTYPES[number]} has no numpy dtype here; send float32, or install ml_dtypes")
    return dtype


@functools.cache
def _extended() -> Mapping[int, np.dtype[np.generic]]:
    """Loads ml_dtypes when the first of its dtypes is met: a device has it only where something else brings it."""
    try:
        module = import_module("ml_dtypes")
    except ImportError:
        return {}
    return {number: np.dtype(getattr(module, name)) for number, name in _ML_DTYPES.items() if hasattr(module, name)}


def dtype_name(number: int) -> str:
    """The dtype's name as specs have it: numpy's, or `string`."""
    return "string" if number == pb.DT_STRING else numpy_dtype(number).name


def encode(array: npt.ArrayLike) -> pb.TensorProto:
    """An array of any layout -> TensorProto with `tensor_content`; strings as `string_val`.

    Raises:
        TensorCodecError: the dtype has no wire form, or an object array holds anything but bytes and str.
    """
    values = np.asarray(array)
    proto = _header(values)
    if proto.dtype == pb.DT_STRING:
        proto.string_val.extend(_to_bytes(item) for item in values.reshape(-1).tolist())
    else:
        proto.tensor_content = _little(values).tobytes()
    return proto


def encode_parts(array: npt.ArrayLike) -> list[Buffer]:
    """As `encode`, but the TensorProto's bytes, in pieces that follow each other: the array itself is not copied.

    The last piece reads the array's memory, which must not change until it is used.

    Raises:
        TensorCodecError: as `encode`.
    """
    values = np.asarray(array)
    if values.dtype.kind in "OSU":
        return [encode(values).SerializeToString()]
    header = _header(values).SerializeToString()
    if not values.nbytes:
        return [header]
    data = np.ascontiguousarray(_little(values)).reshape(-1).view(np.uint8).data
    return [header + _TENSOR_CONTENT_TAG + varint(data.nbytes), data]


def _header(values: Array) -> pb.TensorProto:
    """The dtype and the shape."""
    number = wire_dtype(values.dtype)
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in values.shape])
    return pb.TensorProto(dtype=number, tensor_shape=shape)  # type: ignore[arg-type]


def _little(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("<")) if values.dtype.byteorder == ">" else values


def varint(value: int) -> bytes:
    """A number of at least 0 as protobuf writes lengths and tags: 7 bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(proto: pb.TensorProto, *, max_bytes: int | None = None, content: Buffer = b"") -> Array:
    """TensorProto -> array. With `tensor_content` it is read-only, and takes one copy out of the message.

    Args:
        proto: What came.
        max_bytes: The largest array that is made. None sets no bound but `MAX_ELEMENTS`, and `MAX_FILLED_BYTES` for
            one that the message doesn't hold in full.
        content: The `tensor_content` where it was cut out of the message before that was parsed; read in place.

    Raises:
        TensorCodecError: unknown dtype, unknown or impossible shape, values that don't fit the shape, or too large.
    """
    dtype = numpy_dtype(proto.dtype)
    shape = _shape(proto.tensor_shape)
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise TensorCodecError(f"shape {list(shape)} has {count} elements, at most {MAX_ELEMENTS} are allowed")
    if max_bytes is not None and count * dtype.itemsize > max_bytes:
        size = count * dtype.itemsize
        raise TensorCodecError(f"{dtype} of shape {list(shape)} takes {size} bytes, at most {max_bytes} are allowed")
    if dtype.kind == "O":
        return _strings(proto, shape, count)
    content = content or proto.tensor_content  # once: every look at the field makes another copy of it
    if content:
        expected = count * dtype.itemsize
        if len(content) != expected:
            raise TensorCodecError(
                f"tensor_content has {len(content)} bytes, {dtype} of shape {list(shape)} needs {expected}"
            )
        return np.frombuffer(content, dtype=dtype).reshape(shape)
    return _typed(proto, dtype, shape, count)


def _typed(proto: pb.TensorProto, dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int) -> Array:
    if proto.dtype not in _VALUES:
        if count:
            raise TensorCodecError(f"{dtype} comes as tensor_content alone")
        return np.zeros(shape, dtype=dtype)
    field = getattr(proto, _VALUES[proto.dtype])
    if dtype.kind == "c":
        parts = np.array(field, dtype=np.float32 if dtype.itemsize == 8 else np.float64)
        if len(parts) % 2:
            raise TensorCodecError(f"{len(parts)} numbers can't be pairs of real and imaginary parts")
        values: Array = parts.view(dtype)
    elif proto.dtype in (pb.DT_HALF, pb.DT_BFLOAT16):
        values = _integers(field, np.dtype(np.uint16), np.iinfo(np.uint16)).view(dtype)
    elif dtype.kind in "iu":
        values = _integers(field, dtype, np.iinfo(dtype))  # type: ignore[type-var]
    elif proto.dtype in _ML_DTYPES:
        values = _integers(field, dtype, import_module("ml_dtypes").iinfo(dtype))
    else:
        values = np.array(field, dtype=dtype)
    return _fill(values, dtype, shape, count)


def _integers(field: Sequence[int], dtype: np.dtype[np.generic], bounds: Bounds) -> Array:
    wide = np.array(field, dtype=np.uint64 if dtype == np.uint64 else np.int64)
    if wide.size and (int(wide.min()) < bounds.min or int(wide.max()) > bounds.max):
        raise TensorCodecError(f"a value is out of {dtype}'s range, {bounds.min} to {bounds.max}")
    return wide.astype(dtype)


def _fill(values: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int) -> Array:
    """Fewer values than elements: the last repeats; none at all: zeros (what proto3 leaves out is the default)."""
    if len(values) > count:
        raise TensorCodecError(f"{len(values)} values for a tensor of shape {list(shape)}, which has {count}")
    if len(values) == count:
        return values.reshape(shape)
    _check_filled(dtype, shape, count)
    full = np.zeros(count, dtype=dtype)
    if len(values):
        full[: len(values)] = values
        full[len(values) :] = values[-1]
    return full.reshape(shape)


def _check_filled(dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int) -> None:
    size = count * dtype.itemsize
    if size > MAX_FILLED_BYTES:
        raise TensorCodecError(
            f"shape {list(shape)} claims {count} elements, {size} bytes, and the message has fewer: "
            f"at most {MAX_FILLED_BYTES} bytes are filled up"
        )


def _strings(proto: pb.TensorProto, shape: tuple[int, ...], count: int) -> Array:
    if len(proto.string_val) > count:
        raise TensorCodecError(f"{len(proto.string_val)} values for a tensor of shape {list(shape)}, which has {count}")
    if len(proto.string_val) < count:
        _check_filled(np.dtype(object), shape, count)
    full = np.full(count, proto.string_val[-1] if proto.string_val else b"", dtype=object)
    full[: len(proto.string_val)] = list(proto.string_val)
    return full.reshape(shape)


def _shape(proto: pb.TensorShapeProto) -> tuple[int, ...]:
    if proto.unknown_rank:
        raise TensorCodecError("the tensor's shape has unknown rank")
    shape = tuple(int(dim.size) for dim in proto.dim)
    if len(shape) > MAX_RANK:
        raise TensorCodecError(f"rank {len(shape)}, at most {MAX_RANK} is allowed")
    if any(size < 0 for size in shape):
        raise TensorCodecError(f"shape {list(shape)} has a negative dimension")
    if 0 in shape and math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise TensorCodecError(f"shape {list(shape)} has no elements, and dimensions that no array can have")
    return shape


def _to_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise TensorCodecError(f"a string tensor holds {type(item).__name__}; only bytes and str are allowed")
