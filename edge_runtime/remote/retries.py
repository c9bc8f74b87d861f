"""How often requests may be asked again: a tenth of those that are sent, and a trickle for those that can only wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.routing.budget import BURST, RETRY_SHARE, Budget

TRICKLE_S = 0.25
"""A device that sends little earns little: so often a request that nobody else can answer is asked again all the same,
whatever the others did. Four calls a second are no load, and find a model that has been loaded."""


class Retries:
    """The budget that all journeys share; it counts calls, of which one may carry many requests. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds."""
        self._clock = clock
        self._budget = Budget(RETRY_SHARE, BURST)
        self._trickled_s = float("-inf")
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Retries {self._budget!r}>"

    def earn(self) -> None:
        """A first call is sent."""
        self._budget.earn()

    def spend(self, *, patient: bool) -> bool:
        """Whether a further call may be sent; if so, it counts as sent.

        Args:
            patient: Whether it has waited for its turn, as those do that nobody else can answer.
        """
        return self._budget.spend() or (patient and self._trickle())

    def give_back(self) -> None:
        """A further call was not sent after all."""
        self._budget.give_back()

    def _trickle(self) -> bool:
        now_s = self._clock()
        with self._lock:
            if now_s - self._trickled_s < TRICKLE_S:
                return False
            self._trickled_s = now_s
            return True
