"""Which lists of revoked certificates there are, and whether others would let in again who was revoked.

That they are signed, and whom they name, is for OpenSSL; a device has no `cryptography`, and needs no more than this.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

from edge_runtime.errors import InvalidConfig
from edge_runtime.remote.certificate import signed_fields
from edge_runtime.remote.der import INTEGER, SEQUENCE, SET, Value, inside, only, seconds, take
from edge_runtime.remote.log_limit import shown

_LIST = re.compile(rb"-----BEGIN X509 CRL-----(.+?)-----END X509 CRL-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)
_LIST_EXTENSIONS, _EXTENSIONS, _VERSION, _KEY = 0xA0, 0xA3, 0xA0, 0x80
_SUBJECT_KEY, _NUMBER, _CHANGES, _AUTHORITY_KEY = (bytes((0x55, 0x1D, last)) for last in (14, 20, 27, 35))
_COMMON_NAME = bytes((0x55, 0x04, 0x03))

_Name = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Who signs.

    Attributes:
        name: Its parts: the kind of each, and its text.
        key: What tells its key from others of that name; empty where that isn't said.
    """

    name: _Name
    key: bytes

    def is_maybe(self, other: Authority) -> bool:
        """Whether both may be the same."""
        return self.name == other.name and (self.key == other.key or not (self.key and other.key))

    def __str__(self) -> str:
        return shown(", ".join(text.decode("utf-8", "replace") for kind, text in self.name if kind == _COMMON_NAME))


@dataclass(frozen=True, kw_only=True)
class RevokedList:
    """One authority's.

    Attributes:
        issuer: The authority.
        number: Grows with each; None where the authority counts none.
        since_s: When it was made, in seconds since 1970.
    """

    issuer: Authority
    number: int | None
    since_s: float

    def __str__(self) -> str:
        number = "" if self.number is None else f" number {self.number}"
        return f"the list of revoked certificates of {self.issuer}{number}"

    def is_older(self, other: RevokedList) -> bool:
        """Whether another of the same authority was made after it."""
        if self.number is not None and other.number is not None and self.number != other.number:
            return self.number < other.number
        return self.since_s < other.since_s


def read_lists(crl: bytes) -> tuple[RevokedList, ...]:
    """Those in a file, but for lists of changes alone.

    Args:
        crl: PEM; empty for none.

    Raises:
        InvalidConfig: one can't be read.
    """
    try:
        found = [_read(_der(block)) for block in _LIST.findall(crl)]
    except (ValueError, IndexError) as error:
        raise InvalidConfig(f"tls.crl: a list of revoked certificates can't be read: {error}") from error
    return tuple(one for one in found if one is not None)


def check_newer(crl: bytes, before: bytes, ca: bytes) -> None:
    """Refuses lists that would let in again who was revoked.

    Args:
        crl: Those that are to come into force, PEM.
        before: Those that are.
        ca: The authorities' certificates from then on: of others no list is demanded.

    Raises:
        InvalidConfig: one is older than that of its authority in force, or lacks; or one can't be read.
    """
    if crl == before:
        return
    lists, trusted = read_lists(crl), _authorities(ca)
    for old in read_lists(before):
        if not any(old.issuer.is_maybe(one) for one in trusted):
            continue
        same = [one for one in lists if old.issuer.is_maybe(one.issuer)]
        if not same:
            raise InvalidConfig(f"tls.crl: {old} lacks: those that it named would be trusted again")
        if all(one.is_older(old) for one in same):
            raise InvalidConfig(f"tls.crl: {same[-1]} is older than what is in force, which is {old}")


def _authorities(ca: bytes) -> tuple[Authority, ...]:
    try:
        return tuple(_authority(_der(block)) for block in _CERTIFICATE.findall(ca))
    except (ValueError, IndexError) as error:
        raise InvalidConfig(f"tls.ca: a certificate can't be read: {error}") from error


def _authority(der: bytes) -> Authority:
    fields = signed_fields(der)
    fields = fields[1:] if fields and fields[0].tag == _VERSION else fields
    extensions = _extensions(fields, _EXTENSIONS)
    key = take(extensions[_SUBJECT_KEY], 0).content if _SUBJECT_KEY in extensions else b""
    return Authority(name=_name(fields[4]), key=key)


def _read(der: bytes) -> RevokedList | None:
    """None for one of changes alone."""
    fields = signed_fields(der)
    fields = fields[1:] if fields and fields[0].tag == INTEGER else fields
    extensions = _extensions(fields, _LIST_EXTENSIONS)
    if _CHANGES in extensions:
        return None
    number, key = None, b""
    if _NUMBER in extensions:
        number = int.from_bytes(only([take(extensions[_NUMBER], 0)], INTEGER).content, "big")
    if _AUTHORITY_KEY in extensions:
        parts = inside(take(extensions[_AUTHORITY_KEY], 0))
        key = next((one.content for one in parts if one.tag == _KEY), b"")
    return RevokedList(issuer=Authority(name=_name(fields[1]), key=key), number=number, since_s=seconds(fields[2]))


def _name(value: Value) -> _Name:
    """Whatever kind of text its parts are: the same name is written in several."""
    pairs = [inside(pair) for part in inside(only([value], SEQUENCE)) for pair in inside(only([part], SET))]
    return tuple((kind.content, text.content) for kind, text in pairs)


def _extensions(fields: list[Value], tag: int) -> dict[bytes, bytes]:
    """What each holds, by its kind."""
    rows = [inside(one) for field in fields if field.tag == tag for part in inside(field) for one in inside(part)]
    return {row[0].content: row[-1].content for row in rows}


def _der(block: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{block.decode('ascii').strip()}\n{ssl.PEM_FOOTER}")
