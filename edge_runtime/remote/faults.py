"""What a server said instead of an answer, before the router knows what that means for the request."""

from __future__ import annotations

from fallback_server.protocol.status import Fault


class RemoteFault(Exception):
    """One endpoint failed or refused.

    Attributes:
        fault: What kind.
        address: Which endpoint.
        detail: Its own words.
    """

    def __init__(self, fault: Fault, address: str, detail: str) -> None:
        self.fault = fault
        self.address = address
        self.detail = detail
        super().__init__(f"{address}: {fault.name.lower().replace('_', ' ')}: {detail}")
