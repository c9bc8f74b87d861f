"""What is told of a certificate: whose it is, and until when. Reads DER (X.690) of anybody's; proves nothing.

The standard library reads certificates only of connections that it has verified, and a device has no `cryptography`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.remote.log_limit import shown

MAX_BYTES = 2**16
"""Of one certificate; those of whole families of hosts have some thousand."""

_SEQUENCE, _SET, _OID, _UTC, _GENERALIZED = 0x30, 0x31, 0x06, 0x17, 0x18
_VERSION, _EXTENSIONS, _OCTETS, _DNS = 0xA0, 0xA3, 0x04, 0x82
_COMMON_NAME = bytes((0x55, 0x04, 0x03))
_ALT_NAMES = bytes((0x55, 0x1D, 0x11))
_MAX_NAMES = 64


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One that somebody has shown.

    Attributes:
        der: Itself.
        owner: The common name of its subject, fit for a log line; empty where it has none.
        names: The DNS names that it is for, and in place of these, where there are none, the common name.
        since_s: When it begins, in seconds since 1970.
        until_s: When it ends, likewise.
    """

    der: bytes
    owner: str
    names: tuple[str, ...]
    since_s: float
    until_s: float

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def pem(self) -> bytes:
        """As gRPC takes it."""
        return ssl.DER_cert_to_PEM_cert(self.der).encode("ascii")

    @property
    def until(self) -> str:
        """The day on which it ends."""
        return dt.datetime.fromtimestamp(self.until_s, dt.UTC).date().isoformat()


def read_certificate(der: bytes) -> Certificate:
    """What a certificate says of itself.

    Raises:
        ValueError: it is none, or too large.
    """
    if len(der) > MAX_BYTES:
        raise ValueError(f"a certificate of {len(der)} bytes, at most {MAX_BYTES} are read")
    fields = _inside(_only(_inside(_only([_take(der, 0)], _SEQUENCE))[:1], _SEQUENCE))
    if fields and fields[0].tag == _VERSION:
        fields = fields[1:]
    if len(fields) < 6:
        raise ValueError("no certificate")
    _, _, _, validity, subject, _, *rest = fields
    times = _inside(validity)
    if len(times) != 2:
        raise ValueError("no certificate")
    owner = _common_name(subject)
    names = _dns_names(rest)
    return Certificate(
        der=der,
        owner=shown(owner)[1:-1],
        names=names or ((owner,) if owner.isascii() and owner else ()),
        since_s=_seconds(times[0]),
        until_s=_seconds(times[1]),
    )


class _Value(NamedTuple):
    tag: int
    content: bytes
    end: int


def _take(data: bytes, start: int) -> _Value:
    """The value that begins there."""
    if start + 2 > len(data):
        raise ValueError("no certificate")
    tag, length, begin = data[start], data[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or begin + count > len(data):
            raise ValueError("no certificate")
        length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + length > len(data):
        raise ValueError("no certificate")
    return _Value(tag, data[begin : begin + length], begin + length)


def _inside(value: _Value) -> list[_Value]:
    found, at = [], 0
    while at < len(value.content):
        one = _take(value.content, at)
        found.append(one)
        at = one.end
    return found


def _only(values: list[_Value], tag: int) -> _Value:
    if len(values) != 1 or values[0].tag != tag:
        raise ValueError("no certificate")
    return values[0]


def _common_name(subject: _Value) -> str:
    for part in _inside(subject):
        for pair in _inside(part) if part.tag == _SET else ():
            both = _inside(pair)
            if len(both) == 2 and both[0].tag == _OID and both[0].content == _COMMON_NAME:
                return both[1].content.decode("utf-8", "replace")
    return ""


def _dns_names(rest: list[_Value]) -> tuple[str, ...]:
    for extensions in (one for field in rest if field.tag == _EXTENSIONS for one in _inside(field)):
        for extension in _inside(extensions):
            parts = _inside(extension)
            if len(parts) >= 2 and parts[0].content == _ALT_NAMES and parts[-1].tag == _OCTETS:
                names = _inside(_only([_take(parts[-1].content, 0)], _SEQUENCE))
                return tuple(one.content.decode("ascii", "replace") for one in names[:_MAX_NAMES] if one.tag == _DNS)
    return ()


def _seconds(time: _Value) -> float:
    """Of the two forms that RFC 5280 has: YYMMDDHHMMSSZ until 2049, and YYYYMMDDHHMMSSZ."""
    text = time.content.decode("ascii", "replace")
    if time.tag == _UTC:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif time.tag != _GENERALIZED:
        raise ValueError("no certificate")
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()
