"""How many extra requests may be sent: a share of the first ones, so that retries and hedges can't become the load."""

from __future__ import annotations

import threading

RETRY_SHARE = 0.10
"""Retries for each first request: where all servers fail, they see a tenth more, not a multiple."""

HEDGE_SHARE = 0.05
"""Copies for each first request: those past the 95th percentile are about so many."""

BURST = 10
"""Extras that may follow upon each other: a device that sends little may still send each of its requests again."""

_ROUNDING = 1e-9
"""What sums of shares may miss of a whole."""


class Budget:
    """A token bucket that first requests fill and extra ones empty: counted by requests, not by time. Thread-safe."""

    def __init__(self, share: float, burst: float) -> None:
        """Takes the bounds. It begins full.

        Args:
            share: Extras that each first request allows, above 0.
            burst: The most extras that are kept for later, at least 1.

        Raises:
            ValueError: a bound is out of its range.
        """
        if not share > 0:
            raise ValueError(f"share is above 0, not {share}")
        if not burst >= 1:
            raise ValueError(f"burst is at least 1, not {burst}")
        self._share = share
        self._burst = burst
        self._extras = float(burst)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Budget of {self._share:g} a request, {self._extras:.2f} of {self._burst:g} left>"

    def earn(self, requests: int = 1) -> None:
        """So many first requests are sent."""
        with self._lock:
            self._extras = min(self._extras + self._share * requests, self._burst)

    def spend(self, requests: int = 1) -> bool:
        """Whether so many extra requests may be sent; if so, they count as sent."""
        with self._lock:
            if self._extras < requests - _ROUNDING:
                return False
            self._extras -= requests
            return True

    def give_back(self, requests: int = 1) -> None:
        """Extras that were spent were not sent after all."""
        with self._lock:
            self._extras = min(self._extras + requests, self._burst)
