"""What a server said instead of an answer, before the router knows what that means for the request."""

from __future__ import annotations

import grpc

from fallback_server.protocol.status import Fault

_UNREACHABLE = (
    "failed to connect to all addresses",
    "errors resolving",
    "DNS resolution failed",
    "empty address list",
)
"""gRPC's own words where no server spoke. It gives both the code UNAVAILABLE and nothing else to tell them apart;
`tests/edge_runtime/remote/test_endpoint.py` watches that the words stay."""

_BROKEN = (
    "socket closed",
    "connection reset",
    "broken pipe",
    "stream removed",
    "connection timed out",
    "recvmsg:",
    "sendmsg:",
    "endpoint closing",
    "transport closed",
)
"""gRPC's own words where the connection broke under a call. Whether the server lives it doesn't say."""

_ALIVE = frozenset({Fault.INVALID_INPUT, Fault.NOT_FOUND, Fault.QUEUE_FULL, Fault.PRECONDITION, Fault.UNIMPLEMENTED})
"""Faults that a healthy server answers with."""


class RemoteFault(Exception):
    """One endpoint failed or refused.

    Attributes:
        fault: What kind.
        address: Which endpoint.
        detail: Its own words.
        unreachable: Nobody was there: no connection came about.
        broken: The connection broke under the call.
    """

    def __init__(
        self, fault: Fault, address: str, detail: str, *, unreachable: bool = False, broken: bool = False
    ) -> None:
        self.fault = fault
        self.address = address
        self.detail = detail
        self.unreachable = unreachable
        self.broken = broken
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.address}: {self.said}"

    @classmethod
    def of_status(cls, code: grpc.StatusCode, address: str, detail: str | None) -> RemoteFault:
        """The fault that a call's status stands for."""
        words = detail or code.name
        fault = Fault.of(code)
        if code is grpc.StatusCode.UNKNOWN and any(text in words.lower() for text in _BROKEN):
            fault = Fault.NOT_READY  # gRPC gives a stream that its connection took along this code as well.
        unreachable = fault is Fault.NOT_READY and any(text.lower() in words.lower() for text in _UNREACHABLE)
        broken = fault is Fault.NOT_READY and not unreachable and any(text in words.lower() for text in _BROKEN)
        return cls(fault, address, words, unreachable=unreachable, broken=broken)

    @property
    def said(self) -> str:
        """What happened, with the server's own words."""
        kind = "can't be reached" if self.unreachable else self.fault.name.lower().replace("_", " ")
        return f"{kind}: {self.detail}"

    @property
    def alive(self) -> bool:
        """Whether a server that works said it."""
        return self.fault in _ALIVE or (self.passing and not self.broken)

    @property
    def passing(self) -> bool:
        """Whether the same server may well answer a moment later: it is loading, full, or lost one connection."""
        return self.fault is Fault.QUEUE_FULL or (self.fault is Fault.NOT_READY and not self.unreachable)

    @property
    def lacking(self) -> bool:
        """Whether the server doesn't have the version, or isn't there."""
        return self.fault is Fault.NOT_FOUND or self.unreachable
