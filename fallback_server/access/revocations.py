"""What a client's certificate is worth that TLS has taken, maybe long ago: over open connections TLS is asked no more.

Its authority may have revoked it since, or be trusted no more; or nobody can say, as the authority's list has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fallback_server.access.attempts import Reason
from fallback_server.access.certificates import (
    Certificate,
    authority_key,
    same_issuer,
    surely_same_issuer,
    unreadable,
)
from fallback_server.config import ConfigInvalid

MAX_WITHDRAWN = 1024
"""Authorities that were replaced while the server runs, of which it still knows."""

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_BEGIN = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True, kw_only=True, slots=True)
class RevocationList:
    """One authority's, which has signed it.

    Attributes:
        issuer: The authority, as `issuer_key` has it.
        name: The authority's, as people read it.
        serials: The numbers of certificates that are revoked, in hex.
        number: Of the list: grows with each; None where the authority counts none.
        since_s: When it was made, in seconds since 1970.
        until_s: When the next should be there; infinite where that isn't said.
    """

    issuer: str
    name: str
    serials: frozenset[str]
    number: int | None
    since_s: float
    until_s: float

    def __str__(self) -> str:
        number = "" if self.number is None else f" number {self.number}"
        return f"the list of revoked certificates of {self.name!r}{number}, of {day(self.since_s)},"

    def is_older(self, other: RevocationList) -> bool:
        """Whether another of the same authority was made after it."""
        if self.number is not None and other.number is not None and self.number != other.number:
            return self.number < other.number
        return self.since_s < other.since_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What decides of certificates beside TLS. Never changes.

    Attributes:
        revoked: By authority: numbers of those that are worth nothing any more, in hex.
        ends: By authority: when its list of revoked certificates ends, in seconds since 1970.
        authorities: Those that are trusted.
        withdrawn: Those that were, since the server was started.
    """

    revoked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)
    authorities: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()

    def lack(self, certificate: Certificate, now_s: float) -> tuple[Reason, str] | None:
        """Why a certificate is worth nothing, and that in words; None for one that holds.

        A list that has ended says nothing of who was revoked since: nobody is let in by its authority then, as RFC 5280
        has it, and OpenSSL does.
        """
        for issuer, serials in self.revoked.items():  # Several authorities may count from one.
            if certificate.serial in serials and same_issuer(certificate.issuer, issuer):
                return Reason.REVOKED, "is revoked"
        if now_s > certificate.until_s:
            return Reason.EXPIRED, "has expired"
        if self.withdrawn and self._is_withdrawn(certificate.issuer):
            return Reason.WITHDRAWN, "is of an authority that is trusted no more"
        for issuer, until_s in self.ends.items():
            if now_s > until_s and same_issuer(certificate.issuer, issuer):
                return Reason.LIST_ENDED, f"can't be checked: the list of revoked certificates ended on {day(until_s)}"
        return None

    def _is_withdrawn(self, issuer: str) -> bool:
        """Also where only the name is known: the next of that name may have signed it, and the one before it too."""
        gone = any(same_issuer(issuer, each) for each in self.withdrawn)
        return gone and not any(surely_same_issuer(issuer, each) for each in self.authorities)


def trust_in(ca_pem: bytes, lists: Sequence[RevocationList], before: Trust) -> Trust:
    """What decides from now on.

    Args:
        ca_pem: The certificates of the authorities; empty for none.
        lists: Theirs.
        before: What decided until now.
    """
    authorities = tuple(dict.fromkeys(issuer for issuer, _, _ in _authorities(ca_pem)))
    gone = dict.fromkeys((*before.withdrawn, *before.authorities))
    return Trust(
        revoked={each.issuer: each.serials for each in lists},
        ends={each.issuer: each.until_s for each in lists},
        authorities=authorities,
        withdrawn=tuple(each for each in gone if not _is_among(each, authorities))[-MAX_WITHDRAWN:],
    )


def read_lists(crl_pem: bytes, ca_pem: bytes) -> tuple[RevocationList, ...]:
    """The lists of the certificates that authorities have revoked; of several of one authority the latest.

    Args:
        crl_pem: The lists, one after the other; empty for none.
        ca_pem: The authorities' certificates.

    Raises:
        ConfigInvalid: one can't be read, is not whole, or is signed by none of these.
    """
    blocks = _BLOCK.findall(crl_pem)
    if crl_pem.strip() and (not blocks or len(blocks) != crl_pem.count(_BEGIN)):
        raise ConfigInvalid("the list of revoked certificates can't be read: a block is missing, or has no end")
    if not blocks:
        return ()
    authorities = _authorities(ca_pem)
    found: dict[str, RevocationList] = {}
    for block in blocks:
        one = _read(block, authorities)
        if one.issuer not in found or found[one.issuer].is_older(one):
            found[one.issuer] = one
    return tuple(found.values())


def check_newer(lists: Iterable[RevocationList], before: Iterable[RevocationList], ca_pem: bytes) -> None:
    """Refuses lists that would let in again who was revoked.

    Args:
        lists: Those that are to come into force.
        before: Those that are.
        ca_pem: The authorities' certificates.

    Raises:
        ConfigInvalid: one is older than that of its authority in force, or lacks.
    """
    found = older_than(lists, before, ca_pem)
    if found is None:
        return
    old, new = found
    if new is None:
        raise ConfigInvalid(f"{old} lacks: those that it named would be let in again")
    raise ConfigInvalid(f"{new} is older than what is in force: {old} which stays")


def older_than(
    lists: Iterable[RevocationList], before: Iterable[RevocationList], ca_pem: bytes
) -> tuple[RevocationList, RevocationList | None] | None:
    """The first of some lists that another of its authority should not follow, and that; None for none of both.

    Args:
        lists: The others.
        before: Those that they would follow.
        ca_pem: The authorities' certificates; lists of others count for nothing.

    Raises:
        ConfigInvalid: those can't be read.
    """
    trusted = {issuer for issuer, _, _ in _authorities(ca_pem)}
    there = {each.issuer: each for each in lists}
    for old in before:
        if old.issuer not in trusted:
            continue
        new = there.get(old.issuer)
        if new is None or new.is_older(old):
            return old, new
    return None


def day(instant_s: float) -> str:
    """A day, of seconds since 1970, for people."""
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(instant_s))
    except (OverflowError, OSError, ValueError):
        return "a day that no calendar has"


def _is_among(authority: str, authorities: Sequence[str]) -> bool:
    return authority in authorities or any(surely_same_issuer(authority, each) for each in authorities)


def _authorities(ca_pem: bytes) -> list[tuple[str, object, object]]:
    """Of each authority its key, see `authority_key`, its name, and its public key.

    Raises:
        ConfigInvalid: they can't be read.
    """
    if not ca_pem:
        return []
    from cryptography import x509  # noqa: PLC0415  of the extra `server`

    try:
        found = x509.load_pem_x509_certificates(ca_pem)
        return [(authority_key(each), each.subject, each.public_key()) for each in found]
    except unreadable() as error:
        raise ConfigInvalid(f"the certificates of the authorities can't be read: {error}") from error


def _read(block: bytes, authorities: Sequence[tuple[str, object, object]]) -> RevocationList:
    from cryptography import x509  # noqa: PLC0415  of the extra `server`
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415  likewise

    try:
        crl = x509.load_pem_x509_crl(block)
        extensions = {type(each.value): each.value for each in crl.extensions}
        if x509.DeltaCRLIndicator in extensions:
            raise ConfigInvalid(
                "a list of revoked certificates that holds changes alone is of no use: give the whole one"
            )
        number = extensions.get(x509.CRLNumber)
        for issuer, subject, key in authorities:
            if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)) or crl.issuer != subject:
                continue
            if crl.is_signature_valid(key):
                return RevocationList(
                    issuer=issuer,
                    name=crl.issuer.rfc4514_string(),
                    serials=frozenset(f"{each.serial_number:x}" for each in crl),
                    number=number.crl_number if isinstance(number, x509.CRLNumber) else None,
                    since_s=crl.last_update_utc.timestamp(),
                    until_s=float("inf") if crl.next_update_utc is None else crl.next_update_utc.timestamp(),
                )
    except unreadable() as error:  # Some parts are read when they are looked at.
        raise ConfigInvalid(f"the list of revoked certificates can't be read: {error}") from error
    raise ConfigInvalid("the list of revoked certificates is not signed by the authority of the clients' certificates")
