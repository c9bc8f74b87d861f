"""What one run costs on this device: measured at load, followed while running."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_SMOOTHING = 0.1
"""Weight of the newest run. A tenth follows a throttling clock within some twenty runs and shrugs off one outlier."""

_MUST_SAVE = 0.9
"""A batch size is used if a row in it costs at most this share of a row alone: what saves less is within noise."""


class CostTable:
    """Seconds for a run, by rows. Written by whoever runs; a torn read costs one slightly old figure, so no lock.

    Attributes:
        sizes: The batch sizes that are formed, ascending; 1 is always there.
    """

    def __init__(self, seconds: dict[int, float]) -> None:
        """Takes measured seconds by batch size; 1 must be among them."""
        self._seconds = dict(seconds)
        self.sizes = tuple(paying_sizes(seconds))

    def __repr__(self) -> str:
        return "<CostTable " + ", ".join(f"{rows}: {s * 1e3:.3f} ms" for rows, s in sorted(self._seconds.items())) + ">"

    @property
    def largest(self) -> int:
        """The most rows that are worth a batch."""
        return self.sizes[-1]

    def record(self, rows: int, seconds: float) -> None:
        """Takes one run's time into account. Sizes that were never measured are scaled onto the nearest one."""
        size = self._nearest(rows)
        per_size = seconds * size / rows
        self._seconds[size] += _SMOOTHING * (per_size - self._seconds[size])

    def seconds(self, rows: int) -> float:
        """The time that these rows take in one run, or in as many full batches as they fill."""
        whole, rest = divmod(rows, self.largest)
        total = whole * self._seconds[self.largest]
        if rest:
            size = self._nearest(rest)
            total += self._seconds[size] * max(rest / size, 1 / size)
        return total

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
