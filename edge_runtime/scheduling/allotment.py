"""Who has a slot next: a caller that comes back, one that sleeps, or a worker, which may have to ask for permits."""

from __future__ import annotations

import math
from _thread import TIMEOUT_MAX, LockType, get_ident
from collections.abc import Sequence

import msgspec

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.scheduling.ledger import Asking, Ledger
from edge_runtime.scheduling.queue import Entry
from edge_runtime.scheduling.runs import late
from edge_runtime.scheduling.slot import ANY_WORKER, Slot
from edge_runtime.types import InferRequest

REOPENING = "waiting for a device that is being opened anew"
"""Where the time goes of who waits while there is no slot."""

Settled = list[tuple[Entry, EdgeRuntimeError]]
"""Requests that end with an error; told outside the lock."""


class Work(msgspec.Struct, gc=False):
    """What a worker does next.

    Attributes:
        slot: Where; taken, with its permits.
        nap_s: Without a slot: how long to sleep at most; -1 until woken.
        settled: Who is told an error before that.
        also: Another worker that is to be woken.
    """

    slot: Slot | None = None
    nap_s: float = -1.0
    settled: list[tuple[Entry, EdgeRuntimeError]] = []
    also: LockType | None = None


class Allotment(Ledger):
    """The ledger's rules; all under its lock."""

    def _overtake(self, request: InferRequest) -> Slot | None:
        """An idle slot whose lease runs."""
        slots = self.slots
        if self.retries or slots.busy >= len(slots.crowd):
            return None
        now_s = self._clock()
        for slot in slots.crowd:
            if not slot.busy and now_s < slot.lease_until_s and self._enter(slot, request.rows):
                self._leases.used(slot)
                return slot
        return None

    def _watcher(self, entry: Entry) -> LockType | None:
        """The worker that is to be woken to look after the deadline of an entry for which there is no slot."""
        if not self.slots.all:
            return self.sleepers.pop() if self.sleepers else None
        if not self.asking or entry.future is None:  # A caller that sleeps looks after its own.
            return None
        key = min(self.asking, key=lambda one: self.asking[one].until_s)
        return key if entry.waiting.deadline_s < self.asking[key].until_s else None

    def _pass_on(self, slot: Slot, run_s: float, now_s: float) -> LockType | None:
        """A caller's run ended, and others of its version wait for the slot; what to wake or None.

        Where other versions wait for the device, a worker goes on in the caller's place, for as long as it is this
        version's turn. Else the caller's lease goes on, or the slot is the first sleeping caller's.
        """
        if slot.gate.wanted(slot.share):
            if self.sleepers and self._stays(slot, run_s):
                slot.rows = 0
                slot.started_s = math.inf
                slot.lease_until_s = -math.inf
                slot.holder = ANY_WORKER
                return self.sleepers.pop()
        elif now_s < slot.lease_until_s or self._opens_lease(slot, now_s):
            self._leave(slot, run_s)
            return None if self._leases.guarded or not self.sleepers else self.sleepers.pop()
        elif (heir := self._heir(slot, now_s)) is not None and self._stays(slot, run_s):
            return self._give(slot, heir, now_s)
        slot.lease_until_s = -math.inf
        if slot.holder:  # It has not left.
            self._leave(slot, run_s)
        return self.sleepers.pop() if self.sleepers else None

    def _opens_lease(self, slot: Slot, now_s: float) -> bool:
        """Whether a lease of the slot begins: with the first run that others wait for."""
        first = self.queue.first()
        if first is None or slot.lease_until_s != -math.inf:
            return False
        if not self._leases.allowed(self.slots.run_s, first, now_s):
            return False
        self._leases.start(slot, now_s)
        return True

    def _heir(self, slot: Slot, now_s: float) -> Entry | None:
        """The first that waits, if the slot may be given to it: a sleeping caller, where runs are short.

        Not one that would leave a run which hangs: its request is for a worker.
        """
        first = self.queue.first()
        if first is None or first.future is not None or (slot.left and first.request.deadline_s is not None):
            return None
        return first if self._leases.allowed(self.slots.run_s, first, now_s) else None

    def _give(self, slot: Slot, heir: Entry, now_s: float) -> LockType:
        """A slot with its permits is a sleeping caller's; what wakes it."""
        self._leases.start(slot, now_s)
        rows = heir.request.rows
        slot.given = heir
        slot.holder = heir.owner
        slot.rows = rows
        slot.started_s = math.inf
        heir.slot = slot
        self.queue.drop(heir)
        return heir.awake

    def _allotted(self, me: LockType) -> Slot | None:
        """The slot whose permits a worker was given meanwhile, or that a caller left to any."""
        asked = self.asking.pop(me, None)
        if asked is not None:
            if not asked.slot.gate.withdraw(asked.waiter):
                return asked.slot
            self._freed(asked.slot)
        for slot in self.known:
            if slot.holder == ANY_WORKER:
                slot.holder = get_ident()
                return slot
        return None

    def _retry(self, me: LockType, until_s: float) -> Work | None:
        for entry in self.retries:
            slots = self.slots.retry(entry)
            for slot in slots:
                if self._enter(slot):
                    return Work(slot)
            if slots and ((work := self._ask(me, slots, [], until_s)).slot or me in self.asking):
                return work
        return None

    def _expired_retries(self, now_s: float) -> tuple[Settled, float]:
        """Of those that failed: those whose deadline has passed meanwhile, and the next one's deadline."""
        late_ones = [entry for entry in self.retries if entry.waiting.deadline_s <= now_s]
        for entry in late_ones:
            self.retries.remove(entry)
        return (
            [(entry, self._late(entry, now_s)) for entry in late_ones],
            min((entry.waiting.deadline_s for entry in self.retries), default=math.inf),
        )

    def _from_queue(self, me: LockType, *, slept: bool) -> Work:
        first = self.queue.first()
        if first is None:
            return Work()
        now_s = self._clock()
        if not self.slots.all:
            settled, until_s = self._expired(now_s)
            return Work(settled=settled, nap_s=nap_s(until_s, now_s))
        idle = self.slots.idle()
        leased = self._may_lease(first, now_s)
        slot = self._leases.unclaimed(idle, now_s, slept=slept) if leased else next(iter(idle), None)
        if slot is None:
            return Work(nap_s=self._leases.watch(idle) if leased else -1.0)
        slots = [slot] if leased else idle
        if not self.slots.busy and len(self.queue) == 1 and self.slots.solo is not None:
            slots = [self.slots.solo, *slots]
        elif wait_s := self._arrivals.window_s(slot, self.queue, now_s):
            return Work(nap_s=wait_s)
        self._arrivals.wanted_rows = 0
        for one in slots:
            one.lease_until_s = -math.inf
            if self._enter(one):
                return Work(one)
        return self._ask(me, idle, *self._expired(now_s))

    def _may_lease(self, first: Entry, now_s: float) -> bool:
        """Whether callers may run past the first that waits: only where no other version waits for the device."""
        slots = self.slots
        return self._leases.allowed(slots.run_s, first, now_s) and not any(
            slot.gate.wanted(slot.share) for slot in slots.crowd
        )

    def _ask(self, me: LockType, slots: Sequence[Slot], settled: Settled, until_s: float) -> Work:
        """A worker takes a slot and a place at its gate: at one where none of this version's waits, if there is such.

        Each device for which requests wait has a worker at its gate: the first that is let in takes them.
        """
        now_s = self._clock()
        asked = {one.slot.gate for one in self.asking.values()}
        elsewhere = [slot for slot in slots if slot.gate not in asked]
        if not elsewhere and len(self.queue) + len(self.retries) <= len(self.asking):
            return Work(settled=settled)
        slot = (elsewhere or slots)[0]
        slot.holder = get_ident()
        slot.busy = True
        self.slots.busy += 1
        waiter = slot.gate.ask(slot.share, slot.permits, slot, me)
        if waiter.given:
            return Work(slot, settled=settled)
        self.asking[me] = Asking(slot, waiter, until_s)
        more = any(one.gate is not slot.gate for one in elsewhere) and self.sleepers
        return Work(nap_s=nap_s(until_s, now_s), settled=settled, also=self.sleepers.pop() if more else None)

    def _expired(self, now_s: float) -> tuple[Settled, float]:
        """Where no slot is to be had: those whose deadline has passed, and the next one's deadline."""
        settled: Settled = []
        while (first := self.queue.first()) is not None and first.waiting.deadline_s <= now_s:
            self.queue.drop(first)
            if first.claim():
                settled.append((first, self._late(first, now_s)))
        return settled, math.inf if first is None else first.waiting.deadline_s

    def _late(self, entry: Entry, now_s: float, stage: str = "waiting for the device") -> EdgeRuntimeError:
        """Counts a request whose deadline has passed before it was answered; what it is told, and what it failed on."""
        self.stats.expired += entry.requests
        if not self.slots.all:
            stage = REOPENING
        error = late(entry.request, now_s, {stage: (now_s - entry.queued_s) * 1e3})
        error.__cause__ = entry.failure
        return error


def nap_s(until_s: float, now_s: float) -> float:
    """How long a worker sleeps at most; -1 until it is woken."""
    return -1.0 if until_s == math.inf else min(max(until_s - now_s, 0.0), TIMEOUT_MAX)
