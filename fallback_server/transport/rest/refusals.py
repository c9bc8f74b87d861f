"""The rim towards HTTP: faults become status codes and bodies of `{"error": "<text>"}`."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from fallback_server.core.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    QueueFull,
    ServerError,
    ServerStopping,
)
from fallback_server.protocol.status import Fault
from fallback_server.transport.faults import translate
from fallback_server.transport.rest.json_codec import dump

JSON = "application/json"

HTTP_CODES: dict[Fault, int] = {
    Fault.INVALID_INPUT: 400,
    Fault.PRECONDITION: 400,
    Fault.UNAUTHENTICATED: 401,
    Fault.PERMISSION: 403,
    Fault.NOT_FOUND: 404,
    Fault.QUEUE_FULL: 429,
    Fault.UNKNOWN: 500,
    Fault.DATA_LOSS: 500,
    Fault.INTERNAL: 500,
    Fault.UNIMPLEMENTED: 501,
    Fault.NOT_READY: 503,
    Fault.DEADLINE: 504,
}
"""As TensorFlow Serving maps them. Stated for itself: what HTTP says of a fault follows from no other table."""

_TOO_LATE, _TOO_LARGE, _UNAVAILABLE = 408, 413, 503

_COUNTED: dict[int, type[ServerError]] = {
    _TOO_LATE: DeadlineExceeded,
    _TOO_LARGE: QueueFull,
    _UNAVAILABLE: ServerStopping,
}

CLIENT_GONE = 499
"""Nobody reads it; it is for whoever counts."""


class HttpRefused(Exception):
    """What HTTP itself refuses, before it is a request of ours.

    Attributes:
        status: The HTTP code.
        headers: That the code asks for.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


def refusal(error: Exception) -> Response:
    """The response that tells of an error. What has no name is logged, and its text kept back."""
    if isinstance(error, HttpRefused):
        return Response(_document(str(error)), error.status, dict(error.headers or {}), JSON)
    fault, text = translate(error)
    # RFC 9110, section 11.6.1: whoever is told 401 is told what to show.
    headers = {"www-authenticate": 'Bearer realm="fallback-server"'} if fault is Fault.UNAUTHENTICATED else None
    return Response(_document(text), HTTP_CODES[fault], headers, JSON)


def counted_as(error: Exception) -> ServerError:
    """What an error is in the metrics, which know gRPC's codes: those that the same fault has over gRPC."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, HttpRefused):
        return _COUNTED.get(error.status, InvalidInput)(str(error))
    return ExecutionFailed("internal error")


def _document(text: str) -> bytes:
    """JSON has no half of a surrogate pair, and a text may quote a caller's."""
    return dump({"error": text.encode(errors="replace").decode()})
