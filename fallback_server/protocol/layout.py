"""Where in a serialized message its tensors' bytes lie, for messages that are written the plain way.

A message of protobuf's wire format is a list of fields, each a tag (number << 3 | type), for type 2 a length, and the
value. What lies in a field of bytes, or of packed floats, says nothing about any other field: of two messages that
differ in nothing but such bytes, everything else reads the same. That holds for sure where each field that matters
comes once, and tags and lengths have no more bytes than they need; what is written otherwise is not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fallback_server.protocol.tensors import Array, wire_dtype
from fallback_server.protocol.typed_values import TENSOR_CONTENT, field_as_in_memory

MAX_FIELDS = 512
"""Of one message. More are not plain: floats that are not packed are a field each."""

_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}
_MAX_TAG_BYTES = 5
_MAX_VARINT_BYTES = 10

_KEY, _VALUE = 1, 2
"""Field numbers of a map's entries."""


class NotPlainError(ValueError):
    """The bytes are written in some other way than the plain one."""


class Span(NamedTuple):
    """Bytes of a message, from `begin` up to `end`."""

    begin: int
    end: int


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: Its number.
        value: Its bytes, without tag and length.
        delimited: Whether it has a length, as strings, bytes, messages and packed numbers do.
    """

    number: int
    value: Span
    delimited: bool


def fields(data: bytes, within: Span | None = None) -> list[Field]:
    """The fields of a message, in their order.

    Args:
        data: Of the outermost message.
        within: Where in it the message lies; None for all of it.

    Raises:
        NotPlainError: it is not written the plain way.
    """
    at, end = within or Span(0, len(data))
    found: list[Field] = []
    while at < end:
        if len(found) == MAX_FIELDS:
            raise NotPlainError
        tag, at = _varint(data, at, end, _MAX_TAG_BYTES)
        number, kind = tag >> 3, tag & 7
        begin = at
        if kind == _LENGTH_DELIMITED:
            size, begin = _varint(data, at, end, _MAX_TAG_BYTES)
            at = begin + size
        elif kind == 0:
            _, at = _varint(data, at, end, _MAX_VARINT_BYTES)
        else:
            at += _FIXED_BYTES.get(kind, end)  # Groups, which proto3 never had, reach beyond any end.
        if at > end or not 0 < number < 2**29:
            raise NotPlainError
        found.append(Field(number, Span(begin, at), kind == _LENGTH_DELIMITED))
    return found


def values(found: Sequence[Field], number: int) -> list[Span]:
    """Where the values of a field lie that has lengths, in their order.

    Raises:
        NotPlainError: one has none.
    """
    some = [field for field in found if field.number == number]
    if not all(field.delimited for field in some):
        raise NotPlainError
    return [field.value for field in some]


def tensor_map(data: bytes, found: Sequence[Field], number: int) -> dict[str, dict[int, Span]]:
    """The tensors of a `map<string, TensorProto>`: by key, the fields of each that have lengths, by number.

    Args:
        data: The outermost message.
        found: Its fields.
        number: The map's.

    Raises:
        NotPlainError: a key comes twice, an entry has anything but one key and one value, or a tensor a field twice.
    """
    tensors: dict[str, dict[int, Span]] = {}
    for entry in values(found, number):
        inside = fields(data, entry)
        if sorted(field.number for field in inside) != [_KEY, _VALUE]:
            raise NotPlainError
        (key,), (value,) = values(inside, _KEY), values(inside, _VALUE)
        try:
            name = data[key.begin : key.end].decode()
        except UnicodeDecodeError as error:
            raise NotPlainError from error
        tensor = fields(data, value)
        if name in tensors or len({field.number for field in tensor}) != len(tensor):
            raise NotPlainError
        tensors[name] = {field.number: field.value for field in tensor if field.delimited}
    return tensors


def payload(tensor: dict[int, Span], array: Array) -> Span | None:
    """Where in a TensorProto the bytes of an array lie as they do in memory; None where they don't.

    Args:
        tensor: One of `tensor_map`.
        array: What the TensorProto reads as, or what it was written from.
    """
    content = tensor.get(TENSOR_CONTENT)
    if content is None or content.begin == content.end:  # Typed values count where there is no content.
        content = tensor.get(field_as_in_memory(wire_dtype(array.dtype)) or 0)
    return content


def holds(data: bytes, span: Span, array: Array) -> bool:
    """Whether these bytes are the array's, of which there is at least one."""
    if not array.nbytes or array.nbytes != span.end - span.begin or array.dtype.kind in "OSU":
        return False
    there = np.frombuffer(data, np.uint8, array.nbytes, span.begin)
    return array.dtype.byteorder != ">" and bool(
        np.array_equal(there, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    )


def _varint(data: bytes, at: int, end: int, longest: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for count in range(min(longest, end - at)):
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if not byte and count and longest == _MAX_TAG_BYTES:
                raise NotPlainError  # Bytes that it doesn't need.
            return value, at + count + 1
    raise NotPlainError
