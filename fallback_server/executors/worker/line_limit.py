"""How much of what a worker prints comes into the server's log: a model that prints at each run must not fill it."""

from __future__ import annotations

from collections.abc import Callable

LINES_A_SECOND = 50
"""TensorFlow's longest report of an abort, with its stack, has some forty."""

_WINDOW_S = 1.0


class LineLimit:
    """Counts lines, in seconds that begin with a line. One thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end_s = -float("inf")
        self._lines = 0
        self._left_out = 0

    def admits(self) -> bool:
        """Whether one line more is to be logged; counts it."""
        now_s = self._clock()
        if now_s >= self._end_s:
            self._end_s, self._lines = now_s + _WINDOW_S, 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            return True
        self._left_out += 1
        return False

    def taken_left_out(self) -> int:
        """How many lines were left out since this was last asked."""
        left_out, self._left_out = self._left_out, 0
        return left_out
