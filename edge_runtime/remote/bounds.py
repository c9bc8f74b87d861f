"""How much a server may say of itself: its answers are read into memory once a second, and nobody knows who it is.

A prediction's answer is as large as its model makes it, and is bounded by none of this. Pure.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import Message

from fallback_server.protocol.methods import CATALOG_GET, GET_MODEL_METADATA, GET_MODEL_STATUS, Method

MAX_BYTES = 2**22
"""Of one answer: eight thousand models have some 4 MB. gRPC ends the call at a larger one, before it is read."""

MAX_FIELDS = 2**16
"""Of one answer, and of what it lists: an empty version has two bytes there and a hundred in memory. Four thousand
models with three versions and two labels each have some 40 thousand."""

MAX_WAIT_MS = 3.6e6
"""An hour: who waits longer is told no more of it."""

_UNCOUNTED_BYTES = 2**15
"""What is no longer can't hold enough to matter."""

_LISTED = {CATALOG_GET.path: 3, GET_MODEL_STATUS.path: 1}
"""The number of the field that lists models, or versions."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types; https://protobuf.dev/programming-guides/encoding."""

SERVICE_CONFIG = (
    "grpc.service_config",
    json.dumps(
        {
            "methodConfig": [
                {
                    "name": [
                        {"service": one.service, "method": one.name}
                        for one in (CATALOG_GET, GET_MODEL_STATUS, GET_MODEL_METADATA)
                    ],
                    "maxResponseMessageBytes": MAX_BYTES,
                }
            ]
        }
    ),
)
"""A channel's option by which gRPC keeps to `MAX_BYTES` in these calls alone."""


def read(method: Method[Any, Any], data: bytes) -> Message | None:
    """The message; None for one of more than `MAX_FIELDS`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    listed = _LISTED.get(method.path)
    if listed is not None and len(data) > _UNCOUNTED_BYTES and _fields(data, listed) > MAX_FIELDS:
        return None
    message: Message = method.response.FromString(data)
    return message


def wait_ms(said: float) -> float:
    """Milliseconds that a server says, as a number that can be reckoned with; 0 for what says nothing."""
    return min(said, MAX_WAIT_MS) if said > 0 else 0.0


def _fields(data: bytes, listed: int) -> int:
    """The fields of a message and of the messages that its field `listed` holds; counts no further than the bound.

    What is not well formed ends the count: who reads the message refuses it.
    """
    count, at, end, outer_end = 0, 0, len(data), len(data)
    try:
        while count <= MAX_FIELDS:
            if at >= end:
                if at >= outer_end:
                    break
                end = outer_end
                continue
            tag, at = _varint(data, at)
            count += 1
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _BYTES:
                size, at = _varint(data, at)
                if end == outer_end and tag >> 3 == listed:
                    end = min(at + size, outer_end)
                else:
                    at += size
            else:
                at += {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
    except IndexError:
        pass
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it. Raises IndexError at the end of the data."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift >= 63:
            return value, at
        shift += 7
