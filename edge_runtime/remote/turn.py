"""One call's leave to go out to a server."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.routing.breaker import Permit


@dataclass(frozen=True)
class Turn:
    """One call's leave to go out; used for exactly one `Endpoint.call`.

    Attributes:
        permit: The breaker's.
        number: The answer time's.
        model: Whom it is for; empty for a call that no model answers.
        nbytes: What has to be sent.
        expected_s: Seconds in which it should be answered.
    """

    permit: Permit
    number: int
    model: str = ""
    nbytes: int = 0
    expected_s: float = 0.0
