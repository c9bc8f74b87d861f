"""Has a server prove who it is, and asks it what it serves: for people, not for requests."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime.remote.handshake import NotTrusted, prove
from edge_runtime.remote.survey import Seen, survey
from edge_runtime.remote.tls_files import Material
from edge_runtime.tls_options import is_loopback


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are visited.

    Attributes:
        names: The models to ask a server for that doesn't list them.
        timeout_s: For each call, and for the handshake.
        material: What is trusted; None for plain text...
        insecure: ...which is spoken with this machine alone, unless this is set.
    """

    names: tuple[str, ...]
    timeout_s: float
    material: Material | None = None
    insecure: bool = False

    def first(self, addresses: Sequence[str], *, tls: bool | None) -> Seen:
        """What the first that is trusted says, of several addresses of one server; else why the first is not.

        Args:
            addresses: `host:port`, at least one.
            tls: Whether it is announced as speaking TLS; None where it was named.
        """
        seen = self._one(addresses[0], tls=tls)
        for address in addresses[1:]:
            if seen.trust in ("proved", "plain-text") and seen.kind != "silent":
                break
            other = self._one(address, tls=tls)
            seen = other if other.trust in ("proved", "plain-text") and other.kind != "silent" else seen
        return seen

    def _one(self, address: str, *, tls: bool | None) -> Seen:
        if self.material is None and tls:
            return _not_asked(address, "unprepared", "it speaks TLS: say by --tls-ca or --tls-pin who is trusted")
        if self.material is None and not (self.insecure or is_loopback(address)):
            said = "plain text is for this machine alone: --tls-ca or --tls-pin say who is trusted, or --insecure"
            return _not_asked(address, "plain-text", said)
        if self.material is None:
            return survey(address, self.names, timeout_s=self.timeout_s)
        if tls is False:
            return _not_asked(address, "plain-text", "it is announced as speaking plain text")
        try:
            proof = prove(address, self.material, limit_s=self.timeout_s)
        except NotTrusted as fault:
            return _not_asked(address, fault.reason, fault.said)
        seen = survey(address, self.names, timeout_s=self.timeout_s, way=proof.way)
        return msgspec.structs.replace(
            seen,
            trust="proved",
            certificate=proof.certificate.owner,
            until=proof.certificate.until,
            fingerprint=proof.certificate.fingerprint,
        )


def _not_asked(address: str, reason: str, said: str) -> Seen:
    return Seen(address=address, kind="silent", trust=reason, said=f"not asked, it is not trusted: {said}")
