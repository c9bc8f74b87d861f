"""What a batcher knows, changed under one lock in short steps that return what is to be done outside of it."""

from __future__ import annotations

import math
from _thread import LockType, get_ident
from collections.abc import Sequence

import msgspec

from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost, Overloaded, RuntimeClosed
from edge_runtime.scheduling.batches import LOOK_AHEAD, take_batch, take_one, too_late
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.ledger import Ledger
from edge_runtime.scheduling.queue import Entry, Queued, size_of
from edge_runtime.scheduling.runs import late
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.slots import MAX_LOSSES
from edge_runtime.types import InferRequest

_CLOSING_S = 0.02
"""How often workers look whether they are done, once the batcher is closing."""

_PRESSURE_S = 1.0
"""How often it is told at most that all slots are busy."""

Settled = list[tuple[Entry, EdgeRuntimeError]]
"""Requests that end with an error; told outside the lock."""


class Work(msgspec.Struct, gc=False):
    """What a worker does next.

    Attributes:
        slot: Where; taken.
        entry: A request that is tried again; None for what waits in the queue.
        nap_s: Without a slot: how long to sleep at most; -1 until woken.
        settled: Who is told an error before that.
    """

    slot: Slot | None = None
    entry: Entry | None = None
    nap_s: float = -1.0
    settled: list[tuple[Entry, EdgeRuntimeError]] = []


class Desk(Ledger):
    """The ledger, changed under its lock in short steps. Thread-safe; it runs nothing itself."""

    # -- the caller's own thread --

    def take_now(self, request: InferRequest) -> Slot | None:
        """An idle slot with its permits for a request that need not wait; None if it must.

        Raises:
            EngineFailed: there is no slot at all.
            RuntimeClosed: closed.
        """
        with self.lock:
            slots = self.slots
            if self.closed or not self._hopes:
                raise self._unavailable(request)
            if not slots.all or (slots.left and request.deadline_s is not None):
                return None
            if self.queue or self.retries:
                return self._overtake(request)
            if not slots.busy and (solo := slots.solo) is not None and self._enter(solo):
                return self._taken(solo, request.rows)
            for slot in slots.crowd:
                if not slot.busy and self._enter(slot):
                    return self._taken(slot, request.rows)
            return None

    def take_idle(self, request: InferRequest) -> Slot | None:
        """An idle slot for a caller that waits for the device's permits itself: no worker has to wake for that.

        Only where nothing can be joined meanwhile, and nobody else waits.

        Raises:
            EngineFailed, RuntimeClosed: as in `take_now`.
        """
        with self.lock:
            slots = self.slots
            if self.closed or not self._hopes:
                raise self._unavailable(request)
            if self.queue or self.retries or (slots.left and request.deadline_s is not None):
                return None
            for slot in slots.crowd:
                if not slot.busy and slot.costs.largest == 1:
                    slot.holder = get_ident()
                    return self._taken(slot, request.rows)
            return None

    def put(self, request: InferRequest, future: Queued | None) -> tuple[Entry, LockType | None, bool]:
        """Queues a request: its entry, a sleeper to wake or None, and whether the pressure is to be told.

        Raises:
            Overloaded: there is no room.
            EngineFailed, RuntimeClosed: as in `take_now`.
        """
        with self.lock:
            if self.closed or not self._hopes:
                raise self._unavailable(request)
            if not self.queue.has_room(nbytes := size_of(request)):
                self.stats.refused += 1
                raise Overloaded(f"{request.subject}: {nbytes} bytes don't fit into the device's queue: {self.queue!r}")
            now_s = self._clock()
            self._arrivals.count(now_s, request.rows)
            bulk = future if isinstance(future, Bulk) else None
            entry = self.queue.push(request, None if bulk else self._key(request), now_s, future)
            if not self._leases.suit(entry, now_s):  # It can't wait for the end of any.
                for slot in self.slots.crowd:
                    slot.lease_until_s = min(slot.lease_until_s, now_s)
            self.stats.requests += len(bulk.requests) if bulk else 1
            self.stats.rows += request.rows
            idle = self.slots.idle()
            if not idle:
                pressed = now_s - self._pressed_s >= _PRESSURE_S
                if pressed:
                    self._pressed_s = now_s
                # Without any slot a worker looks after the deadlines.
                alone = not self.slots.all and self.sleepers
                return entry, self.sleepers.pop() if alone else None, pressed
            leased = self._leases.guarded and now_s < idle[0].lease_until_s
            wakes = self.sleepers and not leased and self.queue.rows >= self._arrivals.wanted_rows
            return entry, self.sleepers.pop() if wakes else None, False

    def give_up(self, entry: Entry, *, expired: bool) -> Slot | None:
        """The caller waits no longer; a slot that it was given meanwhile, and must release."""
        with self.lock:
            if not self.queue.drop(entry):
                if entry not in self.retries:
                    return entry.slot
                self.retries.remove(entry)
            if expired:
                self.stats.expired += 1
            else:
                self.stats.cancelled += 1
            return None

    # -- workers --

    def next(self, me: LockType, *, slept: bool) -> Work | None:
        """What a worker does now; None if it is to end. One that is to sleep is entered as a sleeper.

        Args:
            me: What wakes it.
            slept: Whether it has just slept as long as it was told.
        """
        with self.lock:
            self._leases.guarded = False
            work = self._retry() or self._from_queue(slept=slept)
            if work.slot is None:
                # A run that is under way may fail, and then be for another slot.
                if self.closed and not self.queue and not self.retries and not self.slots.busy:
                    return None
                if me not in self.sleepers:
                    self.sleepers.append(me)
                if self.closed and work.nap_s < 0:
                    # Nobody wakes it when the last of those that wait gives up or is answered elsewhere.
                    work.nap_s = _CLOSING_S
            return work

    def woke(self, me: LockType) -> None:
        """A worker's nap is over, by itself: what it napped for counts no more."""
        with self.lock:
            self._arrivals.wanted_rows = 0
            if me in self.sleepers:
                self.sleepers.remove(me)
            else:
                me.acquire()

    def take_batch(self, slot: Slot, retried: Entry | None) -> tuple[list[Entry], Settled]:
        """What runs next on a slot that has its permits, and what is refused instead of it.

        Args:
            slot: Where.
            retried: The request that the slot was taken for; None for what waits in the queue.
        """
        batch: list[Entry] = []
        settled: Settled = []
        costs = slot.costs
        with self.lock:
            if retried is not None:
                now_s = self._clock()
                if retried.waiting.deadline_s > now_s:
                    batch = [retried]
                else:
                    settled.append((retried, self._too_late(retried, slot, now_s)))
            while retried is None and not batch and self.queue and slot.usable:
                now_s = self._clock()
                batch, refused = (take_one if costs.largest == 1 else take_batch)(self.queue, costs, now_s)
                settled += [(entry, self._too_late(entry, slot, now_s)) for entry in refused]
            self.running_rows += sum([entry.request.rows for entry in batch])
        return batch, settled

    def goes_on(
        self, slot: Slot, runs: Sequence[int], batch: Sequence[Entry], run_s: float
    ) -> tuple[bool, LockType | None]:
        """A worker's run ended, and its permits are back: whether it keeps the slot, and what to wake or None.

        Args:
            slot: What it has.
            runs: The rows of each run.
            batch: What ran, or was to run.
            run_s: For how long.
        """
        with self.lock:
            self._count(runs, run_s)
            self.running_rows -= sum([entry.request.rows for entry in batch])
            if not self.queue or self.retries or not slot.usable or slot not in self.slots.crowd:
                self._give_back(slot)
                # This worker looks again itself; a retry may be for another slot, beside what waits.
                return False, self.sleepers.pop() if self.retries and self.sleepers else None
            now_s = self._clock()
            sleeper = self._hand_on(slot, now_s)
            if sleeper is not None:
                return False, sleeper
            if self._arrivals.window_s(slot, self.queue, now_s):
                self._give_back(slot)
                return False, None
            return True, None

    def release(
        self, slot: Slot, runs: Sequence[int], rows: int, run_s: float, now_s: float, *, counted: bool
    ) -> LockType | None:
        """A caller's own run ended, and its permits are back; what to wake or None.

        Args:
            slot: What it had.
            runs: The rows of each run.
            rows: Of the request that it took the slot for.
            run_s: For how long.
            now_s: The instant.
            counted: Whether that was counted when it was queued.
        """
        with self.lock:
            self._count(runs, run_s)
            self.running_rows -= rows
            if not counted:
                self.stats.requests += len(runs)
                self.stats.rows += sum(runs)
            if self.queue and not self.retries and slot.usable and slot in self.slots.crowd:
                if now_s < slot.lease_until_s or self._opens_lease(slot, now_s):
                    self._give_back(slot)
                    return None if self._leases.guarded or not self.sleepers else self.sleepers.pop()
                sleeper = self._hand_on(slot, now_s)
                if sleeper is not None:
                    return sleeper
            slot.lease_until_s = -math.inf
            self._give_back(slot)
            return self.sleepers.pop() if (self.queue or self.retries) and self.sleepers else None

    # -- failures and slots --

    def failed(self, slot: Slot, entry: Entry, error: EngineFailed) -> tuple[bool, LockType | None]:
        """A request failed on a slot: whether it will be tried again, and a sleeper to wake or None."""
        with self.lock:
            entry.failure = error
            entry.tried = (*entry.tried, slot.gate)
            entry.losses += isinstance(error, EngineLost)
            if entry.waiting.deadline_s <= self._clock() or not self._can_retry(entry):
                self.stats.failed += 1
                return False, None
            self.stats.retried += 1
            self.retries.append(entry)
            return True, self.sleepers.pop() if self.sleepers else None

    def add(self, slot: Slot) -> LockType | None:
        """Takes a slot into use; a sleeper to wake or None."""
        with self.lock:
            self.known = [one for one in self.known if one.usable or one.busy] + [slot]
            self.slots.add(slot)
            return self.sleepers.pop() if self.sleepers and (self.queue or self.retries) else None

    def remove(self, slot: Slot) -> tuple[Settled, list[LockType]]:
        """Takes a slot out of use: who can't be answered any more, and the sleepers to wake."""
        with self.lock:
            if slot.usable:
                self.slots.remove(slot)
            return self._homeless(), self._all_sleepers()

    def lose(self, slot: Slot) -> Settled:
        """A slot's engine is lost: it is out of use. Who can't be answered any more."""
        with self.lock:
            if slot.usable:
                self.slots.remove(slot)
            return self._homeless()

    def put_back(self, entry: Entry) -> EdgeRuntimeError | None:
        """A bulk waits for its next turn; an error if there is no slot for it any more."""
        with self.lock:
            if not self._hopes:
                self.stats.failed += 1
                return self._unavailable(entry.request)
            self.queue.put_back([entry])
            return None

    def expect(self, *, slots: bool) -> Settled:
        """Whether a slot is to be waited for where there is none; who need not wait any more."""
        with self.lock:
            self.expecting = slots and not self.closed
            return self._homeless()

    def close(self) -> tuple[Settled, list[LockType]]:
        """Refuses from now on; who can't be answered any more, and the sleepers to wake."""
        with self.lock:
            self.closed = True
            self.expecting = False
            return self._homeless(), self._all_sleepers()

    # -- under the lock --

    def _unavailable(self, request: InferRequest) -> EdgeRuntimeError:
        if self.closed:
            return RuntimeClosed(f"{request.subject} has been unloaded")
        return EngineFailed(f"{request.subject}: no engine is in use: all that there were have failed or are starting")

    def _key(self, request: InferRequest) -> object:
        """What requests must share to be joined; None if this one can't be."""
        signature = self._signatures[request.signature]
        largest = self.slots.crowd[0].costs.largest if self.slots.crowd else 1
        if signature.batch_axis is None or largest == 1 or request.rows > largest:
            return None
        axis = signature.batch_axis
        shapes = []
        for spec in signature.inputs:
            array = request.inputs[spec.name]
            # Pixels and floats of one input would be joined to floats.
            shapes.append((array.dtype, array.shape[:axis], array.shape[axis + 1 :]))
        return (request.signature, tuple(shapes))

    def _overtake(self, request: InferRequest) -> Slot | None:
        """An idle slot whose lease runs."""
        slots = self.slots
        if self.retries or slots.busy >= len(slots.crowd):
            return None
        now_s = self._clock()
        for slot in slots.crowd:
            if not slot.busy and now_s < slot.lease_until_s and self._enter(slot):
                self._leases.used(slot)
                return self._taken(slot, request.rows)
        return None

    def _opens_lease(self, slot: Slot, now_s: float) -> bool:
        """Whether a lease of the slot begins: with the first run that others wait for."""
        first = self.queue.first()
        if first is None or slot.lease_until_s != -math.inf:
            return False
        if not self._leases.allowed(self.slots.run_s, first, now_s):
            return False
        self._leases.start(slot, now_s)
        return True

    def _hand_on(self, slot: Slot, now_s: float) -> LockType | None:
        """A taken slot goes to the first that waits, if that is a sleeping caller and runs are short; what wakes it."""
        first = self.queue.first()
        if first is None or first.future is not None or slot not in self.slots.crowd:
            return None
        if not self._leases.allowed(self.slots.run_s, first, now_s):
            return None
        self.queue.take(first)
        self.running_rows += first.request.rows
        self._leases.start(slot, now_s)
        slot.holder = first.owner
        self._handed[get_ident()] = first
        return first.give(slot)

    def _retry(self) -> Work | None:
        for entry in self.retries:
            slot = self.slots.retry(entry)
            if slot is not None:
                self.retries.remove(entry)
                self._taken(slot, 0)
                return Work(slot, entry)
        return None

    def _from_queue(self, *, slept: bool) -> Work:
        first = self.queue.first()
        if first is None:
            return Work()
        now_s = self._clock()
        if not self.slots.all:
            return self._expired(now_s)
        idle = self.slots.idle()
        if self._leases.allowed(self.slots.run_s, first, now_s):
            slot = self._leases.unclaimed(idle, now_s, slept=slept)
            if slot is None:
                return Work(nap_s=self._leases.watch(idle))
        elif not idle:
            return Work()
        else:
            slot = idle[0]
        if not self.slots.busy and len(self.queue) == 1 and self.slots.solo is not None:
            slot = self.slots.solo
        elif wait_s := self._arrivals.window_s(slot, self.queue, now_s):
            return Work(nap_s=wait_s)
        self._arrivals.wanted_rows = 0
        slot.lease_until_s = -math.inf
        return Work(self._taken(slot, 0))

    def _expired(self, now_s: float) -> Work:
        """Where there is no slot: those whose deadline has passed, and until when to sleep for the next."""
        work = Work(settled=[])
        while (first := self.queue.first()) is not None and first.waiting.deadline_s <= now_s:
            self.queue.take(first)
            if first.claim():
                self.stats.expired += 1
                spent_ms = {"waiting for a device that is being opened anew": (now_s - first.queued_s) * 1e3}
                work.settled.append((first, late(first.request, now_s, spent_ms)))
        if first is not None and first.waiting.deadline_s < math.inf:
            work.nap_s = first.waiting.deadline_s - now_s
        return work

    def _too_late(self, entry: Entry, slot: Slot, now_s: float) -> EdgeRuntimeError:
        if entry.waiting.deadline_s <= now_s:
            self.stats.expired += 1
        else:
            self.stats.dropped += 1
        return too_late(entry, self.queue, slot.costs, now_s)

    @property
    def _hopes(self) -> bool:
        """Whether what waits may be answered one day."""
        return bool(self.slots.all) or self.expecting

    def _can_retry(self, entry: Entry) -> bool:
        """Whether a request that failed may run again: on a slot, or on one that takes the place of the lost."""
        replaced = self.expecting and isinstance(entry.failure, EngineLost) and entry.losses < MAX_LOSSES
        return replaced or self.slots.can_retry(entry)

    def _homeless(self) -> Settled:
        lost = [entry for entry in self.retries if not self._can_retry(entry)]
        for entry in lost:
            self.retries.remove(entry)
        settled: Settled = [(entry, entry.failure or self._unavailable(entry.request)) for entry in lost]
        if not self._hopes:
            while self.queue:
                settled += [
                    (entry, self._unavailable(entry.request)) for entry in self.queue.head(LOOK_AHEAD) if entry.claim()
                ]
        self.stats.failed += len(settled)
        return settled

    def _all_sleepers(self) -> list[LockType]:
        sleepers, self.sleepers = self.sleepers, []
        return sleepers
