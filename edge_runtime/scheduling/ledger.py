"""What a batcher knows, and how it is put right when a caller was interrupted between two steps."""

from __future__ import annotations

import math
import threading
from _thread import LockType, get_ident
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from converter.artifact import Signature
from edge_runtime.scheduling.arrivals import Arrivals
from edge_runtime.scheduling.leases import Leases
from edge_runtime.scheduling.queue import Entry, RequestQueue
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.slots import SlotTable
from edge_runtime.scheduling.stats import BatcherStats


class Ledger:
    """Queue, slots and counts of a batcher. Thread-safe; those with an underscore are for who has the lock.

    Attributes:
        lock: Guards everything here.
        slots: The slots. Its tuples are swapped whole, so that they may be read without the lock.
        queue: What waits.
        stats: The counts.
        running_rows: Rows that run now.
        closed: Whether it refuses.
        expecting: Whether requests wait where there is no slot, since one is being made.
        sleepers: The bare locks of the workers that sleep; releasing one wakes it.
        workers: Those of all workers.
        known: The slots in use, and those out of use that are still taken.
    """

    def __init__(self, signatures: dict[str, Signature], queue: RequestQueue, clock: Callable[[], float]) -> None:
        """Takes what the batcher was given."""
        self.lock = threading.Lock()
        self.settled = threading.Condition(self.lock)
        self.slots = SlotTable()
        self.queue = queue
        self.retries: deque[Entry] = deque()
        self.stats = BatcherStats()
        self.running_rows = 0
        self.closed = False
        self.expecting = False
        self.sleepers: list[LockType] = []
        self.workers: list[LockType] = []
        self.known: list[Slot] = []
        self._handed: dict[int, Entry] = {}
        self._signatures = signatures
        self._clock = clock
        self._settling = 0
        self._arrivals = Arrivals()
        self._leases = Leases()
        self._pressed_s = -math.inf

    def handed(self) -> None:
        """Whom this thread has given its slot has been woken."""
        self._handed.pop(get_ident(), None)

    def recover(self) -> tuple[list[Slot], list[LockType]]:
        """After an interrupt of a caller, wherever it was: what it had is free, and what it did not tell is to be told.

        Returns:
            The slots that it had, whose permits are to be given back; and what to wake.
        """
        with self.lock:
            me = get_ident()
            mine = [slot for slot in self.known if slot.holder == me]
            for slot in mine:
                slot.holder, slot.busy, slot.lease_until_s = 0, False, -math.inf
            self.slots.busy = sum(slot.busy for slot in self.known)
            if not self.slots.busy:
                self.running_rows = 0
            self.queue.recount()
            self._arrivals.wanted_rows = 0
            handed = self._handed.pop(me, None)
            self.settled.notify_all()
            # A worker that was taken out of the sleepers and not woken can't be told from one that runs.
            return mine, [*self.workers, *([handed.awake] if handed is not None else [])]

    def wait_until_idle(self, slots: tuple[Slot, ...]) -> None:
        """Waits until none of the slots is taken."""
        with self.lock:
            self._settling += 1
            self.settled.wait_for(lambda: not any(slot.busy for slot in slots))
            self._settling -= 1

    def snapshot(self) -> BatcherStats:
        """A copy of the counts, with the present state."""
        with self.lock:
            return msgspec.structs.replace(
                self.stats,
                batches=dict(self.stats.batches),
                queued=len(self.queue),
                queued_rows=self.queue.rows,
                queued_bytes=self.queue.nbytes,
                running=self.slots.busy,
                slots=len(self.slots.all) - self.slots.standby,
                standby=self.slots.standby,
            )

    def _taken(self, slot: Slot, rows: int) -> Slot:
        slot.busy = True
        self.slots.busy += 1
        self.running_rows += rows
        return slot

    def _enter(self, slot: Slot) -> bool:
        """Takes the permits of an idle slot, for a caller that is to be found should it be interrupted."""
        slot.holder = get_ident()
        if slot.gate.try_enter(slot.share, slot.permits, slot):
            return True
        slot.holder = 0
        return False

    def _give_back(self, slot: Slot) -> None:
        slot.holder = 0
        slot.busy = False
        self.slots.busy -= 1
        if self._settling:
            self.settled.notify_all()

    def _count(self, runs: Sequence[int], run_s: float) -> None:
        stats = self.stats
        stats.run_s += run_s
        for rows in runs:
            stats.batches[rows] = stats.batches.get(rows, 0) + 1
