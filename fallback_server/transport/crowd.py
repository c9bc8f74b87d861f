"""How many small requests are answered together: as many as come while the event loop has no rest anyway. Pure."""

from __future__ import annotations

MOST = 16
"""Requests that are answered together at most. What each costs hardly gets less with more of them."""

PROBE = 4
"""Requests that are answered together at most while it is tried out whether several come at a time."""

_MANY = 1.5
_FEW = 1.25
"""So many on average have come when the loop has nothing else to do, from which on, and up to which, it is a crowd."""

_IDLE = 0.5
"""Of the time in which groups gather, that the loop has nothing to do: where it is more, none need be saved."""

_SHARE = 1 / 8
"""What the latest group counts for in averages."""

_LONGEST_PAUSE = 256
"""One of so many requests at least tries out whether several come at a time."""

_LONGEST_REST = 512
"""After so many groups at most it is tried again whether larger ones fill."""


class Crowd:
    """Says which requests wait for company, and for how much of it.

    A request alone costs most around its run, in code that was driven out of the caches by what gRPC does between two
    requests. Those that are answered one right after the other, or by one run, share that. But whoever waits for others
    that don't come waits in vain: so none waits unless several were seen to come at a time, and a group that didn't
    fill makes those after it smaller.

    Attributes:
        size: How many are wanted; with less than two nobody waits.
    """

    def __init__(self) -> None:
        self.size = 1
        self._usual = 1.0
        self._idle = 0.0
        self._pause = 1
        self._passed = 0
        self._rest = 1
        self._rested = 0

    @property
    def most(self) -> int:
        """How many are answered together at most now."""
        return self.size if self.size > 1 else PROBE

    def joins(self) -> bool:
        """Whether the next request is to be answered together with those that come just then."""
        if self.size > 1:
            return True
        self._passed += 1
        return self._passed >= self._pause

    def gathered(self, count: int, *, in_vain: bool, idle: float = 0.0) -> None:
        """A group was answered.

        Args:
            count: How many they were.
            in_vain: Whether it was waited for more, and none came. Those that are not full for another reason have
                waited for as long as may be.
            idle: In which share of the time since the first came the loop had nothing to do.
        """
        self._usual += (count - self._usual) * _SHARE
        self._idle += (idle - self._idle) * _SHARE
        if self.size < 2:
            self._tried(count)
        elif self._usual < _FEW or self._idle > _IDLE:
            self._be_alone()
        elif count < self.size:
            # In vain, half: so the next of the same callers come while these are run.
            self.size = count // 2 if in_vain else count
            self._rest, self._rested = min(2 * self._rest, _LONGEST_REST), 0
            if self.size < 2:
                self._be_alone()
        elif self.size < MOST:
            self._rested += 1
            if self._rested >= self._rest:
                self.size += 1

    def _tried(self, count: int) -> None:
        self._passed = 0
        if self._usual >= _MANY:
            self.size, self._rest, self._rested = 2, 1, 0
        else:
            self._pause = 1 if count > 1 else min(2 * self._pause, _LONGEST_PAUSE)

    def _be_alone(self) -> None:
        self.size, self._usual, self._idle = 1, 1.0, 0.0
        self._pause, self._passed = _LONGEST_PAUSE, 0
