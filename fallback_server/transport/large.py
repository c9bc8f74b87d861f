"""Large messages: read without copying their tensors, written into one buffer, and off the event loop.

protobuf copies what it parses, and copies it again at each look. So the large byte fields are cut out of the received
bytes by hand, and what remains, which is small, is parsed as usual. Formats: protobuf's wire format, in which a field
is a tag (number << 3 | type) and, for type 2, a length and so many bytes; a field that comes twice is merged.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from fallback_server.core.errors import InvalidInput
from fallback_server.protocol.packed import Buffer, varint

LARGE_BYTES = 2**20
"""From here on a message is read and written in a thread, and its tensors are cut out: that takes milliseconds."""

_MAX_SCANNED = 4096
"""Fields of one message that are looked at one by one; what comes after them is left to protobuf, which is faster."""

_LENGTH_DELIMITED = 2
_GROUP = 3
_FIXED_BYTES = {1: 8, 5: 4}


class _Malformed(Exception):
    """It is no message of protobuf's wire format."""


class _Unread(Exception):
    """It has more than `_MAX_SCANNED` fields, or one that is not looked into."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _Malformed:
        raise InvalidInput("the request is no message of protobuf's wire format") from None


def cut_map(
    data: bytes, *, field: int, cut: Collection[int], threshold: int = LARGE_BYTES
) -> tuple[bytes, dict[str, dict[int, memoryview]]]:
    """Cuts large fields out of the values of a map field: `map<string, M> f = field;`.

    They are bytes, or packed numbers. What comes in several pieces is left to protobuf, which knows how they belong
    together.

    Args:
        data: The message.
        field: The map's number.
        cut: The numbers of the fields in the map's values.
        threshold: What is smaller stays.

    Returns:
        The message without what was cut out, and that by the map's keys and the fields' numbers, as views of `data`.

    Raises:
        InvalidInput: it is no message.
    """
    rest: list[Buffer] = []
    contents: dict[str, dict[int, memoryview]] = {}
    with _reading(), contextlib.suppress(_Unread):
        for number, whole, body in _all_fields(memoryview(data)):
            if number != field or body is None or (len(body) < threshold and not contents):
                rest.append(whole)
                continue
            entry, key, found = _cut_entry(body, cut, threshold)
            rest.append(_field(field, entry))
            contents.pop(key, None)  # Of a key that comes twice the last value counts.
            if found:
                contents[key] = found
        return b"".join(rest), contents
    return data, {}  # What is not looked at may say something else of what was.


def cut_repeated(data: bytes, *, field: int, threshold: int = LARGE_BYTES) -> tuple[bytes, dict[int, memoryview]]:
    """Cuts large items out of a `repeated bytes f = field;`, leaving empty ones in their places.

    Returns:
        The message without what was cut out, and that by the items' positions, as views of `data`.

    Raises:
        InvalidInput: it is no message.
    """
    rest: list[Buffer] = []
    contents: dict[int, memoryview] = {}
    position = 0
    with _reading():
        for number, whole, body in _fields(memoryview(data)):
            stays: Buffer = whole
            if number == field and body is not None:
                if len(body) >= threshold:
                    contents[position] = body
                    stays = _field(field, b"")
                position += 1
            rest.append(stays)
    return b"".join(rest), contents


def field_parts(number: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """A length-delimited field whose value is given in pieces; the first may grow by the field's tag and length."""
    head = varint(number << 3 | _LENGTH_DELIMITED) + varint(sum(map(len, parts)))
    if parts and isinstance(parts[0], bytes):
        return [head + parts[0], *parts[1:]]
    return [head, *parts]


def assemble(parts: Iterable[Buffer]) -> bytes:
    """The pieces one after the other. Copies once; large ones without Python's lock, so that other threads go on."""
    pieces = list(parts)
    size = sum(map(len, pieces))
    if size < LARGE_BYTES:
        return b"".join(pieces)
    out, target = _new_bytes(size)
    begin = 0
    for piece in pieces:
        target[begin : begin + len(piece)] = np.frombuffer(piece, np.uint8)
        begin += len(piece)
    return out


def _new_bytes(size: int) -> tuple[bytes, np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    """New bytes and an array over them, to be filled before anybody else sees them, as CPython's documents allow."""
    create = ctypes.pythonapi.PyBytes_FromStringAndSize
    create.restype, create.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
    address = ctypes.pythonapi.PyBytes_AsString
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object,)
    out: bytes = create(None, size)
    memory = (ctypes.c_ubyte * size).from_address(address(out))
    return out, np.ctypeslib.as_array(memory)


def _cut_entry(entry: memoryview, cut: Collection[int], threshold: int) -> tuple[Buffer, str, dict[int, memoryview]]:
    """A map's entry (key = 1, value = 2) without the large fields of its value; the key; what was cut out."""
    rest: list[Buffer] = []
    key = ""
    contents: dict[int, memoryview] = {}
    values = 0
    for number, whole, body in _all_fields(entry):
        if number == 1 and body is not None:
            key = str(body, "utf-8", errors="replace")
        if number == 2 and body is not None:
            values += 1
            value, contents = _cut_fields(body, cut, threshold)
            rest.append(_field(2, value))
        elif number == 1:
            rest.append(whole)
        else:
            raise _Unread  # protobuf takes an entry for unknown, and not for that key's, which has anything else.
    if values > 1:  # They are merged.
        return entry, key, {}
    return b"".join(rest), key, contents


def _cut_fields(message: memoryview, cut: Collection[int], threshold: int) -> tuple[Buffer, dict[int, memoryview]]:
    rest: list[Buffer] = []
    contents: dict[int, memoryview] = {}
    seen: set[int] = set()
    for number, whole, body in _all_fields(message):
        if number in seen:
            return message, {}
        if number in cut:
            seen.add(number)
            if body is not None and len(body) >= threshold:
                contents[number] = body
                continue
        rest.append(whole)
    return b"".join(rest), contents


def _field(number: int, value: Buffer) -> bytes:
    return b"".join((varint(number << 3 | _LENGTH_DELIMITED), varint(len(value)), value))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Each field's number, all its bytes, and its value where that is length-delimited.

    Beyond `_MAX_SCANNED` fields, and from a group on, which protobuf skips and proto3 has none of, all that remains
    comes at once, with the number 0.
    """
    at, end, scanned = 0, len(message), 0
    while at < end:
        begin = at
        scanned += 1
        if scanned > _MAX_SCANNED:
            yield 0, message[at:], None
            return
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        body: memoryview | None = None
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
            if size > end - at:
                raise _Malformed
            body = message[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(message, at)
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        elif kind == _GROUP:
            yield 0, message[begin:], None
            return
        else:
            raise _Malformed
        if at > end or not number:
            raise _Malformed
        yield number, message[begin:at], body


def _all_fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    for each in _fields(message):
        if not each[0]:
            raise _Unread
        yield each


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed
