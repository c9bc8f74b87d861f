"""What is told of a certificate: whose it is, and until when. Reads DER (X.690) of anybody's; proves nothing.

The standard library reads certificates only of connections that it has verified, and a device has no `cryptography`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from dataclasses import dataclass

from edge_runtime.remote.der import OCTETS, OID, SEQUENCE, SET, Value, inside, only, seconds, take
from edge_runtime.remote.log_limit import shown

MAX_BYTES = 2**16
"""Of one certificate; those of whole families of hosts have some thousand."""

_VERSION, _EXTENSIONS, _DNS = 0xA0, 0xA3, 0x82
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
    fields = signed_fields(der)
    if fields and fields[0].tag == _VERSION:
        fields = fields[1:]
    if len(fields) < 6:
        raise ValueError("no certificate")
    _, _, _, validity, subject, _, *rest = fields
    times = inside(validity)
    if len(times) != 2:
        raise ValueError("no certificate")
    owner = _common_name(subject)
    names = _dns_names(rest)
    return Certificate(
        der=der,
        owner=shown(owner)[1:-1],
        names=names or ((owner,) if owner.isascii() and owner else ()),
        since_s=seconds(times[0]),
        until_s=seconds(times[1]),
    )


def signed_fields(der: bytes) -> list[Value]:
    """Of what an authority has signed: a certificate, or a list of revoked ones.

    Raises:
        ValueError: there are none.
    """
    return inside(only(inside(only([take(der, 0)], SEQUENCE))[:1], SEQUENCE))


def _common_name(subject: Value) -> str:
    for part in inside(subject):
        for pair in inside(part) if part.tag == SET else ():
            both = inside(pair)
            if len(both) == 2 and both[0].tag == OID and both[0].content == _COMMON_NAME:
                return both[1].content.decode("utf-8", "replace")
    return ""


def _dns_names(rest: list[Value]) -> tuple[str, ...]:
    for extensions in (one for field in rest if field.tag == _EXTENSIONS for one in inside(field)):
        for extension in inside(extensions):
            parts = inside(extension)
            if len(parts) >= 2 and parts[0].content == _ALT_NAMES and parts[-1].tag == OCTETS:
                names = inside(only([take(parts[-1].content, 0)], SEQUENCE))
                return tuple(one.content.decode("ascii", "replace") for one in names[:_MAX_NAMES] if one.tag == _DNS)
    return ()
