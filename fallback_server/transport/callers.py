"""Who has called, where a process of the same server passes the call on: else all would come from its socket."""

from __future__ import annotations

import functools
import hmac
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from fallback_server.access.certificates import Certificate

CALLER_METADATA = "fallback-server-caller-bin"
"""Private metadata: this process's secret, who calls, and what the connection's certificate says."""

_SECRET_BYTES = 16


class Passed(NamedTuple):
    """Who calls, as the process says that passes the call on.

    Attributes:
        peer: As its transport names it.
        certificate: Of the connection that it came over; None for none.
    """

    peer: str
    certificate: Certificate | None


@functools.cache
def secret() -> bytes:
    """What this process believes by who passes a call on to it. Told to its own processes alone."""
    return secrets.token_bytes(_SECRET_BYTES)


def passed_by(metadata: Iterable[tuple[str, str | bytes]] | None) -> Passed | None:
    """Who calls, as the process says that passes the call on; None where none does that knows the secret.

    Args:
        metadata: Of the call; anybody may have sent it.
    """
    for key, value in metadata or ():
        if key == CALLER_METADATA and isinstance(value, bytes):
            told, who = value[:_SECRET_BYTES], value[_SECRET_BYTES:]
            if hmac.compare_digest(told, secret()):
                peer, _, certificate = who.decode(errors="replace").partition("\n")
                return Passed(peer, Certificate.from_told(certificate) if certificate else None)
    return None


def passed_caller(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Who calls, as the process says that passes the call on; None where none does that knows the secret.

    Args:
        metadata: Of the call; anybody may have sent it.
    """
    passed = passed_by(metadata)
    return None if passed is None else passed.peer


def caller_metadata(known: bytes, who: str, certificate: Certificate | None = None) -> tuple[str, bytes]:
    """What says who calls.

    Args:
        known: The secret of the process that the call goes to.
        who: Of whom it came.
        certificate: Of the connection that it came over.
    """
    told = "" if certificate is None else f"\n{certificate.told()}"
    return CALLER_METADATA, known + f"{who}{told}".encode()
