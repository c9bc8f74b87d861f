"""The authority's folder: keys, certificates, what was issued, and the list of what is revoked.

pki/ca.pem  ca-key.pem  crl.pem          the authority; its key stays on the machine that signs
pki/issued/SERIAL.pem                    every certificate that was ever signed
pki/server/NAME/cert.pem key.pem ca.pem crl.pem
pki/device/NAME/cert.pem key.pem ca.pem crl.pem
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fallback_server.pki.authority import CA_DAYS, LEAF_DAYS, Authority, Pair, make_authority
from fallback_server.private_files import private_folder, write_private

CERTIFICATE, KEY, CA, CRL = "cert.pem", "key.pem", "ca.pem", "crl.pem"
"""What a server's or a device's folder holds."""

_CA_KEY = "ca-key.pem"
_ISSUED = "issued"
KINDS = ("server", "device")

MAX_DAYS = 3650

_PUBLIC = 0o644
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""64 characters: what X.520 gives a common name. No slash: it is a folder's name too."""

_HOST = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.-]{0,252})|[0-9A-Fa-f:.]+")


class PkiRefused(Exception):
    """What was asked for can't be done. The text is for whoever asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """A certificate that was signed.

    Attributes:
        name: Whose.
        kind: `server` or `device`.
        serial: Its number.
        until: When it ends.
        revoked: Since when it is worth nothing; None where it isn't revoked.
    """

    name: str
    kind: str
    serial: int
    until: dt.datetime
    revoked: dt.datetime | None


class PkiFolder:
    """One authority's. Several processes may use it at a time.

    Args:
        path: The folder.
        now: The instant, with its time zone.
    """

    def __init__(self, path: Path, now: Callable[[], dt.datetime] | None = None) -> None:
        self._path = path
        self._now = now or (lambda: dt.datetime.now(dt.UTC))

    def init(self, name: str, *, days: int = CA_DAYS) -> Path:
        """Makes an authority; returns where its certificate is.

        Raises:
            PkiRefused: there is one already, or the name is none.
            OSError: the folder can't be written.
        """
        if not 0 < len(name) <= 64 or not name.isprintable():
            raise PkiRefused(f"--name must have from 1 to 64 characters that can be printed, got {name!r}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        private_folder(self._path)
        with self._locked():
            if (self._path / CA).exists() or (self._path / _CA_KEY).exists():
                raise PkiRefused(f"{self._path} holds an authority already: all that it has signed would be worthless")
            pair = make_authority(name, now=self._now(), days=_checked_days(days))
            authority = Authority(pair.certificate_pem, pair.key_pem)
            write_private(self._path / _CA_KEY, pair.key_pem)
            write_private(self._path / CRL, authority.revocations((), 1, now=self._now()), mode=_PUBLIC)
            write_private(self._path / CA, pair.certificate_pem, mode=_PUBLIC)  # Last: now it is one.
        return self._path / CA

    def issue(self, kind: str, name: str, *, hosts: Sequence[str] = (), days: int = LEAF_DAYS) -> Path:
        """Makes a key and a certificate; returns the folder that holds them.

        A name may be given a new one at any time: servers take it within two seconds or so where the folder is
        theirs. The one before holds until its end, unless it is revoked.

        Raises:
            PkiRefused: there is no authority, or name, kind, days or hosts are at fault.
            OSError: the folder can't be written.
        """
        if not _NAME.fullmatch(name):
            raise PkiRefused(
                "a name must begin with a letter or digit, hold letters, digits and ._- alone, and have at most "
                f"64 characters, got {name!r}"
            )
        if kind == "device" and hosts:
            raise PkiRefused("--host belongs to servers: a device is known by its name alone")
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise PkiRefused(f"--host must be a name or an address, got {host!r}")
        other = next(each for each in KINDS if each != kind)
        with self._locked():
            if (self._path / other / name).exists():
                raise PkiRefused(f"{name} is a {other} already, and is revoked by its name: choose another name")
            authority = self._authority()
            if kind == "server":
                pair = authority.server(name, hosts, now=self._now(), days=_checked_days(days))
            else:
                pair = authority.device(name, now=self._now(), days=_checked_days(days))
            return self._placed(kind, name, pair)

    def revoke(self, name: str) -> tuple[Issued, ...]:
        """Revokes every certificate of a name that has not ended; returns those that were not revoked before.

        The list is written anew wherever it lies below the folder.

        Raises:
            PkiRefused: there is no authority, or none of that name.
            OSError: the folder can't be written.
        """
        with self._locked():
            authority = self._authority()
            issued = self._issued()
            named = [each for each in issued if each.name == name]
            if not named:
                there = ", ".join(sorted({each.name for each in issued})) or "nobody"
                raise PkiRefused(f"nobody is named {name} here; there is: {there}")
            now = self._now()
            fresh = tuple(each for each in named if each.revoked is None and each.until > now)
            # Those that have ended are refused for that; the list needs them no more.
            listed = [(each.serial, each.revoked) for each in issued if each.revoked is not None and each.until > now]
            listed += [(each.serial, now) for each in fresh]
            self._spread(authority.revocations(listed, self._crl_number() + 1, now=now))
        return fresh

    def issued(self) -> tuple[Issued, ...]:
        """Every certificate that was signed, by kind, name and end.

        Raises:
            PkiRefused: there is no authority.
        """
        self._check_there()
        return self._issued()

    def _placed(self, kind: str, name: str, pair: Pair) -> Path:
        """Writes what is known of a certificate first: what can't be revoked must not be handed out."""
        issued = private_folder(self._path / _ISSUED)
        write_private(issued / f"{pair.serial:x}.pem", pair.certificate_pem)
        private_folder(self._path / kind)
        folder = private_folder(self._path / kind / name)
        for file in (CA, CRL):
            write_private(folder / file, (self._path / file).read_bytes(), mode=_PUBLIC)
        write_private(folder / KEY, pair.key_pem)
        write_private(folder / CERTIFICATE, pair.certificate_pem, mode=_PUBLIC)
        return folder

    def _spread(self, crl_pem: bytes) -> None:
        write_private(self._path / CRL, crl_pem, mode=_PUBLIC)
        for kind in KINDS:
            for folder in sorted((self._path / kind).glob("*/")):
                write_private(folder / CRL, crl_pem, mode=_PUBLIC)

    def _issued(self) -> tuple[Issued, ...]:
        crl = x509.load_pem_x509_crl((self._path / CRL).read_bytes())
        since = {each.serial_number: each.revocation_date_utc for each in crl}
        found = [_issued_of(path, since) for path in (self._path / _ISSUED).glob("*.pem")]
        return tuple(sorted(found, key=lambda each: (each.kind, each.name, each.until, each.serial)))

    def _crl_number(self) -> int:
        crl = x509.load_pem_x509_crl((self._path / CRL).read_bytes())
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    def _authority(self) -> Authority:
        self._check_there()
        try:
            return Authority((self._path / CA).read_bytes(), (self._path / _CA_KEY).read_bytes())
        except ValueError as error:
            raise PkiRefused(f"{self._path}: {error}") from error

    def _check_there(self) -> None:
        if not (self._path / CA).is_file():
            raise PkiRefused(f"{self._path} holds no authority: pki init makes one")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self._check_there()
            raise
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _issued_of(path: Path, since: dict[int, dt.datetime]) -> Issued:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return Issued(
        name=str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        kind="server" if ExtendedKeyUsageOID.SERVER_AUTH in uses else "device",
        serial=certificate.serial_number,
        until=certificate.not_valid_after_utc,
        revoked=since.get(certificate.serial_number),
    )


def _checked_days(days: int) -> int:
    if not 0 < days <= MAX_DAYS:
        raise PkiRefused(f"--days must be from 1 to {MAX_DAYS}, got {days}")
    return days
