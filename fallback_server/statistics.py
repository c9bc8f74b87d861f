"""What one version has answered, beside what the others have: requests, errors, latency, and divergence as a shadow."""

from __future__ import annotations

import bisect
import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fallback_server.core.errors import ServerError

BOUNDS_S = tuple(1e-4 * 10 ** (step / 10) for step in range(61))
"""Upper ends of the latency buckets: 0.1 ms to 100 s, ten a decade, so that a percentile is right to some 12 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One version's figures since it was loaded.

    Attributes:
        requests: How many were settled.
        errors: How many of them failed, by the error's name.
        mean_ms: Of the answers' latency, from when the data plane was asked; 0 before the first.
        p50_ms: Half of the answers took no longer.
        p95_ms: Likewise, 95 of 100.
        p99_ms: Likewise, 99 of 100.
        compared: Requests that it answered as another version's shadow, and that the other answered too.
        diverged: Those of them in which the answers differed by more than the tolerance.
        mean_divergence: Over those compared; see `shadowing.divergence`.
    """

    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    compared: int = 0
    diverged: int = 0
    mean_divergence: float = 0.0


class VersionStatistics:
    """Counts. Thread-safe; of bounded size: an error's name is a class of ours, and latencies go into buckets."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._errors: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._answers = 0
        self._sum_s = 0.0
        self._compared = 0
        self._diverged = 0
        self._difference = 0.0

    def settled(self, error: ServerError | None, took_s: float) -> None:
        """A request was answered, or refused."""
        with self._lock:
            self._requests += 1
            if error is not None:
                self._errors[type(error).__name__] += 1
                return
            self._answers += 1
            self._sum_s += took_s
            self._buckets[bisect.bisect_left(BOUNDS_S, took_s)] += 1

    def compared(self, *, diverged: bool, difference: float) -> None:
        """It answered as a shadow, and so did the version that the caller got."""
        with self._lock:
            self._compared += 1
            self._diverged += diverged
            self._difference += difference

    def figures(self) -> Figures:
        """As of now."""
        with self._lock:
            return Figures(
                requests=self._requests,
                errors=dict(self._errors),
                mean_ms=self._sum_s / self._answers * 1e3 if self._answers else 0.0,
                p50_ms=self._percentile_ms(0.50),
                p95_ms=self._percentile_ms(0.95),
                p99_ms=self._percentile_ms(0.99),
                compared=self._compared,
                diverged=self._diverged,
                mean_divergence=self._difference / self._compared if self._compared else 0.0,
            )

    def _percentile_ms(self, share: float) -> float:
        """The upper end of the bucket that the percentile lies in."""
        wanted = math.ceil(share * self._answers)
        seen = 0
        for count, bound_s in zip(self._buckets, (*BOUNDS_S, BOUNDS_S[-1]), strict=True):
            seen += count
            if wanted and seen >= wanted:
                return bound_s * 1e3
        return 0.0
