"""A bound on what strangers can make the log say."""

from __future__ import annotations

import logging
from collections.abc import Callable

_PER_PERIOD = 10
_PERIOD_S = 60.0

_SHOWN = 100
"""Characters of a foreign text that are shown."""


def shown(text: str) -> str:
    """A foreign text for a log line: cut, and without control characters."""
    return ascii(text[:_SHOWN])


class LogLimit:
    """Passes on ten warnings a minute, and then says how many it kept back. Not thread-safe."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        """Takes the log, and monotonic seconds."""
        self._log = log
        self._clock = clock
        self._since_s = clock()
        self._count = 0

    def warning(self, text: str, *values: object) -> None:
        """Logs, or counts."""
        if self._clock() - self._since_s >= _PERIOD_S:
            if self._count > _PER_PERIOD:
                self._log.warning("%d further warnings of that kind were kept back", self._count - _PER_PERIOD)
            self._since_s, self._count = self._clock(), 0
        self._count += 1
        if self._count <= _PER_PERIOD:
            self._log.warning(text, *values)
