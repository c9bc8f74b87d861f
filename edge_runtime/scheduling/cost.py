"""What one run costs on this device: measured at load, followed while running, told at the clock of the moment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

_SMOOTHING = 0.25
"""Weight of the newest run in the mean and in the mean deviation. (Jacobson and Karels, "Congestion Avoidance and
Control", 1988, whose estimator of a round trip's mean and mean deviation this is, take 1/8 and 1/4: they have a sample
a round trip to follow a whole network; here it is one device that heats up, and each sample counts.)"""

_DEVIATIONS = 4.0
"""Mean deviations above the mean within which a run surely ends: theirs too (RFC 6298 keeps it)."""

_LARGEST_STEP = 2.0
"""A run counts as at most so many times the estimate: one hiccup of any length adds a quarter to it, and a device that
really is ten times slower is known as such after a dozen runs."""

_MUST_SAVE = 0.9
"""A batch size is used if a row in it costs at most this share of a row alone: what saves less is within noise."""

_PROBE_S = 1.0
"""How often a request is let through to a device whose estimate keeps all of them away: a slow run that is never
followed by another would never be put right."""


_DOUBT_S = 10.0
"""The same where throttling alone explains why it is too slow: most of these are lost, but what waits for memory is
slowed by less than the clock says, and nothing but a run tells."""


class HasFactor(Protocol):
    """By what runs take longer than at full clock, at this moment; at least 1."""

    @property
    def factor(self) -> float:
        """Read at every prediction."""
        ...


class Pace:
    """One device's factor: see `edge_runtime.thermal`, which writes it.

    Attributes:
        factor: As of `HasFactor`.
    """

    __slots__ = ("factor",)

    def __init__(self, factor: float = 1.0) -> None:
        """Takes the factor of the moment."""
        self.factor = factor

    def __repr__(self) -> str:
        return f"<Pace {self.factor:g}>"


class SlowestPace:
    """Of several devices in a row, whose stages wait for the slowest."""

    def __init__(self, paces: Sequence[HasFactor]) -> None:
        """Takes at least one."""
        self._paces = paces

    def __repr__(self) -> str:
        return f"<SlowestPace of {self._paces}>"

    @property
    def factor(self) -> float:
        """The largest of all."""
        return max(one.factor for one in self._paces)


FULL_CLOCK = Pace()
"""Of what never throttles, or says nothing of it. Nobody writes it."""


class CostTable:
    """Seconds for a run, by rows. Written by whoever runs; a torn read costs one slightly old figure, so no lock.

    Kept at full clock: what was recorded while the device was throttled is divided by its factor, and what is told is
    multiplied by the factor of the moment. So predictions are longer in the second in which a device slows down, and
    short again when it has cooled.

    Attributes:
        sizes: The batch sizes that are formed, ascending; 1 is always there.
        largest: The most rows that are worth a batch.
    """

    def __init__(self, seconds: dict[int, float], clock: Callable[[], float], pace: HasFactor = FULL_CLOCK) -> None:
        """Takes what was measured.

        Args:
            seconds: By batch size, 1 among them, at full clock.
            clock: Monotonic seconds.
            pace: The device's.
        """
        self._pace = pace
        self.sizes = tuple(paying_sizes(seconds))
        self.largest = self.sizes[-1]
        self._seconds = dict(seconds)
        self._deviation = dict.fromkeys(seconds, 0.0)
        self._best = min(value / size for size, value in seconds.items())
        # Requests of more rows than the largest batch run alone, and their rows are a kind of their own.
        self._large_row_s = seconds[self.largest] / self.largest
        self._large_row_deviation_s = 0.0
        self._clock = clock
        self._ran_s = clock()

    def __repr__(self) -> str:
        return "<CostTable " + ", ".join(f"{rows}: {s * 1e3:.3f} ms" for rows, s in sorted(self._seconds.items())) + ">"

    def record(self, rows: int, seconds: float, now_s: float | None = None) -> None:
        """Takes one run's time into account: scaled onto full clock and the smallest size that holds the rows.

        Args:
            rows: What ran.
            seconds: For how long.
            now_s: The instant, if it is at hand.
        """
        self._ran_s = self._clock() if now_s is None else now_s
        seconds /= self._pace.factor
        if rows > self.largest:
            row_s = self._large_row_s
            sample = min(seconds / rows, row_s * _LARGEST_STEP)
            self._large_row_deviation_s += _SMOOTHING * (abs(sample - row_s) - self._large_row_deviation_s)
            self._large_row_s = row_s + _SMOOTHING * (sample - row_s)
            return
        size = rows if rows == 1 else self._nearest(rows)
        mean_s = self._seconds[size]
        sample_s = seconds * size / rows
        error_s = sample_s - mean_s if sample_s < mean_s * _LARGEST_STEP else mean_s * _LARGEST_STEP - mean_s
        deviation_s = self._deviation[size]
        self._deviation[size] = deviation_s + _SMOOTHING * (abs(error_s) - deviation_s)
        self._seconds[size] = mean_s + _SMOOTHING * error_s

    def seconds(self, rows: int) -> float:
        """The time that one run of these rows takes."""
        if rows > self.largest:
            return rows * self._large_row_s * self._pace.factor
        size = 1 if rows == 1 else self._nearest(rows)
        return self._seconds[size] * rows / size * self._pace.factor

    def sure_seconds(self, rows: int) -> float:
        """The time within which one run of these rows surely ends: the mean and four mean deviations."""
        if rows > self.largest:
            return rows * (self._large_row_s + _DEVIATIONS * self._large_row_deviation_s) * self._pace.factor
        size = self._nearest(rows)
        return (self._seconds[size] + _DEVIATIONS * self._deviation[size]) * rows / size * self._pace.factor

    def row_seconds(self, rows: int) -> float:
        """The time that a row takes in the runs that are made of waiting requests of so many rows each."""
        if rows > self.largest:
            return self._large_row_s * self._pace.factor
        return self._seconds[self.largest] / self.largest * self._pace.factor

    def probe(self, rows: int, limit_s: float) -> bool:
        """Whether a request should be tried here in spite of its estimate: now and then, if it was fast enough once."""
        now_s = self._clock()
        best_s = rows * self._best
        wait_s = _PROBE_S if best_s * self._pace.factor <= limit_s else _DOUBT_S
        if now_s - self._ran_s < wait_s or best_s > limit_s:
            return False
        self._ran_s = now_s
        return True

    def _nearest(self, rows: int) -> int:
        """The smallest size that holds the rows."""
        return self.sizes[bisect_left(self.sizes, rows)]


class DeviceCosts:
    """What a request costs on a version's slots: alone on the one, under load on the others.

    Attributes:
        alone: Of the slot that a request runs on when nothing else does.
        loaded: Of those that run the queue.
    """

    def __init__(self, alone: CostTable, loaded: CostTable) -> None:
        """Takes both tables; they may be one."""
        self.alone = alone
        self.loaded = loaded

    def __repr__(self) -> str:
        return repr(self.loaded) if self.alone is self.loaded else f"<alone {self.alone!r}, loaded {self.loaded!r}>"

    def seconds(self, rows: int) -> float:
        """The time of one run of these rows that has the device to itself."""
        return self.alone.seconds(rows)

    def row_seconds(self, rows: int) -> float:
        """The time that a row takes in the runs that are made of waiting requests of so many rows each."""
        return self.loaded.row_seconds(rows)

    def probe(self, rows: int, limit_s: float) -> bool:
        """See `CostTable`."""
        return self.alone.probe(rows, limit_s)


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
