"""Has a server prove who it is before anything is sent to it: one TLS handshake, and whether HTTP/2 is answered.

No request, no token goes over this connection. What comes of it is a `Way`, by which gRPC verifies again at each
connection of its own; or `NotTrusted`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_runtime.remote.certificate import Certificate, read_certificate
from edge_runtime.remote.log_limit import shown
from edge_runtime.remote.tls_files import Material
from edge_runtime.remote.way import Way

Reason = Literal["plain-text", "unprepared", "protocol", "certificate", "refused", "silent", "unreachable"]
"""Why a server is not trusted.

`plain-text`: it says that it speaks no TLS. `unprepared`: it does, and this device is not set up for it. `protocol`: no
TLS comes from there, or not gRPC over it. `certificate`: it is not known by it. `refused`: it doesn't take the
device's. `silent`: it says nothing. `unreachable`: nobody is there."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client begins HTTP/2 (RFC 9113, 3.4): what is read then shows that the server takes the device."""

_BYE = bytes((0, 0, 8, 7, 0, 0, 0, 0, 0)) + bytes(8)
"""GOAWAY, without an error."""

_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE", "DECRYPT_ERROR")
"""In OpenSSL's names for what a server says that doesn't take a client."""


_OF_TIME = frozenset({9, 10, 11, 12})
"""OpenSSL's numbers for a certificate that is not yet or no longer valid, and for such a list of revoked ones."""


_NO_LIST = 3
"""Its number for a signer of which there is no list."""


class NotTrusted(Exception):
    """A server has not proved who it is.

    Attributes:
        reason: In one word.
        said: In a sentence's part, fit for a log line.
    """

    def __init__(self, reason: Reason, said: str) -> None:
        super().__init__(said)
        self.reason: Reason = reason
        self.said = said


class _Unlisted(NotTrusted):
    """Of somebody who has signed what a server shows there is no list."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Who a server is, and how it is spoken to.

    Attributes:
        certificate: What it has shown.
        way: How it is spoken to.
    """

    certificate: Certificate
    way: Way


def prove(
    address: str,
    material: Material,
    *,
    limit_s: float,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Proof:
    """Shakes hands with a server, and waits.

    Args:
        address: `host:port`.
        material: What is trusted, and what is shown.
        limit_s: Seconds, for everything.
        clock: Monotonic seconds.
        wall: Seconds since 1970, for the time of certificates that are pinned, and for texts.

    Raises:
        NotTrusted: nobody is there, or whoever is has not proved anything.
    """
    until_s = clock() + limit_s
    if material.pins:
        certificate = _shaken(address, material.context(unverified=True), "", until_s, clock, wall)
        if certificate.fingerprint in material.pins:
            return _pinned(certificate, material, wall())
        if not material.ca:
            said = f"the certificate of {certificate.owner or 'nobody'}, {certificate.fingerprint}, is not pinned"
            raise NotTrusted("certificate", said)
    name = material.server_name or _host(address)
    try:
        certificate = _shaken(address, material.context(whole=True), name, until_s, clock, wall)
    except _Unlisted:  # Lists of those who have signed the servers' certificates alone are enough, as ever.
        certificate = _shaken(address, material.context(), name, until_s, clock, wall)
    # gRPC's Python API reads no list of what is revoked: it is held to the very certificate that is known to be none.
    roots = certificate.pem if material.crl else material.ca
    return Proof(certificate=certificate, way=_way(material, roots, material.server_name))


def _pinned(certificate: Certificate, material: Material, now_s: float) -> Proof:
    if not certificate.since_s <= now_s <= certificate.until_s:
        said = f"the pinned certificate has ended or not begun: it holds until {certificate.until}{_by_clock(now_s)}"
        raise NotTrusted("certificate", said)
    if not certificate.names:
        raise NotTrusted("certificate", "the pinned certificate is for no name, which gRPC has need of")
    # gRPC demands a name: that it is the certificate's own says nothing, that it is this certificate says all.
    return Proof(certificate=certificate, way=_way(material, certificate.pem, certificate.names[0].replace("*", "any")))


def _way(material: Material, roots: bytes, name: str) -> Way:
    return Way(roots=roots, certificate=material.certificate, key=material.key, name=name, token=material.token)


def _by_clock(now_s: float) -> str:
    """Boards without a battery begin in the past, until the network tells them the time."""
    return f" (by this device's clock, which says {time.strftime('%Y-%m-%d', time.gmtime(now_s))})"


def _shaken(  # noqa: PLR0917  two clocks
    address: str,
    context: ssl.SSLContext,
    name: str,
    until_s: float,
    clock: Callable[[], float],
    wall: Callable[[], float],
) -> Certificate:
    """Connects, and returns the certificate that was shown; raises NotTrusted."""
    try:
        plain = socket.create_connection((_host(address), _port(address)), max(until_s - clock(), 0.001))
    except OSError as error:
        raise NotTrusted("unreachable", f"nobody answers there: {error.strerror or error}") from error
    with contextlib.closing(plain):
        plain.settimeout(max(until_s - clock(), 0.001))
        try:
            secure = context.wrap_socket(plain, server_hostname=name or None)
        except TimeoutError as error:
            raise NotTrusted("silent", "it is connected and says nothing") from error
        except ssl.SSLCertVerificationError as error:
            said = f"its certificate: {shown(error.verify_message)[1:-1]}"
            said += _by_clock(wall()) if error.verify_code in _OF_TIME else ""
            raise (_Unlisted if error.verify_code == _NO_LIST else NotTrusted)("certificate", said) from error
        except OSError as error:
            raise _refused(error) from error
        with contextlib.closing(secure):
            return _answered(secure, until_s, clock)


def _answered(secure: ssl.SSLSocket, until_s: float, clock: Callable[[], float]) -> Certificate:
    """Whether gRPC is spoken to this device: with TLS 1.3 a server takes a client's certificate after the handshake."""
    try:
        certificate = read_certificate(secure.getpeercert(binary_form=True) or b"")
    except ValueError as error:
        raise NotTrusted("certificate", "its certificate can't be read") from error
    if secure.selected_alpn_protocol() != "h2":
        raise NotTrusted("protocol", "it speaks TLS and no gRPC: is it the port for REST?")
    try:
        secure.settimeout(max(until_s - clock(), 0.001))
        secure.sendall(_HELLO)
        answer = secure.recv(1)
    except TimeoutError as error:
        raise NotTrusted("silent", "it shakes hands and says nothing more") from error
    except OSError as error:
        raise _refused(error) from error
    if not answer:
        raise NotTrusted("refused", "it hangs up after the handshake: does it demand another certificate of devices?")
    with contextlib.suppress(OSError):
        secure.sendall(_BYE)
    return certificate


def _refused(error: OSError) -> NotTrusted:
    words = getattr(error, "reason", None) or ""
    if "ALERT" in words and any(text in words for text in _ALERTS):
        said = words.lower().replace("_", " ")
        return NotTrusted("refused", f"it does not take what the device shows: {shown(said)[1:-1]}")
    said = words.lower().replace("_", " ") or error.strerror or str(error)
    return NotTrusted("protocol", f"it speaks no TLS: {shown(said)[1:-1]}")


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
