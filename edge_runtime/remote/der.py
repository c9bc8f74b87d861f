"""Values of DER (X.690), of anybody's: what certificates and lists of revoked ones are made of."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

SEQUENCE, SET, OID, OCTETS, INTEGER, UTC_TIME, GENERALIZED_TIME = 0x30, 0x31, 0x06, 0x04, 0x02, 0x17, 0x18


class Value(NamedTuple):
    """One.

    Attributes:
        tag: Its kind.
        content: What it holds.
        end: Where the next one begins in what it was taken from.
    """

    tag: int
    content: bytes
    end: int


def take(data: bytes, start: int) -> Value:
    """The value that begins there.

    Raises:
        ValueError: none does.
    """
    if start + 2 > len(data):
        raise ValueError("neither a certificate nor a list")
    tag, length, begin = data[start], data[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or begin + count > len(data):
            raise ValueError("neither a certificate nor a list")
        length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + length > len(data):
        raise ValueError("neither a certificate nor a list")
    return Value(tag, data[begin : begin + length], begin + length)


def inside(value: Value) -> list[Value]:
    """What it holds, one after the other.

    Raises:
        ValueError: no values.
    """
    found, at = [], 0
    while at < len(value.content):
        one = take(value.content, at)
        found.append(one)
        at = one.end
    return found


def only(values: list[Value], tag: int) -> Value:
    """The one that there is.

    Raises:
        ValueError: there are none or several, or it is of another kind.
    """
    if len(values) != 1 or values[0].tag != tag:
        raise ValueError("neither a certificate nor a list")
    return values[0]


def seconds(time: Value) -> float:
    """Since 1970. Of the two forms that RFC 5280 has: YYMMDDHHMMSSZ until 2049, and YYYYMMDDHHMMSSZ.

    Raises:
        ValueError: it is of neither.
    """
    text = time.content.decode("ascii", "replace")
    if time.tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif time.tag != GENERALIZED_TIME:
        raise ValueError("no time, as certificates and lists have them")
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()
