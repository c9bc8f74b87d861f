"""What a batcher knows, changed under one lock in short steps that return what is to be done outside of it."""

from __future__ import annotations

import math
import threading
from _thread import LockType
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from converter.artifact import Signature
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost, Overloaded, RuntimeClosed
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.policy import LEASE_S, SHORT_RUN_S, form_batch, may_overtake, window_s
from edge_runtime.scheduling.queue import Entry, Queued, RequestQueue, size_of
from edge_runtime.scheduling.runs import late
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.slots import SlotTable
from edge_runtime.scheduling.stats import BatcherStats
from edge_runtime.types import InferRequest

_LOOK_AHEAD = 64
"""Entries that are looked at to form a batch: bounds the work under the lock, and exceeds every useful batch size."""

_ARRIVALS_SMOOTHING = 0.2
"""Weight of the newest gap in the mean between arrivals: some ten requests tell of a change."""

_YIELD_S = 0.0002
"""How long a worker leaves its slot to the callers that it has just answered: several times a thread's waking."""

_YIELD_PAUSE = 50
"""After they did not come back, how many times as long it does not try again: at most 2 % of the time is lost."""

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
    """

    slot: Slot | None = None
    entry: Entry | None = None
    nap_s: float = -1.0


class Desk:
    """Queue, slots and counts of a batcher. Thread-safe; it runs nothing itself.

    Attributes:
        lock: Guards everything here.
        slots: The slots. Its tuples are swapped whole, so that they may be read without the lock.
        queue: What waits.
        stats: The counts.
        running_rows: Rows that run now.
        closed: Whether it refuses.
        sleepers: The bare locks of the workers that sleep; releasing one wakes it.
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
        self.sleepers: list[LockType] = []
        self._signatures = signatures
        self._clock = clock
        self._settling = 0
        # Arrivals.
        self._arrived_s = -math.inf
        self._row_every_s = math.inf
        self._window_rows = 0
        self._pressed_s = -math.inf
        # Callers that overtake: until when workers let them, and what came of it.
        self._lenient_until_s = -math.inf
        self._yield_mark: int | None = None
        self._yield_again_s = -math.inf
        self._overtakers = 0

    # -- the caller's own thread --

    def take_now(self, request: InferRequest) -> Slot | None:
        """An idle slot with its permits for a request that need not wait; None if it must.

        Raises:
            EngineFailed: there is no slot at all.
            RuntimeClosed: closed.
        """
        with self.lock:
            slots = self.slots
            if self.closed or not slots.all:
                raise self._unavailable(request)
            if self.queue or self.retries:
                if not self._may_overtake(request):
                    return None
                self._overtakers += 1
            elif not slots.busy and (solo := slots.solo) is not None and solo.gate.try_enter(solo.share, solo.permits):
                return self._taken(solo, request.rows)
            for slot in slots.crowd:
                if not slot.busy and slot.gate.try_enter(slot.share, slot.permits):
                    slot.busy = True
                    slots.busy += 1
                    self.running_rows += request.rows
                    return slot
            return None

    def put(self, request: InferRequest, future: Queued | None) -> tuple[Entry, LockType | None, bool]:
        """Queues a request: its entry, a sleeper to wake or None, and whether the pressure is to be told.

        Raises:
            Overloaded: there is no room.
            EngineFailed, RuntimeClosed: as in `take_now`.
        """
        with self.lock:
            if self.closed or not self.slots.all:
                raise self._unavailable(request)
            if not self.queue.has_room(nbytes := size_of(request)):
                self.stats.refused += 1
                raise Overloaded(f"{request.subject}: {nbytes} bytes don't fit into the device's queue: {self.queue!r}")
            now_s = self._clock()
            self._arrived(now_s, request.rows)
            bulk = future if isinstance(future, Bulk) else None
            entry = self.queue.push(request, None if bulk else self._key(request), now_s, future)
            self.stats.requests += len(bulk.requests) if bulk else 1
            self.stats.rows += request.rows
            if self.slots.idle() is None:
                pressed = now_s - self._pressed_s >= _PRESSURE_S
                if pressed:
                    self._pressed_s = now_s
                return entry, None, pressed
            wakes = self.sleepers and self.queue.rows >= self._window_rows
            return entry, self.sleepers.pop() if wakes else None, False

    def give_up(self, entry: Entry, *, expired: bool) -> None:
        """The caller waits no longer."""
        with self.lock:
            if not self.queue.drop(entry):
                if entry not in self.retries:
                    return
                self.retries.remove(entry)
            if expired:
                self.stats.expired += 1
            else:
                self.stats.cancelled += 1

    # -- workers --

    def next(self, me: LockType) -> Work | None:
        """What a worker does now; None if it is to end. One that is to sleep is entered as a sleeper."""
        with self.lock:
            work = self._retry() or self._from_queue()
            if work.slot is None:
                if self.closed and not self.queue and not self.retries:
                    return None
                self.sleepers.append(me)
            return work

    def woke(self, me: LockType) -> None:
        """A worker's nap is over, by itself: what it napped for counts no more."""
        with self.lock:
            self._lenient_until_s = -math.inf
            self._window_rows = 0
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
            elif costs.largest == 1 and slot.usable and (only := self.queue.take_timeless()) is not None:
                batch = [only]  # Nothing to join and no deadline to judge: the usual case under load, made short.
            while retried is None and not batch and self.queue and slot.usable:
                looked_at = self.queue.head(_LOOK_AHEAD if costs.largest > 1 else 1)
                now_s = self._clock()
                plan = form_batch(
                    [entry.waiting for entry in looked_at],
                    now_s,
                    costs.sizes,
                    seconds=costs.seconds,
                    sure_seconds=costs.sure_seconds,
                    others=bool(self.queue),
                )
                run = list(plan.run)
                for i in plan.late:
                    waiting = looked_at[i].waiting
                    if not run and costs.probe(waiting.rows, waiting.deadline_s - now_s):
                        run = [i]
                leaving = {*run, *plan.expired, *plan.late}
                self.queue.put_back(entry for i, entry in enumerate(looked_at) if i not in leaving)
                # From here on a caller can't cancel any more: what runs is answered.
                batch = [looked_at[i] for i in run if looked_at[i].claim()]
                for i in (*plan.expired, *plan.late):
                    if i not in run and looked_at[i].claim():
                        settled.append((looked_at[i], self._too_late(looked_at[i], slot, now_s)))
            self.running_rows += sum([entry.request.rows for entry in batch])
        return batch, settled

    def goes_on(
        self, slot: Slot, runs: Sequence[int], batch: Sequence[Entry], run_s: float, *, slept: bool
    ) -> tuple[bool, LockType | None]:
        """A worker's run ended, and its permits are back: whether it keeps the slot, and a sleeper to wake or None.

        Args:
            slot: What it has.
            runs: The rows of each run.
            batch: What ran, or was to run.
            run_s: For how long.
            slept: Whether a caller slept on the answer, who may come back at once.
        """
        with self.lock:
            stats = self.stats
            stats.run_s += run_s
            for size in runs:
                stats.batches[size] = stats.batches.get(size, 0) + 1
            self.running_rows -= sum([entry.request.rows for entry in batch])
            keeps = self.queue and not self.retries and slot.usable and slot in self.slots.crowd
            if keeps and not (slept and self._yields(slot)) and not self._window(slot):
                return True, None
            self._give_back(slot)
            # This worker looks again itself; a retry may be for another slot, beside what waits.
            return False, self.sleepers.pop() if self.retries and self.sleepers else None

    def release(self, slot: Slot, runs: Sequence[int] | None, rows: int, run_s: float, now_s: float) -> LockType | None:
        """A caller's own run ended, and its permits are back; a sleeper to wake or None.

        Args:
            slot: What it had.
            runs: The rows of each run; None for one of all `rows`.
            rows: What was counted as running.
            run_s: For how long.
            now_s: The instant.
        """
        with self.lock:
            stats = self.stats
            stats.run_s += run_s
            if runs is None:
                stats.requests += 1
                stats.rows += rows
                stats.batches[rows] = stats.batches.get(rows, 0) + 1
            else:
                stats.requests += len(runs)
                stats.rows += sum(runs)
                for size in runs:
                    stats.batches[size] = stats.batches.get(size, 0) + 1
            self.running_rows -= rows
            slot.busy = False
            self.slots.busy -= 1
            if self._settling:
                self.settled.notify_all()
            if (self.queue or self.retries) and self.sleepers and now_s >= self._lenient_until_s:
                return self.sleepers.pop()
            return None

    # -- failures and slots --

    def failed(self, slot: Slot, entry: Entry, error: EngineFailed) -> tuple[bool, LockType | None]:
        """A request failed on a slot: whether it will be tried again, and a sleeper to wake or None."""
        with self.lock:
            entry.failure = error
            entry.tried = (*entry.tried, slot.gate)
            entry.losses += isinstance(error, EngineLost)
            if entry.waiting.deadline_s <= self._clock() or not self.slots.can_retry(entry):
                self.stats.failed += 1
                return False, None
            self.stats.retried += 1
            self.retries.append(entry)
            return True, self.sleepers.pop() if self.sleepers else None

    def add(self, slot: Slot) -> LockType | None:
        """Takes a slot into use; a sleeper to wake or None."""
        with self.lock:
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
            if not self.slots.all:
                self.stats.failed += 1
                return self._unavailable(entry.request)
            self.queue.put_back([entry])
            return None

    def close(self) -> list[LockType]:
        """Refuses from now on; the sleepers to wake."""
        with self.lock:
            self.closed = True
            return self._all_sleepers()

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

    # -- under the lock --

    def _unavailable(self, request: InferRequest) -> EdgeRuntimeError:
        if self.closed:
            return RuntimeClosed(f"{request.subject} has been unloaded")
        return EngineFailed(f"{request.subject}: no engine is in use: all that there were have failed or are starting")

    def _taken(self, slot: Slot, rows: int) -> Slot:
        slot.busy = True
        self.slots.busy += 1
        self.running_rows += rows
        return slot

    def _give_back(self, slot: Slot) -> None:
        slot.busy = False
        self.slots.busy -= 1
        if self._settling:
            self.settled.notify_all()

    def _arrived(self, now_s: float, rows: int) -> None:
        gap_s = (now_s - self._arrived_s) / rows
        self._arrived_s = now_s
        if math.isinf(self._row_every_s):
            self._row_every_s = gap_s
        else:
            self._row_every_s += _ARRIVALS_SMOOTHING * (gap_s - self._row_every_s)

    def _key(self, request: InferRequest) -> object:
        """What requests must share to be joined; None if this one can't be."""
        signature = self._signatures[request.signature]
        largest = self.slots.crowd[0].costs.largest
        if signature.batch_axis is None or largest == 1 or request.rows > largest:
            return None
        axis = signature.batch_axis
        shapes = []
        for spec in signature.inputs:
            array = request.inputs[spec.name]
            # Pixels and floats of one input would be joined to floats.
            shapes.append((array.dtype, array.shape[:axis], array.shape[axis + 1 :]))
        return (request.signature, tuple(shapes))

    def _may_overtake(self, request: InferRequest) -> bool:
        first = self.queue.first()
        if first is None or self.retries:
            return False
        now_s = self._clock()
        return may_overtake(
            run_s=self.slots.crowd[0].costs.seconds(1),
            waited_s=now_s - first.queued_s,
            left_s=first.waiting.deadline_s - now_s,
            urgent_waits=first.request.priority < request.priority,
        )

    def _retry(self) -> Work | None:
        for entry in self.retries:
            slot = self.slots.retry(entry)
            if slot is not None:
                self.retries.remove(entry)
                self._taken(slot, 0)
                return Work(slot, entry)
        return None

    def _from_queue(self) -> Work:
        first = self.queue.first()
        if first is None or not self.slots.all:
            return Work()
        now_s = self._clock()
        if now_s < self._lenient_until_s:
            return Work(nap_s=self._lenient_until_s - now_s)
        if self._yield_mark is not None:
            if self._yield_mark == self._overtakers:  # Nobody came back.
                self._yield_again_s = now_s + _YIELD_PAUSE * _YIELD_S
            self._yield_mark = None
        slot = self.slots.idle()
        if slot is None:
            return Work(nap_s=self._lease(first, now_s))
        if not self.slots.busy and len(self.queue) == 1 and self.slots.solo is not None:
            slot = self.slots.solo
        elif wait_s := self._window(slot):
            return Work(nap_s=wait_s)
        self._taken(slot, 0)
        return Work(slot)

    def _lease(self, first: Entry, now_s: float) -> float:
        """All slots are busy: how long the worker sleeps without being woken for each that becomes idle."""
        left_s = LEASE_S - (now_s - first.queued_s)
        if left_s <= 0 or self.slots.crowd[0].costs.seconds(1) >= SHORT_RUN_S:
            return -1.0
        self._lenient_until_s = now_s + left_s
        return left_s

    def _yields(self, slot: Slot) -> bool:
        """Whether the worker lets go of the slot for the callers that it has answered: see `LEASE_S`."""
        now_s = self._clock()
        first = self.queue.first()
        if first is None or slot.costs.seconds(1) >= SHORT_RUN_S or now_s < self._yield_again_s:
            return False
        if now_s - first.queued_s >= LEASE_S or first.waiting.deadline_s - now_s <= 2 * LEASE_S:
            return False
        self._yield_mark = self._overtakers
        self._lenient_until_s = now_s + _YIELD_S
        return True

    def _window(self, slot: Slot) -> float:
        """How long the batch that could run now waits for company."""
        costs, first = slot.costs, self.queue.first()
        if costs.largest == 1 or first is None or first.waiting.key is None or self.queue.rows >= costs.largest:
            return 0.0
        now_s = self._clock()
        wait_s = window_s(
            rows=self.queue.rows,
            sizes=costs.sizes,
            seconds=costs.seconds,
            row_every_s=self._row_every_s,
            waited_s=now_s - first.queued_s,
            left_s=first.waiting.deadline_s - now_s,
        )
        if wait_s:
            self._window_rows = next(size for size in costs.sizes if size > self.queue.rows)
        return wait_s

    def _too_late(self, entry: Entry, slot: Slot, now_s: float) -> EdgeRuntimeError:
        waited_ms = (now_s - entry.queued_s) * 1e3
        if entry.waiting.deadline_s <= now_s:
            self.stats.expired += 1
            return late(
                entry.request, now_s, {f"in the device's queue, {self.queue.rows} rows still behind": waited_ms}
            )
        self.stats.dropped += 1
        left_ms, run_ms = (entry.waiting.deadline_s - now_s) * 1e3, slot.costs.seconds(entry.waiting.rows) * 1e3
        stage = f"in the device's queue, with {left_ms:.1f} ms left for a run of {run_ms:.1f} ms,"
        return late(entry.request, now_s, {stage: waited_ms})

    def _homeless(self) -> Settled:
        lost = [entry for entry in self.retries if not self.slots.can_retry(entry)]
        for entry in lost:
            self.retries.remove(entry)
        settled: Settled = [(entry, entry.failure or self._unavailable(entry.request)) for entry in lost]
        if not self.slots.all:
            while self.queue:
                settled += [
                    (entry, self._unavailable(entry.request)) for entry in self.queue.head(_LOOK_AHEAD) if entry.claim()
                ]
        self.stats.failed += len(settled)
        return settled

    def _all_sleepers(self) -> list[LockType]:
        sleepers, self.sleepers = self.sleepers, []
        return sleepers
