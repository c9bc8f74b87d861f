"""Changes sound inputs into others: bytes, words of the language, and the fields of protobuf's messages."""

from __future__ import annotations

import struct
from random import Random

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
LONG = (2**63 - 1, 2**63, 2**64 - 1, 2**40, 2**53 + 1)
TEXTS = ("", "x", "a" * 300, "\0", "../..", "é", "0", "1", "-1", "serving_default", "\u2028")
FLOATS = (0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324)

_SIGNED = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32: 32, FieldDescriptor.CPPTYPE_UINT64: 64}
_MANY = (1, 2, 5, 40, 600)
"""How often something is repeated."""


def mutated(random: Random, seeds: list[bytes], *, words: tuple[bytes, ...], message: type[Message] | None) -> bytes:
    """One of the seeds after some changes.

    Args:
        random: Decides; the same decisions give the same input.
        seeds: What is changed; at least one.
        words: Of the language.
        message: What the input is, where it is a message.
    """
    data = random.choice(seeds)
    if message is not None and random.random() < 0.6:
        data = changed_message(random, data, message)
        if random.random() < 0.7:
            return data
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        data = _changed(random, data, seeds, words)
    return data


def _changed(random: Random, data: bytes, seeds: list[bytes], words: tuple[bytes, ...]) -> bytes:
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice((1, 1, 2, 4, 8, 40)))
    piece = data[at:end]
    match random.randrange(10 if words else 8):
        case 0:
            new = bytes(byte ^ 1 << random.randrange(8) for byte in piece[:1]) + piece[1:]
        case 1:
            new = b""
        case 2:
            new = piece * random.choice(_MANY)
        case 3:
            new = random.randbytes(len(piece) or 1)
        case 4:
            new = random.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * (len(piece) or 1)
        case 5:
            at, new = at & ~3, struct.pack("<I", random.choice(EDGES))
            end = min(len(data), at + 4)
        case 6:
            other = random.choice(seeds)
            begin = random.randrange(len(other) + 1)
            new = other[begin : begin + random.choice((4, 16, 64, 256))]
        case 7:
            return data[:at]
        case 8:
            new = random.choice(words)
        case _:
            new = random.choice(words) * random.choice(_MANY)
    return data[:at] + new + data[end:]


def changed_message(random: Random, data: bytes, kind: type[Message]) -> bytes:
    """The message with some fields changed; bytes that are none stay as they are."""
    try:
        message = kind.FromString(data)
    except DecodeError:
        return data
    for _ in range(random.choice((1, 1, 2, 4))):
        _change(random, message)
    return message.SerializeToString()


def _change(random: Random, message: Message, depth: int = 0) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    there = [each for each, _ in message.ListFields()]
    one = random.choice(there) if there and random.random() < 0.8 else random.choice(fields)
    if random.random() < 0.1:
        message.ClearField(one.name)
    elif one.message_type is not None and one.message_type.GetOptions().map_entry:
        _change_map(random, getattr(message, one.name), one, depth)
    elif one.is_repeated:
        _change_list(random, getattr(message, one.name), one, depth)
    elif one.message_type is not None:
        inner = getattr(message, one.name)
        inner.SetInParent()
        if depth < 8:
            _change(random, inner, depth + 1)
    else:
        setattr(message, one.name, _value(random, one, getattr(message, one.name)))


def _change_map(random: Random, values, one, depth: int) -> None:
    key_field, value_field = (one.message_type.fields_by_name[name] for name in ("key", "value"))
    keys = list(values)
    key = random.choice(keys) if keys and random.random() < 0.7 else _value(random, key_field, None)
    if key in values and random.random() < 0.2:
        del values[key]
    elif value_field.message_type is not None:
        if depth < 8:
            _change(random, values[key], depth + 1)
    else:
        values[key] = _value(random, value_field, None)


def _change_list(random: Random, values, one, depth: int) -> None:
    what = random.randrange(4)
    if values and what == 0:
        del values[random.randrange(len(values))]
    elif one.message_type is not None:
        if values and what == 1:
            copied = values[random.randrange(len(values))]
            values.extend([copied] * random.choice(_MANY))
        else:
            inner = values[random.randrange(len(values))] if values and what == 2 else values.add()
            if depth < 8:
                _change(random, inner, depth + 1)
    elif values and what == 1:
        values[random.randrange(len(values))] = _value(random, one, None)
    else:
        values.extend([_value(random, one, None)] * random.choice(_MANY))


def _value(random: Random, one, present):
    """Another value for a field that is no message."""
    kind = one.cpp_type
    if kind in _SIGNED or kind in _UNSIGNED:
        return _number(random, kind)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random.choice((*one.enum_type.values_by_number, 0, 1, 99, 2**31 - 1))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if kind in {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}:
        return random.choice(FLOATS)
    return _letters(random, one, present)


def _number(random: Random, kind: int) -> int:
    if kind in _UNSIGNED:
        return random.choice((*EDGES, *LONG)) % 2 ** _UNSIGNED[kind]
    bits = _SIGNED[kind]
    number = random.choice((*EDGES, *LONG)) * random.choice((1, -1))
    return (number + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def _letters(random: Random, one, present):
    if one.type == FieldDescriptor.TYPE_STRING:
        return random.choice(TEXTS)
    if present and random.random() < 0.5:
        return _changed(random, present, [present], ())
    return random.randbytes(random.choice((0, 1, 3, 4, 8, 40)))
