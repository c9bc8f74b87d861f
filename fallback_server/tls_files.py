"""The folder that holds what TLS is spoken with, and Python's own TLS made of it. gRPC's is in `transport/tls.py`."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from fallback_server.access.revocations import read_lists
from fallback_server.config import ConfigInvalid, TlsFiles

CERTIFICATE, KEY, CA, CRL = "cert.pem", "key.pem", "ca.pem", "crl.pem"
"""As `pki issue` names them."""

MAX_PEM_BYTES = 1 << 20
"""A bundle of all authorities of the web takes a quarter of it."""

REQUIRE, ALLOW, NONE = "require", "allow", "none"
"""Whether clients must, may or need not show certificates."""

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"

_MODES = {REQUIRE: ssl.CERT_REQUIRED, ALLOW: ssl.CERT_OPTIONAL, NONE: ssl.CERT_NONE}


def read_tls_dir(folder: Path, *, clients: str, tokens: bool) -> TlsFiles:
    """What a folder holds.

    Without a word of whether clients must show certificates, gRPC's must where there is an authority that signs them,
    and no tokens for those who have none: gRPC can't ask without demanding. REST asks, and takes who has none.

    Args:
        folder: With `cert.pem` and `key.pem`; with `ca.pem` clients are known by certificates, of which `crl.pem` names
            those that are revoked.
        clients: `REQUIRE`, `ALLOW` or `NONE`; empty where nothing is said.
        tokens: Whether there are tokens.

    Raises:
        ConfigInvalid: a file lacks, or is at fault.
    """
    certificate, key = (_read(folder / name) for name in (CERTIFICATE, KEY))
    ca, crl = (_read(folder / name) if (folder / name).exists() else b"" for name in (CA, CRL))
    if clients in (REQUIRE, ALLOW) and not ca:
        raise ConfigInvalid(f"--tls_clients={clients} needs {folder / CA}, by which clients' certificates are verified")
    if clients == NONE:
        ca = crl = b""
    if not ca:
        crl = b""
    try:
        files = TlsFiles(
            key_pem=key,
            certificate_pem=certificate,
            client_ca_pem=ca,
            client_verify=bool(ca) and (clients == REQUIRE or (not clients and not tokens)),
            crl_pem=crl,
            rest_clients=(clients or ALLOW) if ca else NONE,
        )
    except ConfigInvalid as error:
        raise ConfigInvalid(*(f"{folder}: {fault}" for fault in error.faults)) from error
    check_tls(files, str(folder))
    return files


def check_tls(files: TlsFiles, where: str) -> None:
    """Refuses what TLS can't be spoken with.

    Raises:
        ConfigInvalid: the parts don't go together, or one is cut short; `where` says of which.
    """
    named = {KEY: files.key_pem, CERTIFICATE: files.certificate_pem, CA: files.client_ca_pem, CRL: files.crl_pem}
    if cut := [name for name, content in named.items() if _is_cut(content)]:
        raise ConfigInvalid(*(f"{where}: {name} is cut short: its last line is no END" for name in cut))
    try:
        server_context(files, ALLOW if files.client_ca_pem else NONE)
        read_lists(files.crl_pem, files.client_ca_pem)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ConfigInvalid(f"{where}: key, certificate and CA don't go together: {reason}") from error
    except ConfigInvalid as error:
        raise ConfigInvalid(*(f"{where}: {fault}" for fault in error.faults)) from error


def has_fewer(files: TlsFiles, before: TlsFiles) -> bool:
    """Whether the server would show fewer certificates, or trust fewer authorities, than before.

    A chain, or a list of authorities, that is written one after the other is sound after each.
    """
    counts = (
        (each.certificate_pem.count(_CERTIFICATE), each.client_ca_pem.count(_CERTIFICATE)) for each in (files, before)
    )
    return any(now < then for now, then in zip(*counts, strict=True))


def server_context(files: TlsFiles, clients: str) -> ssl.SSLContext:
    """Python's TLS, for a server.

    Args:
        files: What it is spoken with.
        clients: `REQUIRE`, `ALLOW` or `NONE`.

    Raises:
        ssl.SSLError: the parts don't go together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _InMemory(files.certificate_pem + b"\n" + files.key_pem) as path:
        context.load_cert_chain(path)
    if files.client_ca_pem:
        context.load_verify_locations(cadata=files.client_ca_pem.decode("ascii", "replace"))
    if files.crl_pem:
        with _InMemory(files.crl_pem) as path:
            context.load_verify_locations(cafile=path)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = _MODES[clients]
    return context


def _is_cut(pem: bytes) -> bool:
    """Whether the last line has begun to begin, or to end, something: TLS passes over that where a whole part is."""
    last = pem.rpartition(b"\n")[2].strip()
    return last.startswith(b"-") and not (last.startswith(b"-----END ") and last.endswith(b"-----"))


class _InMemory:
    """A file that is never on a disk, for libraries that read nothing else; under a name that is gone with it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> str:
        self._descriptor = os.memfd_create("tls")
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(self._content)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(f"--tls_dir: {path}: {error.strerror or error}") from error
    if len(content) > MAX_PEM_BYTES:
        raise ConfigInvalid(f"--tls_dir: {path}: larger than {MAX_PEM_BYTES} bytes, the most that is read")
    return content
