"""How long runs of a loaded version take, as they are tried before it serves."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping

from fallback_server.executors.base import Array

LONG_RUN_S = 1e-3
"""What waking another thread takes counts beside shorter ones."""

_TIMED_S = 0.1
_TELLING_S = 0.3
"""A run that takes longer is timed once: a moment's noise is little of it."""

_MIN_RUNS, _MAX_RUNS = 3, 40


def least_s(run: Callable[[], object], *, progress: Callable[[], object] = lambda: None) -> float:
    """The least time of some runs, which whatever else the machine does meets least.

    One before them does not count, unless that took so long that it tells enough.

    Args:
        run: What is timed.
        progress: Called after each run.
    """

    def timed_s() -> float:
        begin_s = time.perf_counter()
        run()
        took_s = time.perf_counter() - begin_s
        progress()
        return took_s

    first_s = timed_s()
    if first_s > _TELLING_S:
        return first_s
    took_s: list[float] = []
    end_s = time.perf_counter() + _TIMED_S
    while len(took_s) < _MIN_RUNS or (len(took_s) < _MAX_RUNS and time.perf_counter() < end_s):
        took_s.append(timed_s())
    return min(took_s)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Timed:
    """A signature's runs, as it is tried.

    Args:
        run: Does one.
    """

    def __init__(self, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> None:
        self._run = run
        self._least_s = math.inf

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """One of them."""
        begin_s = time.perf_counter()
        outputs = self._run(inputs)
        self._least_s = min(self._least_s, time.perf_counter() - begin_s)
        return outputs

    @property
    def least_s(self) -> float:
        """How long the shortest took that has ended well; 0 where none has."""
        return 0.0 if self._least_s == math.inf else self._least_s
