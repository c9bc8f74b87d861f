"""What a batcher knows, and how it is put right when a caller was interrupted between two steps.

A signal's handler may raise in the main thread after any call, and at the end of any loop; lines without a call, one
after the other, are one step (CPython 3.11 and later). What must not come apart is changed in such lines, so that the
counts here are always those of what they count. What is left to recovery are the things of the interrupted caller, and
they are written down: its slots (`Slot.holder`, from before their permits are asked for until after these are back),
its place in the queue (`Entry.owner`), and whom it was about to wake (`Slot.given`, and the workers, which look again).
"""

from __future__ import annotations

import math
import threading
from _thread import LockType, get_ident
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from converter.artifact import Signature
from edge_runtime.scheduling.arrivals import Arrivals
from edge_runtime.scheduling.gate import Waiter
from edge_runtime.scheduling.leases import Leases
from edge_runtime.scheduling.queue import Entry, RequestQueue
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.slots import SlotTable
from edge_runtime.scheduling.stats import BatcherStats


class Asking(msgspec.Struct, frozen=True, gc=False):
    """A worker that waits for the permits of a slot that it has taken.

    Attributes:
        slot: The slot.
        waiter: Its place at the gate.
        until_s: When the worker looks after deadlines.
    """

    slot: Slot
    waiter: Waiter
    until_s: float


class Ledger:
    """Queue, slots and counts of a batcher. Thread-safe; those with an underscore are for who has the lock.

    Attributes:
        lock: Guards everything here. Taken before a gate's.
        slots: The slots. Its tuples are swapped whole, so that they may be read without the lock.
        queue: What waits.
        stats: The counts.
        closed: Whether it refuses.
        expecting: Whether requests wait where there is no slot, since one is being made.
        sleepers: The bare locks of the workers that sleep; releasing one wakes it.
        asking: The workers that wait for permits, by their locks.
        workers: The locks of all workers. One that is woken for nothing looks, and sleeps again.
        known: The slots in use, and those out of use that are still taken.
    """

    def __init__(self, signatures: dict[str, Signature], queue: RequestQueue, clock: Callable[[], float]) -> None:
        """Takes what the batcher was given."""
        self.lock = threading.Lock()
        self.settled = threading.Condition(self.lock)
        self.slots = SlotTable(clock)
        self.queue = queue
        self.retries: deque[Entry] = deque()
        self.stats = BatcherStats()
        self.closed = False
        self.expecting = False
        self.sleepers: list[LockType] = []
        self.asking: dict[LockType, Asking] = {}
        self.workers: list[LockType] = []
        self.known: list[Slot] = []
        self._signatures = signatures
        self._clock = clock
        self._settling = 0
        self._arrivals = Arrivals()
        self._leases = Leases()
        self._pressed_s = -math.inf

    @property
    def running_rows(self) -> int:
        """Rows that run now."""
        return sum([slot.rows for slot in self.known])

    def stalled(self, now_s: float) -> tuple[int, float]:
        """How many slots' worth of the device has runs that are stalled, and for how long the latest of these runs."""
        ages = [(slot.permits, age_s) for slot in self.known if (age_s := slot.stalled_s(now_s))]
        return sum(permits for permits, _ in ages), min((age_s for _, age_s in ages), default=0.0)

    def recover(self) -> list[LockType]:
        """After an interrupt of this thread, wherever it was: what it had is free. May be interrupted, and done again.

        Returns:
            What to wake: whoever it had told something, and not yet woken.
        """
        me = get_ident()
        with self.lock:
            mine = [slot for slot in self.known if slot.holder == me]
            for key, one in list(self.asking.items()):
                if one.slot in mine:
                    self.asking.pop(key, None)
            for gate in dict.fromkeys(slot.gate for slot in self.known):
                gate.recover([slot for slot in mine if slot.gate is gate])
            for slot in mine:
                slot.given = None
                slot.lease_until_s = -math.inf
                self._freed(slot)
            self.queue.drop_sleeper(me)
            for entry in list(self.retries):
                if entry.owner == me and entry.future is None:
                    self.retries.remove(entry)
            given = [slot.given for slot in self.known if slot.given is not None]
            for entry in given:
                self.queue.drop(entry)
            self._arrivals.wanted_rows = 0
            self.settled.notify_all()
            # A worker that was taken out of the sleepers and not woken can't be told from one that runs.
            return [*self.workers, *(entry.awake for entry in given)]

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
                queued=self.queue.requests,
                queued_rows=self.queue.rows,
                queued_bytes=self.queue.nbytes,
                running=self.slots.busy,
                slots=len(self.slots.all) - self.slots.standby,
                standby=self.slots.standby,
            )

    def _enter(self, slot: Slot, rows: int = 0) -> bool:
        """Takes an idle slot with its permits, if these are to be had at once; whether it did."""
        me, slots = get_ident(), self.slots
        slot.holder = me
        slot.rows = rows
        slot.busy = True
        slots.busy += 1
        if slot.gate.try_enter(slot.share, slot.permits, slot):
            return True
        self._freed(slot)
        return False

    def _leave(self, slot: Slot, run_s: float) -> None:
        """Gives the permits back, and then the slot: until then nobody else can take it."""
        slot.gate.leave(slot.share, run_s, slot.permits, slot)
        self._freed(slot)

    def _stays(self, slot: Slot, run_s: float) -> bool:
        """Ends a run; whether the slot keeps its permits for the next one. Else it has been given back."""
        if slot.gate.stays(slot.share, run_s, slot.permits, slot):
            return True
        self._freed(slot)
        return False

    def _freed(self, slot: Slot) -> None:
        """A slot is idle, whose permits are back."""
        if slot.busy:
            slots = self.slots
            slot.rows = 0
            slot.started_s = math.inf
            slot.busy = False
            slots.busy -= 1
        slot.holder = 0
        if self._settling:
            self.settled.notify_all()

    def _count(self, runs: Sequence[int], run_s: float) -> None:
        stats = self.stats
        stats.run_s += run_s
        for rows in runs:
            stats.batches[rows] = stats.batches.get(rows, 0) + 1
