"""What a call to a server is for, and what all such calls share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.hedging import Hedging
from edge_runtime.remote.retries import Retries
from edge_runtime.remote.timers import Later


@dataclass(frozen=True, kw_only=True)
class Means:
    """What all journeys share.

    Attributes:
        endpoints: Whom to ask.
        later: For the waits between rounds, and before a copy.
        clock: Monotonic seconds.
        timeout_s: The longest that one call may take.
        retries: Says whether a further endpoint may be asked.
        hedging: Says when a copy may go to another endpoint; None for never.
    """

    endpoints: EndpointTable
    later: Later
    clock: Callable[[], float]
    timeout_s: float
    retries: Retries
    hedging: Hedging | None = None


class Trip:
    """What a journey is for.

    Attributes:
        subject: `digits/3`, for messages.
        wanted: What an endpoint must have, and what has to be sent.
        start_s: The instant at which the caller asked.
        deadline_s: The instant after which an answer is worthless; None for never.
        patient: Whether to ask again, after a while, servers that are loading or full: nobody else can answer.
        requests: How many it carries; 0 for a question.
        hedged: Whether a copy may be sent.
        deadlines_s: The first and the last of those that it carries; none for none.
    """

    __slots__ = ("deadline_s", "deadlines_s", "hedged", "patient", "requests", "start_s", "subject", "wanted")

    def __init__(
        self,
        subject: str,
        wanted: Wanted,
        start_s: float,
        deadline_s: float | None,
        *,
        patient: bool,
        requests: int = 1,
        soonest_s: float | None = None,
        hedged: bool = False,
    ) -> None:
        self.deadlines_s = tuple(one for one in (soonest_s, deadline_s) if one is not None)
        self.subject = subject
        self.wanted = wanted
        self.start_s = start_s
        self.deadline_s = deadline_s
        self.patient = patient
        self.requests = requests
        self.hedged = hedged
