"""A plant's authority, servers and devices; certificates that sign themselves; and what gRPC's server makes of them."""

import datetime as dt
import hashlib
import ssl

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_runtime.tls_options import TlsOptions
from fallback_server.pki.folder import PkiFolder


class Plant:
    """An authority with the server `gpu-1` and the device `press-7`.

    Attributes:
        pki: The authority.
        server, device: The folders of their certificates.
    """

    def __init__(self, path, name="Plant 4"):
        self.path = path
        self.pki = PkiFolder(path / "pki")
        self.pki.init(name)
        self.server, self.device = self.pki.issue("server", "gpu-1"), self.pki.issue("device", "press-7")

    def tls(self, **other):
        """What a device trusts its servers by."""
        return TlsOptions(**{"ca": self.server / "ca.pem", **other})

    def expired(self, name="old"):
        """A server's, whose certificate has ended."""
        then = dt.datetime.now(dt.UTC) - dt.timedelta(days=9)
        return PkiFolder(self.path / "pki", lambda: then).issue("server", name, days=1)


def credentials(folder, clients=None):
    """gRPC's, for a server.

    Args:
        folder: With cert.pem and key.pem.
        clients: The folder of the authority by which clients must be known; None for no question.
    """
    pair = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    ca = None if clients is None else (clients / "ca.pem").read_bytes()
    return grpc.ssl_server_credentials([pair], ca, clients is not None)


def self_signed(folder, *, owner="own", names=("own.example",), days=30):
    """A folder with a certificate that signs itself, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner)] if owner else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return folder


def der(folder):
    """Its certificate."""
    return ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())


def pin(folder):
    """Its certificate's fingerprint."""
    return hashlib.sha256(der(folder)).hexdigest()
