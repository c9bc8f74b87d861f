"""How servers are known and spoken to: the options of TLS, frozen and checked once. Loads nothing heavy."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from edge_runtime.errors import InvalidConfig

ROLE_NAME = "edge-fallback-server"
"""What every server's certificate of `fallback-server pki issue` is for, whatever address an announcement names."""

MAX_PINS = 64

_PIN = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._:-]{0,253}")
_FILES = ("ca", "certificate", "key", "crl", "token_file")


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With these every server is spoken to over TLS, and only those that show a certificate that is trusted.

    The files are read again when they change, so that certificates are renewed without a restart.

    Attributes:
        ca: Certificates of the authorities that sign servers' certificates; PEM.
        crl: The list of certificates that the authority has revoked; PEM.
        pins: SHA-256 of servers' certificates in DER, in hex: these are trusted whoever has signed them.
        certificate: What the device shows servers that ask who it is; PEM, its chain behind it.
        key: Of that certificate; PEM, without a passphrase.
        token_file: Holds a token, which goes with every call.
        server_name: What a certificate signed by `ca` must be for; empty for the host that is connected to.
    """

    ca: Path | None = None
    crl: Path | None = None
    pins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    server_name: str = ROLE_NAME

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "pins", tuple(map(_checked_pin, self.pins)))
        if len(self.pins) > MAX_PINS:
            raise InvalidConfig(f"tls.pins: at most {MAX_PINS} are looked at, got {len(self.pins)}")
        if self.ca is None and not self.pins:
            raise InvalidConfig("tls: `ca` or `pins` must say which servers are trusted")
        if self.crl is not None and self.ca is None:
            raise InvalidConfig("tls.crl: needs `ca`, whose certificates it revokes")
        if (self.certificate is None) != (self.key is None):
            raise InvalidConfig("tls: `certificate` and `key` go together")
        if not _NAME.fullmatch(self.server_name):
            raise InvalidConfig(f"tls.server_name: a host's name is expected, got {self.server_name!r}")

    def anchored(self) -> TlsOptions:
        """The same with absolute paths."""
        return self.below(Path.cwd())

    def below(self, folder: Path) -> TlsOptions:
        """The same with relative paths taken as below a folder."""
        paths = {name: getattr(self, name) for name in _FILES}
        found = {name: folder / path for name, path in paths.items() if path is not None}
        return msgspec.structs.replace(self, **found)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is of this machine alone, so that nobody else can hear or be it."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def check_plain(addresses: tuple[str, ...], *, name: str = "fallback") -> None:
    """Refuses to speak to others than this machine in plain text.

    Raises:
        InvalidConfig: one of these is not of this machine.
    """
    for address in addresses:
        if not is_loopback(address):
            raise InvalidConfig(
                f"{name}: {address} would be spoken to in plain text, which everybody on the way can read and answer: "
                "give `tls` (with the `ca` of fallback-server pki, or `pins`), or insecure"
            )


def _checked_pin(text: str) -> str:
    """A fingerprint as `openssl x509 -fingerprint -sha256` or an announcement writes it."""
    pin = text.replace(":", "").lower()
    if not _PIN.fullmatch(pin):
        raise InvalidConfig(
            f"tls.pins: the SHA-256 of a certificate in 64 hexadecimal digits is expected, got {text!r}"
        )
    return pin
