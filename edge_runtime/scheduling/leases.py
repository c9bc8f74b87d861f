"""Who keeps a slot for some runs, where runs are short. Not thread-safe: the desk locks.

A lock that is always handed to who waits makes each use of it wait for a thread to wake (a convoy). So Go's sync.Mutex
lets threads that run win for up to 1 ms, and the kernel's readers-writer semaphore for some 4. Here a caller whose run
has ended finds its slot idle again when it comes back at once, for the time of a lease, though others wait; then the
slot goes to the one that waits first, for a lease of its own. Between two such changes nobody is woken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edge_runtime.scheduling.policy import LEASE_S, SHORT_RUN_S, may_be_passed
from edge_runtime.scheduling.queue import Entry
from edge_runtime.scheduling.slot import Slot

_AWAY_S = 0.0002
"""A caller that has not come back by then has gone: several times a thread's waking."""

_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.64
"""For so long nobody gets a lease when one was given in vain, and for twice as long after each further time: what is
lost by waiting for callers that don't come back stays below 2 %."""


class Leases:
    """What is known of the callers' habits.

    Attributes:
        guarded: Whether a worker looks after idle slots whose lease runs.
    """

    def __init__(self) -> None:
        self.guarded = False
        self._again_s = -math.inf
        self._pause_s = _PAUSE_S
        self._seen: dict[Slot, int] = {}

    def allowed(self, run_s: float, first: Entry, now_s: float) -> bool:
        """Whether callers may run past the first that waits, for a lease."""
        return run_s < SHORT_RUN_S and now_s >= self._again_s and self.suit(first, now_s)

    def suit(self, waiting: Entry, now_s: float) -> bool:
        """Whether a request may wait while others have leases."""
        return may_be_passed(waiting.waiting.deadline_s - now_s, waiting.request.priority)

    def start(self, slot: Slot, now_s: float) -> None:
        """The slot is somebody's from now on."""
        slot.lease_until_s = now_s + LEASE_S

    def used(self, slot: Slot) -> None:
        """A caller came back."""
        slot.uses += 1
        self._pause_s = _PAUSE_S

    def watch(self, idle: Iterable[Slot]) -> float:
        """A worker looks after the slots: for how long it sleeps."""
        self.guarded = True
        self._seen = {slot: slot.uses for slot in idle}
        return _AWAY_S if self._seen else LEASE_S / 2

    def unclaimed(self, idle: Iterable[Slot], now_s: float, *, slept: bool) -> Slot | None:
        """An idle slot that is nobody's any more.

        Args:
            idle: The idle slots.
            now_s: The instant.
            slept: Whether the worker has slept as long as `watch` said.
        """
        for slot in idle:
            if now_s >= slot.lease_until_s:
                return slot
            if slept and self._seen.get(slot) == slot.uses:
                self._again_s = now_s + self._pause_s
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
                return slot
        return None
