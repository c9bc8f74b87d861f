"""Bearer tokens: made once, shown once, and known by their SHA-256 from then on."""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "edge-"
"""So that a search for lost secrets finds them."""

MAX_TOKEN_CHARS = 512
"""Of what a caller shows; ours have 48."""

_BYTES = 32
"""Of randomness: as many as nobody can guess, so that a plain digest gives nothing away (RFC 6750, section 5.2)."""

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]+) *")


def new_token() -> str:
    """A token that nobody has had before."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def digest_of(token: str) -> str:
    """By which a token is known: SHA-256, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer_of(header: str) -> str | None:
    """The token in an `authorization` header; None where that holds something else."""
    if len(header) > MAX_TOKEN_CHARS:
        return None
    found = _BEARER.fullmatch(header)
    return None if found is None else found[1]
