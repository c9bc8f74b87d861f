"""A root, an intermediate that it has signed, and a server's certificate of that; with lists of what was revoked."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = "edge-fallback-server"

_PEM = serialization.Encoding.PEM


class Chain:
    """Its files are made in a folder.

    Attributes:
        ca: The root.
        server: A folder with the server's `cert.pem`, which goes before the intermediate's, and `key.pem`.
    """

    def __init__(self, path):
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.ca, self.server = path, path / "ca.pem", path / "server"
        self.server.mkdir()
        self._root_key, self._middle_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self._root = _signed("Root", self._root_key, None, self._root_key, authority=True)
        self._middle = _signed("Works 4", self._middle_key, self._root, self._root_key, authority=True)
        leaf = _signed("gpu-1", key, self._middle, self._middle_key, authority=False)
        self.ca.write_bytes(self._root.public_bytes(_PEM))
        (self.server / "cert.pem").write_bytes(leaf.public_bytes(_PEM) + self._middle.public_bytes(_PEM))
        form = serialization.PrivateFormat.PKCS8
        (self.server / "key.pem").write_bytes(key.private_bytes(_PEM, form, serialization.NoEncryption()))

    def lists(self, *, root=True, revoked=False):
        """A file with the intermediate's list, and the root's, in which the intermediate may be revoked."""
        lists = [_list(self._middle, self._middle_key)]
        if root:
            lists.append(_list(self._root, self._root_key, *([self._middle.serial_number] if revoked else [])))
        path = self.path / "crl.pem"
        path.write_bytes(b"".join(one.public_bytes(_PEM) for one in lists))
        return path


def _times(builder, names):
    now = dt.datetime.now(dt.UTC)
    begin, end = names
    return getattr(getattr(builder, begin)(now - dt.timedelta(days=1)), end)(now + dt.timedelta(days=30))


def _signed(name, key, issuer, issuer_key, *, authority):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return _times(builder, ("not_valid_before", "not_valid_after")).sign(issuer_key, hashes.SHA256())


def _list(issuer, key, *serials):
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = _times(builder, ("last_update", "next_update"))
    for serial in serials:
        now = dt.datetime.now(dt.UTC)
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(key, hashes.SHA256())
