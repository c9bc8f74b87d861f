"""What clients' certificates say, once TLS has verified them, and which of them are revoked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from fallback_server.config import ConfigInvalid

URN = "urn:edge:device:"
"""Before the name in the certificates that `pki issue device` makes."""

MAX_KNOWN = 4096
"""Certificates that need not be read anew: as many as there may be connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A client's, which was verified.

    Attributes:
        name: Of its owner; empty where it has none.
        serial: Its number with its authority.
        until_s: When it ends, in seconds since 1970.
    """

    name: str
    serial: int
    until_s: float

    def told(self) -> str:
        """As text, for a process of the same server."""
        return f"{self.serial:x} {self.until_s:.0f} {self.name}"

    @classmethod
    def from_told(cls, text: str) -> Certificate:
        """Out of what `told` gave."""
        serial, until_s, name = text.split(" ", 2)
        return cls(name=name, serial=int(serial, 16), until_s=float(until_s))


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
        except Exception:  # noqa: BLE001  of half a dozen kinds, not all of them ValueErrors
            return None
        with self._lock:
            self._known[data] = found
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return found


def revoked_serials(crl_pem: bytes, ca_pem: bytes) -> frozenset[int]:
    """The numbers of the certificates that an authority has revoked.

    Args:
        crl_pem: Its list; empty for none.
        ca_pem: Its certificate; of several the one that has signed the list.

    Raises:
        ConfigInvalid: the list can't be read, or is none of that authority's.
    """
    if not crl_pem:
        return frozenset()
    from cryptography import x509  # noqa: PLC0415  of the extra `server`
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  likewise
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415  likewise

    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        for authority in x509.load_pem_x509_certificates(ca_pem):
            key = authority.public_key()
            if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
                continue
            if crl.issuer == authority.subject and crl.is_signature_valid(key):
                return frozenset(each.serial_number for each in crl)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:  # Some parts are read when they are used.
        raise ConfigInvalid(f"the list of revoked certificates can't be read: {error}") from error
    raise ConfigInvalid("the list of revoked certificates is not signed by the authority of the clients' certificates")


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
    return Certificate(name=name, serial=certificate.serial_number, until_s=certificate.not_valid_after_utc.timestamp())
