"""What a batcher knows, changed under one lock in short steps that return what is to be done outside of it."""

from __future__ import annotations

import math
from _thread import LockType
from collections.abc import Sequence

from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost, Overloaded, RuntimeClosed
from edge_runtime.scheduling.allotment import Allotment, Settled, Work, nap_s
from edge_runtime.scheduling.batches import LOOK_AHEAD, take_batch, take_one, too_late
from edge_runtime.scheduling.bulk import Bulk, asked_again
from edge_runtime.scheduling.queue import Entry, Queued, size_of
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.slots import MAX_LOSSES
from edge_runtime.types import InferRequest, Reply

_CLOSING_S = 0.02
"""How often workers look whether they are done, once the batcher is closing."""

_PRESSURE_S = 1.0
"""How often it is told at most that all slots are busy."""


class Desk(Allotment):
    """The ledger, changed under its lock in short steps. Thread-safe; it runs nothing itself, and waits for nothing."""

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
            if not slots.busy and (solo := slots.solo) is not None and self._enter(solo, request.rows):
                return solo
            for slot in slots.crowd:
                if not slot.busy and self._enter(slot, request.rows):
                    return slot
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
            key, requests = (None, len(bulk.requests)) if bulk else (self._key(request), 1)
            entry = self.queue.push(request, key, now_s, future, requests)
            if not self._leases.suit(entry, now_s):  # It can't wait for the end of any.
                for slot in self.slots.crowd:
                    slot.lease_until_s = min(slot.lease_until_s, now_s)
            if not bulk:
                self.stats.requests += 1
                self.stats.rows += request.rows
            idle = self.slots.idle()
            if not idle:
                pressed = now_s - self._pressed_s >= _PRESSURE_S
                if pressed:
                    self._pressed_s = now_s
                return entry, self._watcher(entry), pressed
            leased = self._leases.guarded and now_s < idle[0].lease_until_s
            wakes = self.sleepers and not leased and self.queue.rows >= self._arrivals.wanted_rows
            return entry, self.sleepers.pop() if wakes else self._watcher(entry), False

    def give_up(self, entry: Entry, *, expired: bool) -> Slot | None:
        """The caller waits no longer; a slot that it was given meanwhile, and must release."""
        with self.lock:
            if entry.slot is not None:
                self.stats.expired += expired
                return entry.slot
            if not self.queue.drop(entry):
                if entry not in self.retries:
                    return None
                self.retries.remove(entry)
            if expired:
                self.stats.expired += entry.requests
            else:
                self._count_left(entry)
                self.stats.cancelled += entry.requests
            return None

    def release(  # noqa: PLR0917  the way of every request
        self, slot: Slot, runs: Sequence[int], run_s: float, now_s: float, requests: int = 0, rows: int = 0
    ) -> LockType | None:
        """A caller's own run ended: its slot and permits go to somebody else, or are free. What to wake or None.

        Args:
            slot: What it had.
            runs: The rows of each run.
            run_s: For how long.
            now_s: The instant.
            requests: What was asked and is not counted yet: what was queued is.
            rows: Of these.
        """
        with self.lock:
            self._count(runs, run_s)
            self.stats.requests += requests
            self.stats.rows += rows
            if self.queue and not self.retries and slot.usable and slot in self.slots.crowd:
                return self._pass_on(slot, run_s, now_s)
            slot.lease_until_s = -math.inf
            self._leave(slot, run_s)
            return self.sleepers.pop() if (self.queue or self.retries) and self.sleepers else None

    # -- workers --

    def next(self, me: LockType, *, slept: bool) -> Work | None:
        """What a worker does now; None if it is to end. One that is to sleep is entered as a sleeper, or asks.

        Args:
            me: What wakes it.
            slept: Whether it has just slept as long as it was told: what it napped for counts no more.
        """
        with self.lock:
            self._leases.guarded = False
            if slept:
                self._arrivals.wanted_rows = 0
            if me in self.sleepers:
                self.sleepers.remove(me)
            slot = self._allotted(me)
            if slot is not None:
                return Work(slot)
            work = self._waiting_work(me, slept=slept)
            if work.slot is not None or me in self.asking:
                return work
            # A run that is under way may fail, and then be for another slot.
            if self.closed and not self.queue and not self.retries and not self.slots.busy and not work.settled:
                return None
            self.sleepers.append(me)
            if self.closed and work.nap_s < 0:
                # Nobody wakes it when the last of those that wait gives up or is answered elsewhere.
                work.nap_s = _CLOSING_S
            return work

    def _waiting_work(self, me: LockType, *, slept: bool) -> Work:
        """What a worker does for what waits: first for what failed, which it tells that its deadline has passed."""
        if not self.retries:
            return self._from_queue(me, slept=slept)
        now_s = self._clock()
        settled, until_s = self._expired_retries(now_s)
        work = self._retry(me, until_s) or self._from_queue(me, slept=slept)
        if settled:
            work.settled = [*settled, *work.settled]
        left_s = nap_s(until_s, now_s)
        if left_s >= 0 and not 0 <= work.nap_s <= left_s:
            work.nap_s = left_s
        return work

    def take_batch(self, slot: Slot) -> tuple[list[Entry], Settled]:
        """What runs next on a slot that has its permits, and what is refused instead of it."""
        batch: list[Entry] = []
        settled: Settled = []
        costs = slot.costs
        with self.lock:
            for entry in [one for one in self.retries if self.slots.may_retry(one, slot)] if slot.usable else ():
                self.retries.remove(entry)
                now_s = self._clock()
                if entry.waiting.deadline_s > now_s:
                    batch = [entry]
                    break
                settled.append((entry, self._too_late(entry, slot, now_s)))
            serves = slot in self.slots.crowd or slot is self.slots.solo
            while serves and not batch and self.queue:
                now_s = self._clock()
                batch, refused = (take_one if costs.largest == 1 else take_batch)(self.queue, costs, now_s)
                settled += [(entry, self._too_late(entry, slot, now_s)) for entry in refused]
            slot.rows = sum([entry.request.rows for entry in batch])
        return batch, settled

    def goes_on(self, slot: Slot, runs: Sequence[int], run_s: float) -> tuple[bool, LockType | None]:
        """A worker's run ended: whether it keeps slot and permits for another one, and what to wake or None.

        Args:
            slot: What it has.
            runs: The rows of each run.
            run_s: For how long.
        """
        with self.lock:
            self._count(runs, run_s)
            slot.rows = 0
            slot.started_s = math.inf
            if not self.queue or self.retries or not slot.usable or slot not in self.slots.crowd:
                self._leave(slot, run_s)
                # This worker looks again itself; a retry may be for another slot, beside what waits.
                return False, self.sleepers.pop() if self.retries and self.sleepers else None
            if not slot.gate.wanted(slot.share):
                now_s = self._clock()
                heir = self._heir(slot, now_s)
                if heir is None and self._arrivals.window_s(slot, self.queue, now_s):
                    self._leave(slot, run_s)
                    return False, None
                if heir is not None:
                    return False, self._give(slot, heir, now_s) if self._stays(slot, run_s) else None
            return self._stays(slot, run_s), None

    # -- failures and slots --

    def failed(self, slot: Slot, entry: Entry, error: EngineFailed) -> tuple[EdgeRuntimeError | None, LockType | None]:
        """A request failed on a slot: what it ends with, None if it is tried again; and a sleeper to wake or None."""
        with self.lock:
            entry.failure = error
            entry.tried = (*entry.tried, slot.gate)
            entry.losses += isinstance(error, EngineLost)
            now_s = self._clock()
            if entry.waiting.deadline_s <= now_s:
                return self._late(entry, now_s, "in the device's queue and in a run that failed"), None
            if not self._can_retry(entry):
                self.stats.failed += 1
                return error, None
            self.stats.retried += 1
            self.retries.append(entry)
            return None, self.sleepers.pop() if self.sleepers else None

    def add(self, slot: Slot) -> list[LockType]:
        """Takes a slot into use; the workers to wake, also those that ask for another one."""
        with self.lock:
            self.known = [one for one in self.known if one.usable or one.busy] + [slot]
            self.slots.add(slot)
            return list(self.workers) if self.queue or self.retries else []

    def remove(self, slot: Slot) -> tuple[Settled, list[LockType]]:
        """Takes a slot out of use, or has it out of use already: who can't be answered any more, and what to wake."""
        with self.lock:
            if slot.usable:
                self.slots.remove(slot)
            return self._homeless(), list(self.workers)

    def lose(self, slot: Slot) -> tuple[Settled, list[LockType]]:
        """As `remove`, for all slots of a slot's engine: what failed on one of them must not be tried on the others."""
        with self.lock:
            for one in self.slots.all:
                if one.engine is slot.engine:
                    self.slots.remove(one)
            return self._homeless(), list(self.workers)

    def ran(self, bulk: Bulk, done: int) -> None:
        """Counts the outcomes of a bulk behind the first `done`.

        What is asked again by whoever waits for the bulk is counted as a request then, as on every way.
        """
        retried = failed = requests = rows = 0
        for request, outcome in zip(bulk.requests[done:], bulk.outcomes[done:], strict=False):
            again = asked_again(outcome)
            retried += again
            requests += not again
            rows += 0 if again else request.rows
            failed += not again and not isinstance(outcome, Reply)
        with self.lock:
            self.stats.requests += requests
            self.stats.rows += rows
            self.stats.retried += retried
            self.stats.failed += failed

    def put_back(self, entry: Entry, left: int) -> EdgeRuntimeError | None:
        """A bulk waits for its next turn, with so many requests; an error if there is no slot for it any more."""
        with self.lock:
            entry.requests = left
            if not self._hopes:
                self._count_left(entry)
                self.stats.failed += left
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
            return self._homeless(), list(self.workers)

    # -- under the lock --

    def _count_left(self, entry: Entry) -> None:
        """Counts what a bulk had left when it ended: what it ran is counted, as everything else is when it is put."""
        if isinstance(entry.future, Bulk):
            self.stats.requests += entry.requests
            self.stats.rows += sum([request.rows for request in entry.future.requests[-entry.requests :]])

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
        for entry, _ in settled:
            self._count_left(entry)
            self.stats.failed += entry.requests
        return settled
