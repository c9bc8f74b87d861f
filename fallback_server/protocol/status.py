"""Faults and gRPC status codes: one table, used at both rims."""

from __future__ import annotations

import enum

import grpc


class Fault(enum.Enum):
    """What went wrong, apart from any transport. The value is the gRPC code that carries it."""

    INVALID_INPUT = grpc.StatusCode.INVALID_ARGUMENT
    """Bad shape, dtype or name. The device raises; it never retries and never falls back."""
    NOT_FOUND = grpc.StatusCode.NOT_FOUND
    """Unknown model or version. The device tries another endpoint."""
    NOT_READY = grpc.StatusCode.UNAVAILABLE
    """The version is loading or draining, or the server is going. The device retries within the deadline."""
    QUEUE_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
    """Refused at the door. The device backs off, or tries another endpoint."""
    DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
    """Too late. The device raises."""
    PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
    """Preprocessing, package digest or signature differ from what the caller believes. The device raises."""
    PERMISSION = grpc.StatusCode.PERMISSION_DENIED
    """The server's operator does not allow it to who calls. The caller raises."""
    UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
    """The server doesn't know who calls, or what was shown is worth nothing there. The caller raises."""
    UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
    """The other end has no such call."""
    UNKNOWN = grpc.StatusCode.UNKNOWN
    """A configuration was taken, and a model of it can't be served: TensorFlow Serving's code for that."""
    DATA_LOSS = grpc.StatusCode.DATA_LOSS
    """What is handed over is cut short where it lies. The device asks again later, or elsewhere."""
    INTERNAL = grpc.StatusCode.INTERNAL
    """Anything else. The device counts it against the endpoint."""

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code."""
        return self.value

    @classmethod
    def of(cls, code: grpc.StatusCode) -> Fault:
        """The fault that a code from the wire stands for; what is not in the table is INTERNAL."""
        return _BY_CODE.get(code, cls.INTERNAL)


_BY_CODE = {fault.value: fault for fault in Fault}
