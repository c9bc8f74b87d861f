"""What a conversion says while it runs."""

from __future__ import annotations

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
    """Counts steps and reports them."""

    def __init__(self, progress: Progress, total: int) -> None:
        """Begins at 0 of `total`."""
        self._progress = progress
        self._total = total
        self._done = 0

    def begin(self, text: str) -> None:
        """The next step has begun."""
        self._progress(Step(done=self._done, total=self._total, text=text))

    def end(self, text: str = "", *, log: str = "", steps: int = 1) -> None:
        """`steps` steps are over; more than one where what would follow is not done."""
        self._done += steps
        self._progress(Step(done=self._done, total=self._total, text=text, log=log))
