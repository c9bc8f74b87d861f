"""Makes keys and certificates, and signs them: X.509 by `cryptography`. Nothing here touches a file.

All keys are ECDSA on P-256 and all signatures SHA-256: what every TLS library takes without being told, gRPC's among
them, which has no Ed25519 by default.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fallback_server.access.certificates import URN

ROLE_NAME = "edge-fallback-server"
"""In every server's certificate: devices verify this, whatever address an announcement names."""

CA_DAYS = 3650
LEAF_DAYS = 397
"""What browsers take of a certificate at most: 398 days are 13 months (CA/Browser Forum, ballot SC-31)."""

_LOCAL = ("localhost", "127.0.0.1", "::1")
"""In every server's certificate, so that commands on its own machine reach it."""

_BACKDATED = dt.timedelta(minutes=5)
"""A device's clock may be behind that of the machine that signs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key; PEM.

    Attributes:
        certificate_pem: For everybody.
        key_pem: For its owner alone.
        serial: The certificate's number.
    """

    certificate_pem: bytes
    key_pem: bytes
    serial: int


def make_authority(name: str, *, now: dt.datetime, days: int = CA_DAYS) -> Pair:
    """A new authority.

    Args:
        name: Of the site, as people read it.
        now: The instant, with its time zone.
        days: How long it lasts.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), now=now, until=now + dt.timedelta(days=days))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _signed(builder, key, key)


class Authority:
    """One that signs.

    Args:
        certificate_pem: Its own certificate.
        key_pem: Its key.

    Raises:
        ValueError: they can't be read, or don't belong together.
    """

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        self._certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is none of an elliptic curve")  # noqa: TRY004  a fault of its content
        if key.public_key() != self._certificate.public_key():
            raise ValueError("the authority's key is not that of its certificate")
        self._key = key

    def server(self, name: str, hosts: Sequence[str], *, now: dt.datetime, days: int = LEAF_DAYS) -> Pair:
        """A certificate for a server.

        Args:
            name: The server's.
            hosts: Names and addresses under which clients reach it, beside `ROLE_NAME` and this machine's own.
            now: The instant, with its time zone.
            days: How long it lasts; not beyond the authority.

        Raises:
            ValueError: a host is neither a name nor an address.
        """
        names = [_general(host) for host in dict.fromkeys((ROLE_NAME, name, *hosts, *_LOCAL))]
        return self._leaf(name, names, ExtendedKeyUsageOID.SERVER_AUTH, now=now, days=days)

    def device(self, name: str, *, now: dt.datetime, days: int = LEAF_DAYS) -> Pair:
        """A certificate for a device, or for whoever else calls servers. Arguments as of `server`."""
        uri = x509.UniformResourceIdentifier(URN + name)
        return self._leaf(name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days)

    def revocations(self, serials: Sequence[tuple[int, dt.datetime]], number: int, *, now: dt.datetime) -> bytes:
        """The list of revoked certificates, PEM. It lasts as long as the authority: who has it must not be locked out.

        Args:
            serials: Their numbers, and when each was revoked.
            number: Of the list: higher than that of every one before.
            now: The instant.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _BACKDATED)
            .next_update(self._certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for serial, since in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(
        self,
        name: str,
        names: Sequence[x509.GeneralName],
        use: x509.ObjectIdentifier,
        *,
        now: dt.datetime,
        days: int,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(now + dt.timedelta(days=days), self._certificate.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, self._certificate.subject, key.public_key(), now=now, until=until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        return _signed(builder, key, self._key)

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        found = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    now: dt.datetime,
    until: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), key_pem, certificate.serial_number)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
