"""The files that `TlsOptions` names: read, checked, and read again when they change."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from edge_runtime.errors import InvalidConfig
from edge_runtime.remote.certificate import Certificate, read_certificate
from edge_runtime.remote.revoked_lists import check_newer, read_lists
from edge_runtime.tls_options import TlsOptions

_log = logging.getLogger(__name__)

MAX_BYTES = 2**20
"""Of one file; a bundle of all authorities of the web takes a quarter of it."""

SETTLED_S = 0.8
"""So long files must have stayed as they are. One look a second, but where announcements come there are more."""

FEWER_SETTLED_S = 10.0
"""So long where there are fewer authorities than before: a list of them is sound after each that is written."""

_MAX_TOKEN_BYTES = 4096
_END = "-----END CERTIFICATE-----"
_CUT = re.compile(rb"^-", re.MULTILINE)
"""Where a certificate begins, or as much of that as there is, behind the last one's end."""
_CERTIFICATE = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----[^-]*-----END")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What TLS is spoken with at present; PEM, empty for what there is not.

    Attributes:
        ca: Of the authorities that sign servers' certificates.
        crl: What these have revoked.
        certificate: The device's own, with its key.
        key: Of that.
        token: Goes with each call.
        pins: Fingerprints of servers that are trusted whoever has signed their certificate.
        server_name: What certificates that an authority has signed must be for; empty for the host.
    """

    ca: bytes = b""
    crl: bytes = b""
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    pins: frozenset[str] = frozenset()
    server_name: str = ""

    def context(self, *, unverified: bool = False, whole: bool = False) -> ssl.SSLContext:
        """For a client.

        Args:
            unverified: Take any certificate: for who holds it against the pins himself.
            whole: Look for those between a certificate and the authority in the lists too, each in its signer's.

        Raises:
            ssl.SSLError: what there is does not go together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca:
            with _file(self.ca) as path:
                context.load_verify_locations(cafile=path)
            if self.crl:
                with _file(self.crl) as path:
                    context.load_verify_locations(cafile=path)
                flags = ssl.VerifyFlags
                context.verify_flags |= flags.VERIFY_CRL_CHECK_CHAIN if whole else flags.VERIFY_CRL_CHECK_LEAF
        if self.certificate:
            with _file(self.certificate + b"\n" + self.key) as path:
                context.load_cert_chain(path, password=_no_passphrase)
        return context

    def doubts(self, before: Material) -> bool:
        """Whether who was trusted by what was in force before may be trusted no more."""
        mine = (self.ca, self.crl, self.pins, self.server_name)
        return mine != (before.ca, before.crl, before.pins, before.server_name)

    def withdraws(self, before: Material) -> bool:
        """Whether an authority, a pin or the name counts no more by which servers were trusted before."""
        authorities = frozenset(_CERTIFICATE.findall(before.ca))
        replaced = self.ca != before.ca and not (authorities and authorities <= set(_CERTIFICATE.findall(self.ca)))
        return replaced or not before.pins <= self.pins or self.server_name != before.server_name

    @property
    def authorities(self) -> int:
        """How many there are."""
        return len(_CERTIFICATE.findall(self.ca))

    @property
    def own(self) -> Certificate | None:
        """The device's own certificate; None where it has none, or none that can be read."""
        begin, end, _ = self.certificate.decode("ascii", "replace").partition(_END)
        try:
            return read_certificate(ssl.PEM_cert_to_DER_cert(begin[begin.index("-----BEGIN CERT") :] + end))
        except ValueError:
            return None


class MaterialFiles:
    """Keeps what the files hold. `look` is for one thread.

    Attributes:
        now: What is in force.
        refused: Why what the files hold is not; empty where it is.
    """

    def __init__(self, options: TlsOptions, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the files.

        Args:
            options: Which.
            clock: Monotonic seconds.

        Raises:
            InvalidConfig: one can't be read, or they don't go together.
        """
        self._options = options
        self._clock = clock
        self._stamp = self._coming = _stamp(options)
        self._coming_s = clock()
        self.now = read_material(options)
        self.refused = ""

    def look(self) -> bool:
        """Takes what has changed; whether anything has. What can't be used leaves what was, and is logged once.

        It must have stayed the same for a while: one that is being written may lack an authority that it is to hold.
        """
        stamp, now_s = _stamp(self._options), self._clock()
        if stamp != self._coming:
            self._coming, self._coming_s = stamp, now_s
        if stamp == self._stamp or now_s - self._coming_s < SETTLED_S:
            return False
        try:
            found = read_material(self._options)
            check_newer(found.crl, self.now.crl, found.ca)
        except InvalidConfig as error:
            self._stamp, self.refused = stamp, str(error)
            _log.warning("new files for TLS can't be used, those before stay in force: %s", error)
            return False
        if found.authorities < self.now.authorities and now_s - self._coming_s < FEWER_SETTLED_S:
            return False
        self._stamp, self.refused = stamp, ""
        if found == self.now:
            return False
        self.now = found
        _log.info("new files for TLS are in force")
        return True


def read_material(options: TlsOptions) -> Material:
    """What the files hold.

    Raises:
        InvalidConfig: one can't be read, or they don't go together.
    """
    token = _read("token_file", options.token_file, _MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    if options.token_file is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise InvalidConfig(f"tls.token_file: {options.token_file}: one line with a token is expected")
    material = Material(
        ca=_read("ca", options.ca),
        crl=_read("crl", options.crl),
        certificate=_read("certificate", options.certificate),
        key=_read("key", options.key),
        token=token,
        pins=frozenset(options.pins),
        server_name=options.server_name,
    )
    read_lists(material.crl)
    try:
        material.context()
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
        named = ", ".join(str(path) for path in (options.ca, options.crl, options.certificate, options.key) if path)
        raise InvalidConfig(f"tls: {named}: can't be read, or don't go together: {reason}") from error
    return material


def _read(name: str, path: Path | None, most: int = MAX_BYTES) -> bytes:
    if path is None:
        return b""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  it may be a text
            content = file.read(most + 1)
    except OSError as error:
        raise InvalidConfig(f"tls.{name}: {path}: {error.strerror or error}") from error
    if not content.strip() or len(content) > most:
        raise InvalidConfig(f"tls.{name}: {path}: from 1 to {most} bytes are expected")
    if name == "ca" and _CUT.search(content.rpartition(b"-----END")[2]):
        raise InvalidConfig(f"tls.{name}: {path}: cut short, it ends where a certificate begins")
    return content


def _stamp(options: TlsOptions) -> tuple[object, ...]:
    return tuple(
        _stat(path)
        for path in (options.ca, options.crl, options.certificate, options.key, options.token_file)
        if path is not None
    )


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  likewise
    except OSError:
        return None
    return found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A file that is never on a disk: OpenSSL reads keys and lists from files alone."""
    descriptor = os.memfd_create("tls")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_passphrase() -> NoReturn:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key has a passphrase, which nobody is there to type")
