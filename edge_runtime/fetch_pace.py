"""How fast packages may come: what comes too soon is made up for by not reading on, so that the sender waits."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator

_SLACK_S = 1e-3
"""A wait that ends so much too early is none."""


class Pace:
    """Holds a fetch back. For one thread, but for `end`."""

    def __init__(self, bytes_s: float | None, clock: Callable[[], float]) -> None:
        """Takes the bound, in bytes a second on the average, and monotonic seconds; None for no bound."""
        self._bytes_s = bytes_s
        self._clock = clock
        self._paid_s = -math.inf
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<Pace {self._bytes_s} bytes/s>"

    @property
    def bounded(self) -> bool:
        """Whether there is a bound."""
        return self._bytes_s is not None

    @property
    def wait_s(self) -> float:
        """How long no more is to be asked for; 0 where it may come."""
        return max(self._paid_s - self._clock(), 0.0)

    def paced(self, chunks: Iterable[bytes], until_s: float) -> Iterator[bytes]:
        """The same chunks, no faster than they may come; they end where none may come before an instant."""
        for chunk in chunks:
            if self._bytes_s is not None:
                self._paid_s = max(self._paid_s, self._clock()) + len(chunk) / self._bytes_s
            yield chunk
            self.hold_back(until_s)
            if self.wait_s > _SLACK_S and not self._ended.is_set():
                return

    def hold_back(self, until_s: float) -> None:
        """Waits until more may come, or until then, or until it is ended."""
        wait_s = min(self.wait_s, until_s - self._clock())
        if wait_s > 0:
            self._ended.wait(wait_s)

    def end(self) -> None:
        """Nobody waits any more. May be called by any thread."""
        self._ended.set()
