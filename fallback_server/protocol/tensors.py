"""numpy arrays to and from TensorProto: every dtype that TensorFlow Serving takes but quantized and resource ones.

Arrays leave as `tensor_content` or as typed values; both may come in, and fewer typed values than elements are filled
up with the last, as TensorFlow does. Which field has whose values is TensorFlow's rule (`Tensor::AsProtoField`).
Strings are `object` arrays of bytes; in `tensor_content` all their lengths, as varints, come before all of them.
bfloat16, float8 and int4 are there where `ml_dtypes` is, which TensorFlow brings.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fallback_server.protocol import typed_values
from fallback_server.protocol.packed import lengths
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.typed_values import TENSOR_CONTENT, field_of_bytes, read_typed, write_typed

TensorCodecError = typed_values.TensorCodecError
Array = typed_values.Array
Buffer = typed_values.Buffer
CUTTABLE = typed_values.CUTTABLE

_NOTHING: Mapping[int, Buffer] = {}

MAX_ELEMENTS = 2**31 - 1
"""No message can hold more than 2 GiB; a shape that claims more is refused before anything is allocated."""

MAX_RANK = 64
"""numpy's limit; TensorFlow's is 254."""

MAX_FILLED_BYTES = 2**26
"""The most that is filled up with last values, of one request as of one array: twenty bytes can claim any size."""

STRING_BYTES = 64
"""What a string that is filled in takes beside its own bytes: an object here, one in the model's process, a pointer."""


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
    int(pb.DT_FLOAT8_E5M2): "float8_e5m2",
    int(pb.DT_FLOAT8_E4M3FN): "float8_e4m3fn",
    int(pb.DT_FLOAT8_E4M3FNUZ): "float8_e4m3fnuz",
    int(pb.DT_FLOAT8_E4M3B11FNUZ): "float8_e4m3b11fnuz",
    int(pb.DT_FLOAT8_E5M2FNUZ): "float8_e5m2fnuz",
    int(pb.DT_INT4): "int4",
    int(pb.DT_UINT4): "uint4",
    int(pb.DT_INT2): "int2",
    int(pb.DT_UINT2): "uint2",
    int(pb.DT_FLOAT4_E2M1FN): "float4_e2m1fn",
}
"""What numpy alone can't hold: TensorFlow's number -> the name in ml_dtypes, of which an old one lacks the last."""

_REFUSED = frozenset(
    {pb.DT_QINT8, pb.DT_QUINT8, pb.DT_QINT32, pb.DT_QINT16, pb.DT_QUINT16, pb.DT_RESOURCE, pb.DT_VARIANT}
)
"""What no array can hold."""

_REF = 100
"""TensorFlow's number of a reference to a dtype is so much more than the dtype's. Graphs have them, messages don't."""


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
        raise TensorCodecError(f"dtype {_name(number)} is not supported")
    if number > _REF and number - _REF in pb.DataType.values():
        raise TensorCodecError(f"dtype {_name(number - _REF)}_ref is a reference, and no message can hold one")
    if number not in _ML_DTYPES:
        raise TensorCodecError(f"dtype {number} is unknown or not supported")
    dtype = _extended().get(number)
    if dtype is None:
        raise TensorCodecError(f"{_ML_DTYPES[number]} has no numpy dtype here; send float32, or install ml_dtypes")
    return dtype


def _name(number: int) -> str:
    return pb.DataType.Name(number).removeprefix("DT_").lower()


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


def encode_parts(array: npt.ArrayLike, *, typed: bool = False) -> list[Buffer]:
    """As `encode`, but the TensorProto's bytes, in pieces that follow each other: floats are not copied.

    The last piece may read the array's memory, which must not change until it is used.

    Args:
        array: Of any layout.
        typed: Whether it goes as typed values in place of `tensor_content`.

    Raises:
        TensorCodecError: as `encode`.
    """
    values = np.asarray(array)
    if values.dtype.kind in "OSU":
        return [encode(values).SerializeToString()]
    proto = _header(values)
    if not values.nbytes:
        return [proto.SerializeToString()]
    flat = np.ascontiguousarray(_little(values)).reshape(-1)
    if not typed:
        return field_of_bytes(proto, "tensor_content", [flat.view(np.uint8).data])
    return write_typed(proto, flat)


def _header(values: Array) -> pb.TensorProto:
    """The dtype and the shape."""
    number = wire_dtype(values.dtype)
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in values.shape])
    return pb.TensorProto(dtype=number, tensor_shape=shape)  # type: ignore[arg-type]


def _little(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("<")) if values.dtype.byteorder == ">" else values


def decode(proto: pb.TensorProto, *, max_bytes: int | None = None, cut: Mapping[int, Buffer] = _NOTHING) -> Array:
    """TensorProto -> array. With `tensor_content` it is read-only, and takes one copy out of the message.

    Args:
        proto: What came.
        max_bytes: The largest array that is made. None sets no bound but `MAX_ELEMENTS`, and `MAX_FILLED_BYTES` for
            one that the message doesn't hold in full.
        cut: What was cut out of the message before that was parsed, by the number of the field, of `CUTTABLE`: the
            bytes of `tensor_content` and of floats are read in place.

    Raises:
        TensorCodecError: unknown dtype, unknown or impossible shape, values that don't fit the shape, or too large.
    """
    tensor = read(proto, max_bytes=max_bytes, cut=cut)
    return tensor.whole() if isinstance(tensor, Filled) else tensor


class Filled(NamedTuple):
    """A tensor with fewer values than elements: the last repeats; none at all are zeros, which proto3 leaves out.

    Attributes:
        stand_in: Of the tensor's dtype and shape, and of its last value alone; read-only, and takes no memory.
        values: Those that the message has, 1-D; with at most one of them the stand-in is the tensor.
        filled_bytes: What the tensor takes.
    """

    stand_in: Array
    values: Array
    filled_bytes: int

    def whole(self) -> Array:
        """The tensor, in memory of its own."""
        full = self.stand_in.copy()
        full.reshape(-1)[: len(self.values)] = self.values
        return full


def read(
    proto: pb.TensorProto, *, max_bytes: int | None = None, cut: Mapping[int, Buffer] = _NOTHING
) -> Array | Filled:
    """As `decode`, but takes no memory for elements that the message doesn't hold."""
    dtype = numpy_dtype(proto.dtype)
    shape = _shape(proto.tensor_shape)
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise TensorCodecError(f"shape {list(shape)} has {count} elements, at most {MAX_ELEMENTS} are allowed")
    if max_bytes is not None and count * dtype.itemsize > max_bytes:
        size = count * dtype.itemsize
        raise TensorCodecError(f"{dtype} of shape {list(shape)} takes {size} bytes, at most {max_bytes} are allowed")
    content = cut.get(TENSOR_CONTENT) or proto.tensor_content  # once: every look at the field makes another copy of it
    if content:
        if dtype.kind in "Ob":
            return _read_strings(content, shape, count) if dtype.kind == "O" else _read_bools(content, shape, count)
        expected = count * dtype.itemsize
        if len(content) != expected:
            raise _wrong_size(content, dtype, shape, expected)
        return np.frombuffer(content, dtype=dtype).reshape(shape)
    values = _strings(proto.string_val) if dtype.kind == "O" else read_typed(proto, dtype, cut, count)
    if len(values) > count:
        raise TensorCodecError(f"{len(values)} values for a tensor of shape {list(shape)}, which has {count}")
    if len(values) == count:
        return values.reshape(shape)
    if count == 1 and dtype.kind != "O":
        return np.zeros(shape, dtype)
    return _filled(values, dtype, shape, count)


def _wrong_size(
    content: Buffer, dtype: np.dtype[np.generic], shape: tuple[int, ...], expected: int
) -> TensorCodecError:
    return TensorCodecError(f"tensor_content has {len(content)} bytes, {dtype} of shape {list(shape)} needs {expected}")


def _read_bools(content: Buffer, shape: tuple[int, ...], count: int) -> Array:
    if len(content) != count:
        raise _wrong_size(content, np.dtype(np.bool_), shape, count)
    numbers = np.frombuffer(content, np.uint8)
    # Any other byte than 0 and 1 is a bool that numpy, and some of TensorFlow's kernels, count as several.
    bools: Array = numbers != 0 if numbers.max() > 1 else numbers.view(np.bool_)
    return bools.reshape(shape)


def _read_strings(content: Buffer, shape: tuple[int, ...], count: int) -> Array:
    told = lengths(content, count) if count <= len(content) else None
    if told is None:
        raise TensorCodecError(
            f"tensor_content of {len(content)} bytes doesn't begin with the lengths of {count} strings of {list(shape)}"
        )
    sizes, begin = told
    if begin + int(sizes.sum()) != len(content):
        raise TensorCodecError(
            f"tensor_content has {len(content) - begin} bytes for the strings of {list(shape)}, "
            f"whose lengths say {int(sizes.sum())}"
        )
    ends = (np.cumsum(sizes) + begin).tolist()
    data = bytes(content)  # of bytes no copy
    cut = map(data.__getitem__, map(slice, itertools.chain((begin,), ends), ends))
    return np.fromiter(cut, object, count).reshape(shape)


def _filled(values: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int) -> Filled:
    last = values[-1:] if len(values) else np.array([b""], object) if dtype.kind == "O" else np.zeros(1, dtype)
    size = count * (dtype.itemsize if dtype.kind != "O" else STRING_BYTES + len(last[0]))
    if size > MAX_FILLED_BYTES:
        raise TensorCodecError(
            f"shape {list(shape)} claims {count} elements, {size} bytes, and the message has fewer: "
            f"at most {MAX_FILLED_BYTES} bytes are filled up"
        )
    return Filled(np.broadcast_to(last.reshape((1,) * len(shape)), shape), values, size)


def _strings(field: Sequence[bytes]) -> Array:
    return np.fromiter(field, object, len(field))


def _shape(proto: pb.TensorShapeProto) -> tuple[int, ...]:
    if proto.unknown_rank:
        raise TensorCodecError("the tensor's shape has unknown rank")
    if len(dims := proto.dim) > MAX_RANK:
        raise TensorCodecError(f"rank {len(dims)}, at most {MAX_RANK} is allowed")
    shape = tuple([dim.size for dim in dims])
    if shape and min(shape) < 0:
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
