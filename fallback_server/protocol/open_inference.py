"""Tensors of the Open Inference Protocol, version 2: its datatypes' names, raw little-endian contents, typed values.

Raw BYTES are each four bytes of length, little-endian, and then the bytes; the other datatypes are their numbers in
row-major order.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fallback_server.protocol import tensors
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import MAX_ELEMENTS, MAX_RANK, TensorCodecError

Array = npt.NDArray[np.generic]
Buffer = bytes | bytearray | memoryview

_NUMPY: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where typed values are. FP16 and BF16 have none."""

_LENGTH = struct.Struct("<I")


def numpy_dtype(datatype: str) -> np.dtype[np.generic]:
    """The numpy dtype of a datatype; BYTES is `object`.

    Raises:
        TensorCodecError: there is no such datatype, or none that arrays can hold here.
    """
    if datatype == "BF16":
        return tensors.numpy_dtype(pb.DT_BFLOAT16)
    dtype = _NUMPY.get(datatype)
    if dtype is None:
        raise TensorCodecError(f"datatype {datatype!r} is none of {', '.join([*_NUMPY, 'BF16'])}")
    return dtype


def datatype_of(dtype: np.dtype[np.generic]) -> str:
    """The datatype of a numpy dtype.

    Raises:
        TensorCodecError: the protocol has none.
    """
    if dtype.name == "bfloat16":
        return "BF16"
    name = _NAMES.get(dtype.newbyteorder("="))
    if name is None:
        raise TensorCodecError(f"dtype {dtype} has no datatype in the Open Inference Protocol")
    return name


def check_shape(shape: Sequence[int]) -> int:
    """The number of elements of a shape.

    Raises:
        TensorCodecError: no array can have it.
    """
    if len(shape) > MAX_RANK:
        raise TensorCodecError(f"rank {len(shape)}, at most {MAX_RANK} is allowed")
    if any(size < 0 for size in shape):
        raise TensorCodecError(f"shape {list(shape)} has a negative dimension")
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise TensorCodecError(f"shape {list(shape)} is too large, at most {MAX_ELEMENTS} elements are allowed")
    return math.prod(shape)


def read_raw(data: Buffer, datatype: str, shape: Sequence[int]) -> Array:
    """Raw contents as an array, which for numbers is a view of `data`.

    Raises:
        TensorCodecError: unknown datatype, impossible shape, or contents of another size.
    """
    dtype = numpy_dtype(datatype)
    count = check_shape(shape)
    if dtype.kind == "O":
        return _read_strings(memoryview(data), count, shape)
    expected = count * dtype.itemsize
    if len(data) != expected:
        raise TensorCodecError(f"{len(data)} raw bytes, {datatype} of shape {list(shape)} needs {expected}")
    if dtype.kind == "b":
        # Any other byte than 0 and 1 is no bool that numpy could tell from one.
        bools: Array = np.frombuffer(data, np.uint8) != 0
        return bools.reshape(shape)
    return np.frombuffer(data, dtype.newbyteorder("<") if dtype.kind != "V" else dtype).reshape(shape)


def write_raw(array: Array) -> bytes:
    """An array's raw contents.

    Raises:
        TensorCodecError: the protocol has no datatype for it.
    """
    return bytes(raw_view(array))


def raw_view(array: Array) -> Buffer:
    """As `write_raw`, but the array's own memory where its layout allows; it must not change until that is used."""
    datatype = datatype_of(array.dtype)
    if datatype == "BYTES":
        pieces: list[bytes] = []
        for item in array.reshape(-1).tolist():
            data = item if isinstance(item, bytes) else str(item).encode()
            pieces += (_LENGTH.pack(len(data)), data)
        return b"".join(pieces)
    if not array.nbytes:
        return b""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_contents(contents: oip.InferTensorContents, datatype: str, shape: Sequence[int]) -> Array:
    """Typed values as an array.

    Raises:
        TensorCodecError: as `read_raw`; or the values are in another datatype's field, out of the datatype's range, or
            not as many as the shape needs.
    """
    dtype = numpy_dtype(datatype)
    count = check_shape(shape)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise TensorCodecError(f"{datatype} comes as raw contents alone")
    if foreign := [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]:
        raise TensorCodecError(f"{datatype} comes in {field}, got {', '.join(foreign)}")
    values = getattr(contents, field)
    if len(values) != count:
        raise TensorCodecError(f"{len(values)} values for a tensor of shape {list(shape)}, which has {count}")
    if dtype.kind == "O":
        full = np.empty(count, object)
        full[:] = list(values)
        return full.reshape(shape)
    if dtype.kind not in "iu":
        return np.array(values, dtype).reshape(shape)
    wide = np.array(values, np.uint64 if datatype == "UINT64" else np.int64)
    bounds = np.iinfo(dtype)  # type: ignore[type-var]
    if count and (int(wide.min()) < bounds.min or int(wide.max()) > bounds.max):
        raise TensorCodecError(f"a value is out of {datatype}'s range, {bounds.min} to {bounds.max}")
    return wide.astype(dtype).reshape(shape)


def _read_strings(data: memoryview, count: int, shape: Sequence[int]) -> Array:
    if count * _LENGTH.size > len(data):
        raise TensorCodecError(f"{len(data)} raw bytes can't hold the {count} strings of shape {list(shape)}")
    full = np.empty(count, object)
    begin = 0
    for index in range(count):
        end = begin + _LENGTH.size
        if end > len(data):
            raise TensorCodecError(f"the raw contents end at string {index} of {count}")
        begin, end = end, end + _LENGTH.unpack(data[begin:end])[0]
        if end > len(data):
            raise TensorCodecError(f"string {index} of {count} ends {end - len(data)} bytes beyond the raw contents")
        full[index] = bytes(data[begin:end])
        begin = end
    if begin != len(data):
        raise TensorCodecError(f"{len(data) - begin} bytes are left after the {count} strings of {list(shape)}")
    return full.reshape(shape)
