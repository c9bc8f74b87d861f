"""The rim: the server's errors become the faults that the wire knows."""

from __future__ import annotations

import logging

from fallback_server.core import errors
from fallback_server.protocol.status import Fault

_log = logging.getLogger(__name__)

_FAULTS: dict[type[Exception], Fault] = {
    errors.InvalidInput: Fault.INVALID_INPUT,
    errors.SignatureNotFound: Fault.PRECONDITION,
    errors.ModelNotFound: Fault.NOT_FOUND,
    errors.VersionNotReady: Fault.NOT_READY,
    errors.ServerStopping: Fault.NOT_READY,
    errors.QueueFull: Fault.QUEUE_FULL,
    errors.DeadlineExceeded: Fault.DEADLINE,
    errors.ExecutionFailed: Fault.INTERNAL,
}

INTERNAL_TEXT = "internal error; the server's log tells more"


def translate(error: Exception) -> tuple[Fault, str]:
    """The fault and the text for the caller. What is no named error is logged, and its text kept from the caller."""
    fault = _FAULTS.get(type(error))
    if fault is not None:
        return fault, str(error)
    _log.error("an error that has no name", exc_info=error)
    return Fault.INTERNAL, INTERNAL_TEXT
