"""An Executor over engines: the caller's own thread where one is idle, else a bounded queue, batched if that pays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TypeVar

from converter.artifact import Signature
from edge_runtime.engine import threads
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import EdgeRuntimeError, EngineFailed
from edge_runtime.scheduling.allotment import REOPENING
from edge_runtime.scheduling.bulk import Bulk, run_piece
from edge_runtime.scheduling.cost import CostTable, DeviceCosts
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.failures import Failures
from edge_runtime.scheduling.queue import Entry, Queued, RequestQueue
from edge_runtime.scheduling.runs import foreign, late, named
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.stats import BatcherStats, Load
from edge_runtime.scheduling.waking import wake
from edge_runtime.scheduling.worker import Worker
from edge_runtime.types import InferRequest, Reply

F = TypeVar("F", bound=Queued)

_log = logging.getLogger(__name__)

_WAITING = "waiting for the device's queue"


_START_S = 5.0
"""A thread that does not run by then is not waited for: the system starts none now."""

_ATTEMPTS = 16
"""How often an interrupted caller is put right at most, where that is interrupted too."""


def _ignore_failure(slot: Slot, error: EdgeRuntimeError) -> None:
    """Nobody supervises: the log says it."""
    _log.warning("%r failed: %s", slot, error)


def _ignore_pressure() -> None:
    """Nobody adds slots."""


class Batcher:
    """Runs requests of one version on its slots. Thread-safe."""

    def __init__(
        self,
        signatures: Sequence[Signature],
        *,
        version: int,
        max_queued_requests: int,
        max_queued_bytes: int,
        clock: Callable[[], float],
        weight: float = 1.0,
        on_failure: Callable[[Slot, EdgeRuntimeError], None] = _ignore_failure,
        on_pressure: Callable[[], None] = _ignore_pressure,
    ) -> None:
        """Has no slot yet: until `add`, requests fail with EngineFailed.

        Args:
            signatures: What callers see.
            version: What replies say.
            max_queued_requests: Beyond it, requests are refused.
            max_queued_bytes: The same, for the bytes of their inputs.
            clock: Monotonic seconds.
            weight: The version's share of each device, beside the weights of the other versions on it.
            on_failure: Told of each failed run, in the thread that ran it; a slot whose engine is lost is out of use
                by then. Must return quickly.
            on_pressure: Told, at most once a second, that a request had to wait since all slots were busy. Likewise.
        """
        self._version = version
        self._clock = clock
        self._weight = weight
        self._on_pressure = on_pressure
        self._signatures = {signature.name: signature for signature in signatures}
        self._desk = Desk(self._signatures, RequestQueue(max_queued_requests, max_queued_bytes), clock)
        self._failures = Failures(self._desk, on_failure)
        self._worker = Worker(self._desk, self._failures, signatures=self._signatures, version=version, clock=clock)
        self._workers: list[threading.Thread] = []
        self._names = count()
        self._origin = Origin()
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Batcher {self._desk.slots!r}, {self._desk.queue!r}, {self.costs!r}>"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, by rank."""
        return self._desk.slots.all

    @property
    def costs(self) -> CostTable | DeviceCosts:
        """What a request costs here: what the router predicts from."""
        return self._desk.slots.costs

    @property
    def load(self) -> Load:
        """How busy it is now."""
        desk, queue = self._desk, self._desk.queue
        stalled = desk.stalled(self._clock()) if (running_rows := desk.running_rows) else (0, 0.0)
        return Load(len(queue), queue.rows, running_rows, len(desk.slots.crowd), not queue.has_room(), *stalled)

    def is_last(self, request: InferRequest) -> bool:
        """Whether a request that comes now would wait, and behind all others."""
        return self._desk.queue.is_last(request)

    def stats(self) -> BatcherStats:
        """What it has done so far, and its state."""
        return self._desk.snapshot()

    def add(self, slot: Slot) -> None:
        """Takes a slot into use. One of a rank above the lowest stands by.

        Raises:
            EngineFailed: no thread can be started for it now; it is not in use.
        """
        with self._changing:
            slot.share = next(
                (one.share for one in self.slots if one.gate is slot.gate),
                slot.gate.join(self._weight, repr(self._version)),
            )
            while len(self._workers) <= len(self.slots):
                self._hire(slot)
            sleepers = self._desk.add(slot)
        for sleeper in sleepers:
            wake(sleeper)

    def _hire(self, slot: Slot) -> None:
        """One more worker, which counts only when it runs: `close` waits for each."""
        started = threading.Event()

        def serve() -> None:
            started.set()
            self._worker.serve()

        worker = threading.Thread(target=serve, name=f"edge-engine-{next(self._names)}", daemon=True)
        try:
            threads.run(worker, started, _START_S)
        except (RuntimeError, MemoryError) as error:
            raise EngineFailed(f"no thread can be started for {slot!r}: {error}") from error
        self._workers.append(worker)

    def remove(self, slot: Slot) -> None:
        """Takes a slot out of use, and waits until its run has ended; at once if its engine is lost.

        The engine stays open. If it was the last slot, those who wait get EngineFailed.
        """
        lost = not slot.usable
        with self._changing:
            settled, sleepers = self._desk.remove(slot)
        for sleeper in sleepers:
            wake(sleeper)
        for entry, error in settled:
            entry.fail(error)
        if not lost:
            self._desk.wait_until_idle((slot,))

    def expect(self, *, slots: bool) -> None:
        """Whether a slot is on its way where there is none, or where the last one gets lost.

        If so, requests wait for it, each at most until its deadline, also those that a lost engine did not answer. If
        not, or no more, they get EngineFailed at once.
        """
        for entry, error in self._desk.expect(slots=slots):
            entry.fail(error)

    def try_infer(self, request: InferRequest) -> Reply | None:
        """Answers in this thread if an engine is idle and nobody waits; None if not.

        Where runs are short, who comes back at once is served before those that wait, for some milliseconds: see
        `leases`.

        Raises:
            EngineFailed: there is no slot, or the run failed, and on the other devices too.
            RuntimeClosed: closed meanwhile.
        """
        try:
            slot = self._desk.take_now(request)
            return None if slot is None else self._run_here(slot, request, 1)
        except EdgeRuntimeError:
            raise
        except BaseException:
            self._recover()
            raise

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`. Waits in the queue if no engine is idle, at most until the deadline."""
        reply = self.try_infer(request)
        return self.wait(request) if reply is None else reply

    def wait(self, request: InferRequest) -> Reply:
        """Takes a place in the queue and waits there for the answer, at most until the deadline.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded, EngineFailed, RuntimeClosed: see `edge_runtime.errors`.
        """
        try:
            return self._await(self._put(request, None))
        except EdgeRuntimeError:
            raise
        except BaseException:
            self._recover()
            raise

    def submit(self, request: InferRequest) -> Queued:
        """See `Executor`."""
        return self._queued(request, Queued())

    def submit_bulk(self, requests: Sequence[InferRequest]) -> Bulk:
        """Takes requests of offline work that are answered together: of one signature, without deadlines.

        They hold an engine for some milliseconds at a time, and let more urgent ones through in between.

        Raises:
            Overloaded, EngineFailed, RuntimeClosed: they were not taken.
        """
        bulk = Bulk(requests)
        return self._queued(bulk.whole, bulk)

    def try_bulk(self, bulk: Bulk) -> bool:
        """Runs a piece of a bulk that is not queued in this thread, if an engine is idle; whether it did.

        Raises:
            EngineFailed, RuntimeClosed: as in `try_infer`.
        """
        try:
            return self._piece(bulk)
        except EdgeRuntimeError:
            raise
        except BaseException:
            self._recover()
            raise

    def close(self) -> None:
        """Refuses new requests, finishes those that it took, then closes the engines of the slots that it has."""
        settled, sleepers = self._desk.close()
        for entry, error in settled:
            entry.fail(error)
        for sleeper in sleepers:
            wake(sleeper)
        with self._changing:
            workers = list(self._workers)
        for worker in workers:
            if worker is not threading.current_thread():
                worker.join()
        slots = self.slots
        self._desk.wait_until_idle(slots)
        # Closed before they are let go of: whoever is interrupted here finds them again.
        for engine in dict.fromkeys(slot.engine for slot in slots):
            engine.close()
        for slot in slots:
            for entry, error in self._desk.remove(slot)[0]:
                entry.fail(error)

    # -- in the callers' threads --

    def _queued(self, request: InferRequest, future: F) -> F:
        try:
            entry = self._put(request, future)
            future.on_cancel = partial(self._cancelled, entry)
        except EdgeRuntimeError:
            raise
        except BaseException:
            self._recover()
            future.cancel()  # Nobody has it.
            raise
        return future

    def _cancelled(self, entry: Entry) -> None:
        try:
            self._desk.give_up(entry, expired=False)
        except BaseException:
            self._recover()
            raise

    def _put(self, request: InferRequest, future: Queued | None) -> Entry:
        self._origin.check(request.subject)
        entry, sleeper, pressed = self._desk.put(request, future)
        wake(sleeper)
        if pressed:
            self._on_pressure()
        return entry

    def _await(self, entry: Entry) -> Reply:
        request = entry.request
        outcome = entry.wait(None if request.deadline_s is None else max(request.deadline_s - self._clock(), 0.0))
        if isinstance(outcome, Reply):
            return outcome
        if outcome is None:
            self._let_go(self._desk.give_up(entry, expired=True))
            now_s = self._clock()
            stage = _WAITING if self.slots else REOPENING
            raise late(request, now_s, {stage: (now_s - request.start_s) * 1e3})
        outcome.given = None
        if not outcome.usable:  # Its engine was lost between the giving and the waking.
            self._let_go(outcome)
            return self._await(self._put(request, None))
        return self._run_here(outcome, request, 0)

    def _let_go(self, slot: Slot | None) -> None:
        """Gives back a slot that a request was given and does not need."""
        if slot is not None:
            slot.given = None
            wake(self._desk.release(slot, (), 0.0, self._clock()))

    def _run_here(self, slot: Slot, request: InferRequest, requests: int) -> Reply:
        """Runs a request in this thread on a slot that it has, with its permits; what is not counted yet is `requests`.

        What is raised on the way and is no EdgeRuntimeError leaves the slot to `_recover`.
        """
        clock, rows = self._clock, request.rows
        slot.started_s = before_s = clock()
        try:
            outputs = slot.engine.run(request.signature, request.inputs, slot.limit_s(rows))
        except Exception as error:
            if foreign(error):
                raise
            failure = named(request, error)
            try:
                return self._failed_here(slot, request, requests, failure, before_s)
            finally:
                del failure  # Its traceback holds this frame, which would hold it.
        done_s = clock()
        run_s = done_s - before_s
        sleeper = self._desk.release(slot, (rows,), run_s, done_s, requests, rows * requests)
        if sleeper is not None:
            wake(sleeper)
        slot.costs.record(rows, run_s, done_s)
        if request.deadline_s is not None and done_s > request.deadline_s:
            self._desk.stats.expired += 1
            raise late(request, done_s, {"running": run_s * 1e3})
        # `replied`, written out: this is the way of every request on an idle device.
        return Reply(
            outputs=outputs,
            version=self._version,
            place=slot.engine.place,
            reason=request.reason,
            latency_ms=(done_s - request.start_s) * 1e3,
        )

    def _failed_here(
        self, slot: Slot, request: InferRequest, requests: int, failure: EdgeRuntimeError, before_s: float
    ) -> Reply:
        """A run in the caller's thread failed: another device answers, if there is one."""
        desk, failures, done_s = self._desk, self._failures, self._clock()
        settled = failures.lost(slot, failure)
        rows = request.rows
        wake(desk.release(slot, (rows,), done_s - before_s, done_s, requests, rows * requests))
        failures.tell(slot, failure, settled)
        if not isinstance(failure, EngineFailed) or not self._origin.is_here:
            raise failure
        entry = desk.queue.entry(request, None, self._clock())
        failures.retry(slot, entry, failure)
        return self._await(entry)

    def _piece(self, bulk: Bulk) -> bool:
        done = len(bulk.outcomes)
        first = bulk.requests[done]
        slot = self._desk.take_now(first)
        if slot is None:
            return False
        before_s = self._clock()
        signature = self._signatures[first.signature]
        runs, failure = run_piece(bulk, slot, signature, self._clock, self._version, own_thread=True)
        settled = [] if failure is None else self._failures.lost(slot, failure)
        done_s = self._clock()
        self._desk.ran(bulk, done)
        wake(self._desk.release(slot, runs, done_s - before_s, done_s))
        if failure is not None:
            self._failures.tell(slot, failure, settled)
        return True

    def _recover(self) -> None:
        """A caller was interrupted wherever it was: what it had is given back.

        Not by Ctrl-C alone: a signal's handler may raise anything.

        Raises:
            BaseException: what interrupted this, in its turn.
        """
        again: BaseException | None = None
        for _ in range(_ATTEMPTS):
            try:
                for sleeper in self._desk.recover():
                    wake(sleeper)
                break
            except BaseException as error:  # noqa: BLE001  raised when that is done
                again = error
        if again is not None:
            raise again
