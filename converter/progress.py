"""What a conversion says while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a conversion has begun or ended.

    Attributes:
        done: Steps finished so far.
        total: Steps in all.
        text: What goes on now, or how the last step ended, for a person to read.
        log: Where a step failed: the end of what its process wrote.
    """

    done: int
    total: int
    text: str
    log: str = ""


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Says nothing."""


class Counter:
    """Counts steps and reports them, one at a time whatever thread they come from."""

    def __init__(self, progress: Progress, total: int) -> None:
        """Begins at 0 of `total`."""
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def expect(self, steps: int) -> None:
        """There are that many more steps than was thought."""
        with self._lock:
            self._total += steps

    def begin(self, text: str) -> None:
        """A step has begun, or has got further."""
        with self._lock:
            self._progress(Step(done=self._done, total=self._total, text=text))

    def end(self, text: str = "", *, log: str = "", steps: int = 1) -> None:
        """`steps` steps are over; more than one where what would follow is not done."""
        with self._lock:
            self._done += steps
            self._progress(Step(done=self._done, total=self._total, text=text, log=log))
