"""What one run costs on this device: measured at load, followed while running."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_SMOOTHING = 0.25
"""Weight of the newest run."""

_LARGEST_STEP = 2.0
"""A run counts as at most so many times the estimate: one hiccup of any length adds a quarter to it, and a device that
really is ten times slower is known as such after a dozen runs."""

_HALF_LIFE_S = 1.0
"""While nothing runs here an estimate goes back to the best that was measured, at this pace: a slow run that keeps all
later ones away would never be put right."""

_MUST_SAVE = 0.9
"""A batch size is used if a row in it costs at most this share of a row alone: what saves less is within noise."""


class CostTable:
    """Seconds for a run, by rows. Written by whoever runs; a torn read costs one slightly old figure, so no lock.

    Attributes:
        sizes: The batch sizes that are formed, ascending; 1 is always there.
    """

    def __init__(self, seconds: dict[int, float], clock: Callable[[], float]) -> None:
        """Takes measured seconds by batch size, 1 among them, and monotonic seconds."""
        self._seconds = dict(seconds)
        self._best = dict(seconds)
        self._clock = clock
        self._ran_s = clock()
        self.sizes = tuple(paying_sizes(seconds))

    def __repr__(self) -> str:
        return "<CostTable " + ", ".join(f"{rows}: {s * 1e3:.3f} ms" for rows, s in sorted(self._seconds.items())) + ">"

    @property
    def largest(self) -> int:
        """The most rows that are worth a batch."""
        return self.sizes[-1]

    def record(self, rows: int, seconds: float) -> None:
        """Takes one run's time into account: scaled onto the smallest size that holds the rows.

        A run of more rows than the largest size says nothing of the batches that are formed.
        """
        now_s = self._clock()
        if rows <= self.largest:
            size = self._nearest(rows)
            estimate = self._now(size, now_s)
            sample = min(seconds * size / rows, estimate * _LARGEST_STEP)
            self._seconds[size] = estimate + _SMOOTHING * (sample - estimate)
            self._best[size] = min(self._best[size], sample)
        self._ran_s = now_s

    def seconds(self, rows: int) -> float:
        """The time that these rows take in one run, or in as many full batches as they fill."""
        now_s = self._clock()
        whole, rest = divmod(rows, self.largest)
        total = whole * self._now(self.largest, now_s)
        if rest:
            size = self._nearest(rest)
            total += self._now(size, now_s) * rest / size
        return total

    def _now(self, size: int, now_s: float) -> float:
        """The estimate for a size, with what has been forgotten since the last run."""
        estimate, best = self._seconds[size], self._best[size]
        idle_s = now_s - self._ran_s
        if estimate <= best or idle_s < _HALF_LIFE_S / 10:
            return estimate
        forgotten: float = 0.5 ** (idle_s / _HALF_LIFE_S)
        return best + (estimate - best) * forgotten

    def _nearest(self, rows: int) -> int:
        """The smallest size that holds the rows, else the largest."""
        for size in self.sizes:
            if size >= rows:
                return size
        return self.largest


def paying_sizes(seconds: dict[int, float]) -> list[int]:
    """The batch sizes worth forming: each cheaper a row than the last one taken, by more than noise. Pure."""
    taken = [1]
    for size in sorted(size for size in seconds if size > 1):
        if seconds[size] / size <= _MUST_SAVE * seconds[taken[-1]] / taken[-1]:
            taken.append(size)
    return taken


def measure(
    run: Callable[[int], None], sizes: Iterable[int], clock: Callable[[], float], budget_s: float
) -> dict[int, float]:
    """Times one run for each size: the best of several, since only delays are added by noise.

    Args:
        run: Runs that many rows once.
        sizes: Ascending, 1 first.
        clock: Monotonic seconds.
        budget_s: Sizes are left out once this much time has gone, so that a large model loads without delay.

    Returns:
        Seconds by size; 1 is always there.
    """
    started_s = clock()
    seconds: dict[int, float] = {}
    for size in sizes:
        if seconds and clock() - started_s > budget_s:
            break
        run(size)  # The first run plans the graph and touches the weights; it says nothing of the later ones.
        seconds[size] = min(_timed(run, size, clock) for _ in range(_REPEATS))
    return seconds


_REPEATS = 3


def _timed(run: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    before_s = clock()
    run(size)
    return clock() - before_s
