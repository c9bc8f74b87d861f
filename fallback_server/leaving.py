"""What a caller got that did not wait for its answer."""

from __future__ import annotations

from fallback_server.core.errors import DeadlineExceeded, RequestCancelled, ServerError

ROUNDING = 0.02
"""Of the time that a caller gives: gRPC sends it in a few digits, rounded up."""

TRANSIT_S = 0.01
"""The caller's time began when it sent the request, the server's when that came."""


def code_received(*, came_s: float, deadline_s: float | None, left_s: float) -> ServerError:
    """Whether a caller's time was over, or it has left for another reason.

    A caller whose time is over ends the call itself, by its own clock: a little before the deadline that came with it.

    Args:
        came_s: The instant at which the request came.
        deadline_s: The instant until which the caller waits; None for ever.
        left_s: The instant at which nobody waited any more.
    """
    if deadline_s is not None:
        slack_s = TRANSIT_S + ROUNDING * max(0.0, deadline_s - came_s)
        if left_s >= deadline_s - slack_s:
            return DeadlineExceeded("the deadline passed before the answer")
    return RequestCancelled("the caller cancelled the request")
