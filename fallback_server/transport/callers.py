"""Who has called, where a process of the same server passes the call on: else all would come from its socket."""

from __future__ import annotations

import functools
import hmac
import secrets
from collections.abc import Iterable

CALLER_METADATA = "fallback-server-caller-bin"
"""Private metadata: this process's secret, and who calls."""

_SECRET_BYTES = 16


@functools.cache
def secret() -> bytes:
    """What this process believes by who passes a call on to it. Told to its own processes alone."""
    return secrets.token_bytes(_SECRET_BYTES)


def passed_caller(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Who calls, as the process says that passes the call on; None where none does that knows the secret.

    Args:
        metadata: Of the call; anybody may have sent it.
    """
    for key, value in metadata or ():
        if key == CALLER_METADATA and isinstance(value, bytes):
            told, who = value[:_SECRET_BYTES], value[_SECRET_BYTES:]
            if hmac.compare_digest(told, secret()):
                return who.decode(errors="replace")
    return None


def caller_metadata(known: bytes, who: str) -> tuple[str, bytes]:
    """What says who calls.

    Args:
        known: The secret of the process that the call goes to.
        who: Of whom it came.
    """
    return CALLER_METADATA, known + who.encode()
