"""What one version has answered: requests, errors, latency, what its runs took, and divergence as a shadow."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fallback_server.batching.queue import BatchRun
from fallback_server.core.errors import ServerError
from fallback_server.core.servable import ServableId
from fallback_server.counts import StatisticCounts, add_buckets, add_counts, add_values

BOUNDS_S = tuple(1e-4 * 10 ** (step / 10) for step in range(61))
"""Upper ends of the latency buckets: 0.1 ms to 100 s, ten a decade, so that a percentile is right to some 12 %."""

MAX_SIZES = 256
"""Batch sizes that are told apart: a request may have any number of rows, and every size that was seen is kept."""

MAX_KEPT = 1024
"""Versions whose statistics outlive them."""

MAX_NOTED = 256
"""Answers that are noted before they are counted. To count many at once costs a fraction of counting each where it
comes: between two requests gRPC and the kernel run, and Python's own code has to come from memory again. Whoever brings
the last of them is held up by that: fewer would make more than one in a hundred late, more would make it later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a version has done since it was loaded first, in sums that only grow. Durations are in seconds.

    Attributes:
        answered: Requests that were answered.
        answered_s: How long they took, from when the data plane was asked.
        failed: Requests that were not answered, those that were refused at once among them.
        failed_s: How long they took.
        runs: How often the model was run with success.
        rows: That were asked for in those runs, without padding.
        requests: That were in those runs.
        queued_s: How long those requests waited, until their batch was put together.
        run_s: How long the runs took, each counted once for each request in it.
        sizes: Rows of a run -> how many runs had as many, and how long those took. The first `MAX_SIZES` that came.
        last_run_s: When the last of them ended, in seconds since the epoch; 0 before the first.
    """

    answered: int
    answered_s: float
    failed: int
    failed_s: float
    runs: int
    rows: int
    requests: int
    queued_s: float
    run_s: float
    sizes: Mapping[int, tuple[int, float]]
    last_run_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One version's figures since it was loaded first.

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
        uncompared: Requests that it got as a shadow and did not answer: they don't fit it, or it failed.
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
    uncompared: int = 0


class VersionStatistics:
    """Counts. Thread-safe; of bounded size: an error's name is a class of ours, and latencies go into buckets.

    Answers and runs are noted first, and counted when there are many, or when somebody asks.

    Args:
        wall_clock: Seconds since the epoch: when the last run was is told to others.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._took_s: list[float] = []
        # Plain numbers, four of each run: objects would have to be taken apart when they are counted.
        self._ran: list[float] = []
        self._ended_s = 0.0
        self._compared = 0
        self._diverged = 0
        self._difference = 0.0
        self._uncompared = 0
        self._begin()

    def _begin(self) -> None:
        """All that another process may be told, at nothing."""
        self._requests = 0
        self._errors: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._answers = 0
        self._sum_s = 0.0
        self._failed_s = 0.0
        self._runs = 0
        self._rows = 0
        self._run_requests = 0
        self._queued_s = 0.0
        self._run_s = 0.0
        self._sizes: dict[int, tuple[int, float]] = {}
        self._last_run_s = 0.0

    def settled(self, error: ServerError | None, took_s: float) -> None:
        """A request was answered, or refused."""
        if error is None:
            self._took_s.append(took_s)
            if len(self._took_s) >= MAX_NOTED:
                self._count()
            return
        with self._lock:
            self._requests += 1
            self._errors[type(error).__name__] += 1
            self._failed_s += took_s

    def ran(self, run: BatchRun) -> None:
        """A batch has run."""
        self._ended_s = self._wall_clock()
        self._ran.extend((run.rows, len(run.queued_s), sum(run.queued_s), run.run_s))
        if len(self._ran) >= 4 * MAX_NOTED:
            self._count()

    def compared(self, *, diverged: bool, difference: float) -> None:
        """It answered as a shadow, and so did the version that the caller got."""
        with self._lock:
            self._compared += 1
            self._diverged += diverged
            self._difference += difference

    def uncompared(self) -> None:
        """It did not answer what it got as a shadow."""
        with self._lock:
            self._uncompared += 1

    def take(self) -> StatisticCounts:
        """What it came to since the last time, comparisons left out; from now on it is counted anew."""
        self._count()
        with self._lock:
            taken = StatisticCounts(
                requests=self._requests,
                errors=dict(self._errors),
                buckets=self._buckets,
                answers=self._answers,
                answered_s=self._sum_s,
                failed_s=self._failed_s,
                runs=self._runs,
                rows=self._rows,
                run_requests=self._run_requests,
                queued_s=self._queued_s,
                run_s=self._run_s,
                sizes=self._sizes,
                last_run_s=self._last_run_s,
            )
            self._begin()
        return taken

    def add(self, counts: StatisticCounts) -> None:
        """Adds what the same version's statistics in another process have taken."""
        with self._lock:
            self._requests += counts.requests
            add_counts(self._errors, counts.errors)
            add_buckets(self._buckets, counts.buckets)
            self._answers += counts.answers
            self._sum_s += counts.answered_s
            self._failed_s += counts.failed_s
            self._runs += counts.runs
            self._rows += counts.rows
            self._run_requests += counts.run_requests
            self._queued_s += counts.queued_s
            self._run_s += counts.run_s
            self._last_run_s = max(self._last_run_s, counts.last_run_s)
            for rows, (count, total_s) in counts.sizes.items():
                mine, mine_s = self._sizes.get(rows, (0, 0.0))
                if mine or len(self._sizes) < MAX_SIZES:
                    self._sizes[rows] = (mine + count, mine_s + total_s)

    def figures(self) -> Figures:
        """As of now."""
        self._count()
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
                uncompared=self._uncompared,
            )

    def work(self) -> Work:
        """As of now."""
        self._count()
        with self._lock:
            return Work(
                answered=self._answers,
                answered_s=self._sum_s,
                failed=self._requests - self._answers,
                failed_s=self._failed_s,
                runs=self._runs,
                rows=self._rows,
                requests=self._run_requests,
                queued_s=self._queued_s,
                run_s=self._run_s,
                sizes=dict(self._sizes),
                last_run_s=self._last_run_s,
            )

    def _count(self) -> None:
        """Counts what was noted."""
        with self._lock:
            took_s = taken_off(self._took_s)
            add_values(self._buckets, BOUNDS_S, took_s)
            self._requests += len(took_s)
            self._answers += len(took_s)
            self._sum_s += sum(took_s)
            ran = taken_off(self._ran)
            if ran:
                self._last_run_s = self._ended_s
            self._run_requests += int(sum(ran[1::4]))
            self._queued_s += sum(ran[2::4])
            self._run_s += sum(map(operator.mul, ran[1::4], ran[3::4]))
            runs_s: dict[int, list[float]] = {}
            for rows, run_s in zip(ran[0::4], ran[3::4], strict=True):
                runs_s.setdefault(int(rows), []).append(run_s)
            for rows, each_s in runs_s.items():
                self._runs += len(each_s)
                self._rows += rows * len(each_s)
                count, total_s = self._sizes.get(rows, (0, 0.0))
                if count or len(self._sizes) < MAX_SIZES:
                    self._sizes[rows] = (count + len(each_s), total_s + sum(each_s))

    def _percentile_ms(self, share: float) -> float:
        """The upper end of the bucket that the percentile lies in."""
        wanted = math.ceil(share * self._answers)
        seen = 0
        for count, bound_s in zip(self._buckets, (*BOUNDS_S, BOUNDS_S[-1]), strict=True):
            seen += count
            if wanted and seen >= wanted:
                return bound_s * 1e3
        return 0.0


def taken_off(noted: list[float]) -> list[float]:
    """What was noted until now, taken out; what other threads note meanwhile stays, and none of it is lost."""
    count = len(noted)
    found = noted[:count]
    del noted[:count]
    return found


class KeptStatistics:
    """The statistics of versions by their numbers: one that is loaded anew goes on counting. Thread-safe.

    Of the `MAX_KEPT` versions that were loaded last; one of those before counts on as long as it is loaded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[ServableId, VersionStatistics] = {}

    def of(self, servable_id: ServableId) -> VersionStatistics:
        """Those of a version that is being loaded."""
        with self._lock:
            found = self._kept.pop(servable_id, None) or VersionStatistics()
            self._kept[servable_id] = found
            if len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        return found
