"""What a server said instead of an answer, before the router knows what that means for the request."""

from __future__ import annotations

import enum

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

_TOO_LARGE = ("message larger than max", "decompression larger than max", "message exceeds maximum size")
"""gRPC's own words, in C++ and Go, and in Java, where a message is larger than a server reads. The code is that of a
full queue."""

_NO_SUCH_LABEL = "unrecognized servable version label"
"""TensorFlow Serving's words where it doesn't know a label. The code is that of a bad input, which no other would take
either; but another may have the label."""

_ALIVE = frozenset({Fault.INVALID_INPUT, Fault.NOT_FOUND, Fault.QUEUE_FULL, Fault.PRECONDITION, Fault.UNIMPLEMENTED})
"""Faults that a healthy server answers with."""

_ABSENT = frozenset({Fault.NOT_FOUND, Fault.UNIMPLEMENTED})
"""Faults of a server that has no such version, or no such call."""

_OF_THE_RUN = frozenset({Fault.INTERNAL, Fault.DATA_LOSS, Fault.UNKNOWN, Fault.PRECONDITION})
"""Faults that a model's run has for what one row holds, in TensorFlow's and other servers."""


_REFUSALS = frozenset({Fault.INVALID_INPUT, Fault.PRECONDITION})
"""Faults by which a server refuses a request."""


class Apart(enum.Enum):
    """How requests that went together and failed are asked again."""

    NO = "no"
    """Apart they would fare no better."""
    HALVES = "halves"
    """It was refused before the model ran, so that it costs little: until the one at fault, or a size that is taken."""
    SINGLY = "singly"
    """The model may have run: each once more, which is no more than if they had not gone together."""


class Onward(enum.Enum):
    """What it costs to ask another server instead. The budget of retries keeps them from becoming the load."""

    FREE = "free"
    """It was no load: who was asked only looked that it has no such thing, or that the request is none for it."""
    SPARED = "spared"
    """Nothing ran, but it was read by a server that may have too much to do: free at those that refused nothing of
    late, so that where all are full each is asked in vain but once in a while."""
    PAID = "paid"
    """It ran, or may have."""


class Unfit(ValueError):
    """An answer that can be read, and is not what was asked for: of another version, or not as the package says."""


class RemoteFault(Exception):
    """One endpoint failed or refused.

    Attributes:
        fault: What kind.
        address: Which endpoint.
        detail: Its own words.
        unreachable: Nobody was there: no connection came about.
        broken: The connection broke under the call.
        too_large: The message was larger than the server reads, so that it would not be taken later either.
        unfit: It answered, as another version or otherwise than the installed package says.
    """

    def __init__(
        self,
        fault: Fault,
        address: str,
        detail: str,
        *,
        unreachable: bool = False,
        broken: bool = False,
        too_large: bool = False,
        unfit: bool = False,
    ) -> None:
        self.fault = fault
        self.address = address
        self.detail = detail
        self.unreachable = unreachable
        self.broken = broken
        self.too_large = too_large
        self.unfit = unfit
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
        if fault is Fault.INVALID_INPUT and words.lower().startswith(_NO_SUCH_LABEL):
            fault = Fault.NOT_FOUND
        unreachable = fault is Fault.NOT_READY and any(text.lower() in words.lower() for text in _UNREACHABLE)
        broken = fault is Fault.NOT_READY and not unreachable and any(text in words.lower() for text in _BROKEN)
        too_large = fault is Fault.QUEUE_FULL and any(text in words.lower() for text in _TOO_LARGE)
        return cls(fault, address, words, unreachable=unreachable, broken=broken, too_large=too_large)

    @property
    def said(self) -> str:
        """What happened, with the server's own words."""
        kind = "can't be reached" if self.unreachable else self.fault.name.lower().replace("_", " ")
        kind = "too large" if self.too_large else "unfit answer" if self.unfit else kind
        return f"{kind}: {self.detail}"

    @property
    def alive(self) -> bool:
        """Whether a server that works said it."""
        return self.fault in _ALIVE or (self.passing and not self.broken)

    @property
    def refusal(self) -> bool:
        """Whether the server doesn't take the request as it is: it is set up otherwise, or the request is at fault.

        Requests are checked against the installed package or a server's own description before, so that it is the
        former as a rule, and another may take it.
        """
        return self.fault in _REFUSALS

    @property
    def apart(self) -> Apart:
        """Whether one of several requests that went together may be at fault, and how it is found."""
        if self.too_large or self.fault is Fault.INVALID_INPUT:
            return Apart.HALVES
        if self.unfit:
            return Apart.NO
        return Apart.SINGLY if self.fault in _OF_THE_RUN else Apart.NO

    @property
    def onward(self) -> Onward:
        """What it costs to ask another server."""
        if self.fault in _ABSENT or self.refusal:
            return Onward.FREE
        return Onward.SPARED if self.passing and not self.broken else Onward.PAID

    @property
    def passing(self) -> bool:
        """Whether the same server may well answer a moment later: it is loading, full, or lost one connection."""
        return (self.fault is Fault.QUEUE_FULL and not self.too_large) or (
            self.fault is Fault.NOT_READY and not self.unreachable
        )

    @property
    def lacking(self) -> bool:
        """Whether the server doesn't have the version, or isn't there."""
        return self.fault is Fault.NOT_FOUND or self.unreachable
