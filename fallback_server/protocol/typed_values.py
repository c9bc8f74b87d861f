"""Typed values of a TensorProto: `float_val`, `int_val` and the like.

Which field has whose values, and how, is TensorFlow's rule (`Tensor::AsProtoField`): halves by their 16 bits, 8-bit
floats as bytes, complex numbers as pairs, integers of up to 32 bits in one field, each value once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from fallback_server.protocol import packed as packing
from fallback_server.protocol.packed import pack, pieces, varint
from fallback_server.protocol.proto import tensor_pb2 as pb

Array = packing.Array
Buffer = packing.Buffer


class TensorCodecError(ValueError):
    """A TensorProto that can't be read, or an array that has no wire form. The text says why."""


_LENGTH_DELIMITED = 2

_FIELDS = {field.name: field.number for field in pb.TensorProto.DESCRIPTOR.fields}

_VALUES: dict[int, str] = {
    pb.DT_FLOAT: "float_val",
    pb.DT_DOUBLE: "double_val",
    pb.DT_HALF: "half_val",
    pb.DT_BFLOAT16: "half_val",
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
    pb.DT_FLOAT8_E5M2: "float8_val",
    pb.DT_FLOAT8_E4M3FN: "float8_val",
    pb.DT_FLOAT8_E4M3FNUZ: "float8_val",
    pb.DT_FLOAT8_E4M3B11FNUZ: "float8_val",
    pb.DT_FLOAT8_E5M2FNUZ: "float8_val",
    pb.DT_FLOAT4_E2M1FN: "float8_val",
    pb.DT_INT4: "int_val",
    pb.DT_UINT4: "int_val",
    pb.DT_INT2: "int_val",
    pb.DT_UINT2: "int_val",
}
"""Which field has the typed values of a dtype."""

_AS_IN_MEMORY: dict[str, np.dtype[np.generic]] = {
    "float_val": np.dtype("<f4"),
    "double_val": np.dtype("<f8"),
    "scomplex_val": np.dtype("<f4"),
    "dcomplex_val": np.dtype("<f8"),
    "float8_val": np.dtype(np.uint8),
}
"""Fields whose bytes are those of an array, and of what dtype; the others hold varints."""

TENSOR_CONTENT = _FIELDS["tensor_content"]

CUTTABLE = frozenset({TENSOR_CONTENT, *(_FIELDS[name] for name in _VALUES.values())})
"""Numbers of the fields that `decode` takes cut out of the message."""

_FEW = 256
"""So many integers are packed as fast by protobuf out of a list as by `pack`, or faster."""


class Bounds(Protocol):
    """As numpy's iinfo and that of ml_dtypes have them."""

    @property
    def min(self) -> int: ...  # noqa: D102  told above

    @property
    def max(self) -> int: ...  # noqa: D102  told above


def field_as_in_memory(number: int) -> int | None:
    """The number of the field whose bytes are those of an array; None where typed values are varints, or strings.

    Args:
        number: Of the DataType.
    """
    name = _VALUES.get(number, "")
    return _FIELDS[name] if name in _AS_IN_MEMORY else None


def field_of_bytes(proto: pb.TensorProto, name: str, parts: list[Buffer]) -> list[Buffer]:
    """The message's bytes, and after them a field whose bytes are given in pieces, in pieces."""
    tag = varint(_FIELDS[name] << 3 | _LENGTH_DELIMITED)
    return [proto.SerializeToString() + tag + varint(sum(map(len, parts))), *parts]


def write_typed(proto: pb.TensorProto, flat: Array) -> list[Buffer]:
    """The bytes of a TensorProto with typed values, in pieces that follow each other; floats are not copied.

    Args:
        proto: Its dtype and shape.
        flat: The values, 1-D, contiguous, little-endian.
    """
    name = _VALUES[proto.dtype]
    if name in _AS_IN_MEMORY:
        return field_of_bytes(proto, name, [flat.view(np.uint8).data])
    numbers = _as_integers(flat, name)
    if len(numbers) > _FEW:
        return field_of_bytes(proto, name, pack(numbers))
    getattr(proto, name).extend(numbers.tolist())
    return [proto.SerializeToString()]


def _as_integers(flat: Array, name: str) -> Array:
    """Halves by their bits; and numpy can neither compare nor shift those integers that it knows from elsewhere."""
    if name == "half_val":
        return flat.view(np.uint16)
    return flat if flat.dtype.kind in "iub" else flat.astype(np.int8)


def read_typed(proto: pb.TensorProto, dtype: np.dtype[np.generic], cut: Mapping[int, Buffer], count: int) -> Array:
    """The typed values that there are, 1-D: perhaps fewer than the tensor has elements, or more.

    Args:
        proto: What came.
        dtype: That of the message's.
        cut: See `decode`.
        count: Of elements.

    Raises:
        TensorCodecError: values that are out of the dtype's range, no pairs, or no numbers at all.
    """
    name = _VALUES[proto.dtype]
    packed = cut.get(_FIELDS[name])
    if name in _AS_IN_MEMORY:
        return _floats(getattr(proto, name) if packed is None else packed, name, dtype)
    stored = np.dtype(np.uint16) if name == "half_val" else dtype
    if packed is not None:
        return _unpacked(packed, name, stored, count).view(dtype)
    return _integers(getattr(proto, name), stored).view(dtype)


def _floats(field: Sequence[float] | Buffer, name: str, dtype: np.dtype[np.generic]) -> Array:
    """What lies in the message as in memory; complex numbers are pairs of it."""
    part = _AS_IN_MEMORY[name]
    if isinstance(field, (bytes, bytearray, memoryview)):
        if len(field) % part.itemsize:
            raise TensorCodecError(f"{name} has {len(field)} bytes, {part.itemsize} are a number")
        parts: Array = np.frombuffer(field, part)
    else:
        parts = np.array(field, part)
    if len(parts) * part.itemsize % dtype.itemsize:
        raise TensorCodecError(f"{len(parts)} numbers can't be pairs of real and imaginary parts")
    return parts.view(dtype)


def _unpacked(packed: Buffer, name: str, dtype: np.dtype[np.generic], count: int) -> Array:
    """Many packed integers, by protobuf's own parser, a piece at a time."""
    tag = varint(_FIELDS[name] << 3 | _LENGTH_DELIMITED)
    values = np.empty(min(count, len(packed)), dtype)
    begin = 0
    for piece in pieces(packed):
        try:
            proto = pb.TensorProto.FromString(b"".join((tag, varint(len(piece)), piece)))
        except DecodeError as error:
            raise TensorCodecError(f"{name} holds no packed numbers") from error
        some = _integers(getattr(proto, name), dtype)
        if begin + len(some) > count:
            raise TensorCodecError(f"{begin + len(some)} or more values for a tensor of {count} elements")
        values[begin : begin + len(some)] = some
        begin += len(some)
    return values[:begin]


def _integers(field: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    """An array of its own, as protobuf's field has one ready."""
    wide: npt.NDArray[np.integer] = np.array(field)
    if wide.dtype == dtype or not wide.size:
        return wide.astype(dtype, copy=False)
    bounds: Bounds
    bounds = np.iinfo(dtype) if dtype.kind in "iu" else import_module("ml_dtypes").iinfo(dtype)  # type: ignore[type-var]
    if int(wide.min()) < bounds.min or int(wide.max()) > bounds.max:
        raise TensorCodecError(f"a value is out of {dtype}'s range, {bounds.min} to {bounds.max}")
    return wide.astype(dtype)
