"""What clients' certificates say, once TLS has verified them; `revocations.py` tells which of them still count."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

URN = "urn:edge:device:"
"""Before the name in the certificates that `pki issue device` makes."""

_OWN = "~"

MAX_KNOWN = 4096
"""Certificates that need not be read anew: as many as there may be connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A client's, which was verified.

    Attributes:
        name: Of its owner; empty where it has none.
        serial: Its number with its authority, in hex.
        until_s: When it ends, in seconds since 1970.
        issuer: Its authority, as `issuer_key` has it.
    """

    name: str
    serial: str
    until_s: float
    issuer: str = ":"

    def told(self) -> str:
        """As text, for a process of the same server."""
        return f"{self.serial} {self.until_s:.0f} {self.issuer} {self.name}"

    @classmethod
    def from_told(cls, text: str) -> Certificate:
        """Out of what `told` gave."""
        serial, until_s, issuer, name = text.split(" ", 3)
        return cls(name=name, serial=serial, until_s=float(until_s), issuer=issuer)


class CertificateReader:
    """Reads certificates, and keeps what it has read of the latest. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Certificate] = OrderedDict()

    def read(self, data: bytes) -> Certificate | None:
        """What a certificate says, PEM or DER; None where it can't be read, which TLS would have refused."""
        with self._lock:
            known = self._known.get(data)
            if known is not None:
                self._known.move_to_end(data)
                return known
        try:
            found = _read(data)
        except unreadable():
            return None
        with self._lock:
            self._known[data] = found
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return found


def unreadable() -> tuple[type[Exception], ...]:
    """What cryptography raises of what is no certificate or list, or none that it knows: not all are ValueErrors."""
    from cryptography import x509  # noqa: PLC0415  of the extra `server`
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  likewise

    known = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
    return ValueError, TypeError, *known  # TypeError: a name's part of another type than its kind has.


def issuer_key(name: x509.Name, key_id: bytes) -> str:
    """By which an authority is known: its name, and its key's identifier where there is one. Has no spaces."""
    return f"{hashlib.sha256(name.public_bytes()).hexdigest()[:32]}:{key_id.hex()}"


def authority_key(authority: x509.Certificate) -> str:
    """The `issuer_key` of an authority, by its own certificate.

    Where that names no key, what it signs names none that we could know: `~` marks a key that tells two authorities of
    one name apart, and is not compared with what certificates say.
    """
    from cryptography import x509  # noqa: PLC0415  of the extra `server`

    try:
        key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest
        return f"{issuer_key(authority.subject, b'')}{_OWN}{own.hex()}"
    return issuer_key(authority.subject, key_id)


def same_issuer(one: str, other: str) -> bool:
    """Whether two of `issuer_key` mean one authority: by the keys where both say which, else by the names."""
    if _key(one) and _key(other):
        return surely_same_issuer(one, other)
    return one.partition(":")[0] == other.partition(":")[0]


def surely_same_issuer(one: str, other: str) -> bool:
    """Whether two of `issuer_key` mean one authority beyond doubt: both say its key."""
    return _key(one) != "" and _key(one) == _key(other)


def _key(issuer: str) -> str:
    key = issuer.partition(":")[2]
    return "" if key.startswith(_OWN) else key


def _signer(certificate: x509.Certificate) -> str:
    from cryptography import x509  # noqa: PLC0415  as above

    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        found = None
    return issuer_key(certificate.issuer, found or b"")


def _read(data: bytes) -> Certificate:
    from cryptography import x509  # noqa: PLC0415  of the extra `server`
    from cryptography.x509.oid import NameOID  # noqa: PLC0415  likewise

    pem = data.lstrip().startswith(b"-----BEGIN")
    certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common[0].value) if common else ""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        ours = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(URN)]
        name = ours[0].removeprefix(URN) if ours else name
    return Certificate(
        name=name,
        serial=f"{certificate.serial_number:x}",
        until_s=certificate.not_valid_after_utc.timestamp(),
        issuer=_signer(certificate),
    )
