"""The rim: the server's errors become the faults that the wire knows."""

from __future__ import annotations

import logging

import grpc

from fallback_server.core import errors
from fallback_server.core.errors import ServerError
from fallback_server.core.servable import ServableState, State
from fallback_server.protocol.status import Fault

_log = logging.getLogger(__name__)

_FAULTS: dict[type[Exception], Fault] = {
    errors.InvalidInput: Fault.INVALID_INPUT,
    errors.SignatureNotFound: Fault.PRECONDITION,
    errors.PreconditionFailed: Fault.PRECONDITION,
    errors.PermissionDenied: Fault.PERMISSION,
    errors.Unauthenticated: Fault.UNAUTHENTICATED,
    errors.Unimplemented: Fault.UNIMPLEMENTED,
    errors.ModelNotFound: Fault.NOT_FOUND,
    errors.NotReady: Fault.NOT_READY,
    errors.NotServed: Fault.UNKNOWN,
    errors.QueueFull: Fault.QUEUE_FULL,
    errors.DeadlineExceeded: Fault.DEADLINE,
    errors.DataLost: Fault.DATA_LOSS,
    errors.ExecutionFailed: Fault.INTERNAL,
}


class PassedOn(ServerError):
    """Another process of this server has refused a call, with a code that stands for no fault of our own.

    Args:
        code: That code.
        text: What it said.

    Attributes:
        code: See above.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


MAX_TEXT_BYTES = 2000
"""A status text travels in the trailers, percent-encoded, and clients refuse trailers over 8 KiB: a longer text, with a
name in it that the caller made long, would cost the caller the code too."""

LEFT_TEXT = "the call is over"

INTERNAL_TEXT = "internal error; the server's log tells more"


def code_of(error: ServerError) -> str:
    """The name that gRPC has for a fault, for metrics."""
    if isinstance(error, errors.RequestCancelled):
        return grpc.StatusCode.CANCELLED.name  # Of a caller that has left; so nobody is ever answered with it.
    fault = _fault_of(error)
    return (Fault.INTERNAL if fault is None else fault).code.name


def fault_of_state(state: ServableState) -> Fault | None:
    """What a version's status says: why it was not loaded, or what it waits for; None where all is well."""
    if state.error is None:
        return None
    if state.resource_exhausted:
        return Fault.QUEUE_FULL
    return Fault.INTERNAL if state.state is State.END else Fault.NOT_READY


def translate(error: Exception) -> tuple[Fault, str]:
    """The fault and the text for the caller, cut where it would be too long to travel.

    What is no named error is logged, and its text kept from the caller; but for what gRPC says of a call that is over.
    """
    fault = _fault_of(error)
    if fault is not None:
        return fault, _cut(str(error))
    if isinstance(error, grpc.aio.BaseError):
        # gRPC can't read or write any more: an ordinary end of a stream, and nobody is left to be told.
        _log.debug("the caller has left: %s", error)
        return Fault.UNKNOWN, LEFT_TEXT
    _log.error("an error that has no name", exc_info=error)
    return Fault.INTERNAL, INTERNAL_TEXT


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The same in gRPC's terms; what was passed on keeps its code."""
    if isinstance(error, PassedOn):
        return error.code, _cut(str(error))
    fault, text = translate(error)
    return fault.code, text


def _fault_of(error: Exception) -> Fault | None:
    return next((_FAULTS[kind] for kind in type(error).__mro__ if kind in _FAULTS), None)


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) <= MAX_TEXT_BYTES:
        return text
    return data[:MAX_TEXT_BYTES].decode(errors="ignore") + "... (cut)"
