"""When a copy of a call goes to a second server: once the first has had longer than 95 in 100 of its answers took."""

from __future__ import annotations

import threading
from collections import deque

from edge_runtime.routing.budget import Budget

LEAST_ANSWERS = 50
"""Before so many the 95th percentile is a guess, and a copy would be sent on it."""

KEPT = 128
"""Answers that the percentile is of: it follows a server that changes, within some seconds of traffic."""

_RENEWED_AFTER = 8
"""Answers between two computations: each sorts all that are kept."""

_SHORTEST_S = 0.001
"""A copy takes a thread's waking and a call of its own: where servers answer sooner than that, nothing is gained."""

MAX_KINDS = 256
"""Servers and models whose times are kept."""


class _Times:
    """The latest times of one kind of call."""

    __slots__ = ("p95_s", "since", "took_s")

    def __init__(self) -> None:
        self.took_s: deque[float] = deque(maxlen=KEPT)
        self.since = _RENEWED_AFTER
        self.p95_s = 0.0

    def add(self, took_s: float) -> None:
        self.took_s.append(took_s)
        self.since += 1
        if len(self.took_s) >= LEAST_ANSWERS and self.since >= _RENEWED_AFTER:
            self.since = 0
            self.p95_s = sorted(self.took_s)[int(len(self.took_s) * 0.95)]


class Hedging:
    """What servers' answers take, and the budget for copies. Thread-safe.

    Attributes:
        budget: Counts requests: a call that carries many spends for each.
    """

    def __init__(self, budget: Budget) -> None:
        """Takes the budget, which copies of requests that run on the device may share."""
        self.budget = budget
        self._kinds: dict[tuple[str, str], _Times] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Hedging {self.budget!r}>"

    def took(self, address: str, model: str, took_s: float) -> None:
        """A call ended, or was given up for a copy that answered first: then it would have taken at least that."""
        key = (address, model)
        with self._lock:
            times = self._kinds.get(key)
            if times is None:
                while len(self._kinds) >= MAX_KINDS:
                    del self._kinds[next(iter(self._kinds))]
                times = self._kinds[key] = _Times()
            times.add(took_s)

    def after_s(self, address: str, model: str) -> float | None:
        """Seconds after which a call to that server may have a copy; None where too few answers are known."""
        with self._lock:
            times = self._kinds.get((address, model))
            if times is None or len(times.took_s) < LEAST_ANSWERS:
                return None
            return max(times.p95_s, _SHORTEST_S)
