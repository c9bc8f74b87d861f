"""An Executor over engines: the caller's own thread where one is idle, else a bounded queue, batched if that pays."""

from __future__ import annotations

import logging
import threading
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from converter.artifact import Signature
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost
from edge_runtime.scheduling.bulk import Bulk, run_piece
from edge_runtime.scheduling.cost import CostTable, DeviceCosts
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.queue import Entry, Queued, RequestQueue, hand_over, wake
from edge_runtime.scheduling.runs import late, named, run_joined
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.stats import BatcherStats, Load
from edge_runtime.types import Arrays, InferRequest, Reply

_log = logging.getLogger(__name__)

_WAITING = "waiting for the device's queue"


INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What a signal's handler raises in the main thread, between any two steps."""


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
        self._on_failure = on_failure
        self._on_pressure = on_pressure
        self._signatures = {signature.name: signature for signature in signatures}
        self._desk = Desk(self._signatures, RequestQueue(max_queued_requests, max_queued_bytes), clock)
        self._costs: CostTable | DeviceCosts = CostTable({1: 0.0}, clock)
        self._workers: list[threading.Thread] = []
        self._names = count()
        self._origin = Origin()
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Batcher {self._desk.slots!r}, {self._desk.queue!r}, {self._costs!r}>"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, by rank."""
        return self._desk.slots.all

    @property
    def costs(self) -> CostTable | DeviceCosts:
        """What a request costs here: what the router predicts from."""
        return self._costs

    @property
    def load(self) -> Load:
        """How busy it is now."""
        desk, queue = self._desk, self._desk.queue
        return Load(len(queue), queue.rows, desk.running_rows, len(desk.slots.crowd), not queue.has_room())

    def stats(self) -> BatcherStats:
        """What it has done so far, and its state."""
        return self._desk.snapshot()

    def add(self, slot: Slot) -> None:
        """Takes a slot into use. One of a rank above the lowest stands by."""
        with self._changing:
            slot.share = next(
                (one.share for one in self.slots if one.gate is slot.gate),
                slot.gate.join(self._weight, repr(self._version)),
            )
            sleeper = self._desk.add(slot)
            self._recost()
            for _ in range(len(self.slots) - len(self._workers)):
                worker = threading.Thread(target=self._serve, name=f"edge-engine-{next(self._names)}", daemon=True)
                self._workers.append(worker)
                worker.start()
        wake(sleeper)

    def remove(self, slot: Slot) -> None:
        """Takes a slot out of use, and waits until its run has ended; at once if its engine is lost.

        The engine stays open. If it was the last slot, those who wait get EngineFailed.
        """
        lost = not slot.usable
        with self._changing:
            settled, sleepers = self._desk.remove(slot)
            self._recost()
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
            return None if slot is None else self._run_here(slot, request, counted=False)
        except INTERRUPTS:
            self._recover()
            raise

    def _run_here(self, slot: Slot, request: InferRequest, *, counted: bool) -> Reply:
        """Runs a request in this thread on a slot that it has, with its permits."""
        desk, clock, rows = self._desk, self._clock, request.rows
        failure: Exception | None = None
        before_s = clock()
        try:
            outputs = slot.engine.run(request.signature, request.inputs, slot.limit_s(rows))
        except Exception as error:  # noqa: BLE001  told below, when the slot is free for others
            failure = error
        finally:
            done_s = clock()
            run_s = done_s - before_s
            if failure is not None:
                self._tell(slot, failure := named(request, failure))
            slot.gate.leave(slot.share, run_s, slot.permits, slot)
            sleeper = desk.release(slot, (rows,), rows, run_s, done_s, counted=counted)
            if sleeper is not None:
                wake(sleeper)
                desk.handed()
        if failure is not None:
            try:
                return self._again(slot, request, failure)
            finally:
                failure = None  # its traceback holds this frame, which would hold it
        slot.costs.record(rows, run_s, done_s)
        if request.deadline_s is not None and done_s > request.deadline_s:
            desk.stats.expired += 1
            raise late(request, done_s, {"running": run_s * 1e3})
        # `_reply`, written out: this is the way of every request on an idle device.
        return Reply(
            outputs=outputs,
            version=self._version,
            place=slot.engine.place,
            reason=request.reason,
            latency_ms=(done_s - request.start_s) * 1e3,
        )

    def _recover(self) -> None:
        """A caller was interrupted (Ctrl-C) wherever it was: what it had is given back.

        Raises:
            KeyboardInterrupt: interrupted again; then at the next one.
        """
        known = self._desk.known
        mine, sleepers = self._desk.recover()
        for gate in dict.fromkeys(slot.gate for slot in known):
            gate.recover([slot for slot in mine if slot.gate is gate])
        for sleeper in sleepers:
            wake(sleeper)

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
            slot = self._desk.take_idle(request)
            return self._await(self._put(request, None)) if slot is None else self._at_the_gate(slot, request)
        except INTERRUPTS:
            self._recover()
            raise

    def submit(self, request: InferRequest) -> Queued:
        """See `Executor`."""
        future = Queued()
        future.on_cancel = partial(self._desk.give_up, self._put(request, future), expired=False)
        return future

    def submit_bulk(self, requests: Sequence[InferRequest]) -> Bulk:
        """Takes requests of offline work that are answered together: of one signature, without deadlines.

        They hold an engine for some milliseconds at a time, and let more urgent ones through in between.

        Raises:
            Overloaded, EngineFailed, RuntimeClosed: they were not taken.
        """
        bulk = Bulk(requests)
        bulk.on_cancel = partial(self._desk.give_up, self._put(bulk.whole, bulk), expired=False)
        return bulk

    def try_bulk(self, bulk: Bulk) -> bool:
        """Runs a piece of a bulk that is not queued in this thread, if an engine is idle; whether it did.

        Raises:
            EngineFailed, RuntimeClosed: as in `try_infer`.
        """
        try:
            return self._piece(bulk)
        except INTERRUPTS:
            self._recover()
            raise

    def _piece(self, bulk: Bulk) -> bool:
        request = bulk.requests[0]
        slot = self._desk.take_now(request)
        if slot is None:
            return False
        runs: list[int] = []
        before_s = self._clock()
        try:
            runs, error = run_piece(bulk, slot, self._signatures[request.signature], self._clock, self._reply)
            if error is not None:
                self._tell(slot, error)
        finally:
            done_s = self._clock()
            slot.gate.leave(slot.share, done_s - before_s, slot.permits, slot)
            wake(self._desk.release(slot, runs, request.rows, done_s - before_s, done_s, counted=False))
        return True

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
        for slot in slots:
            for entry, error in self._desk.remove(slot)[0]:
                entry.fail(error)
        for engine in dict.fromkeys(slot.engine for slot in slots):
            engine.close()

    def _put(self, request: InferRequest, future: Queued | None) -> Entry:
        self._origin.check(request.subject)
        entry, sleeper, pressed = self._desk.put(request, future)
        wake(sleeper)
        if pressed:
            self._on_pressure()
        return entry

    def _await(self, entry: Entry) -> Reply:
        request = entry.request
        remaining_s = None if request.deadline_s is None else max(request.deadline_s - self._clock(), 0.0)
        try:
            outcome = entry.wait(remaining_s)
        except EdgeRuntimeError:
            raise
        except BaseException:  # Ctrl-C: nobody waits for the answer any more.
            self._let_go(self._desk.give_up(entry, expired=False), request)
            raise
        if isinstance(outcome, Reply):
            return outcome
        if outcome is None:
            self._let_go(self._desk.give_up(entry, expired=True), request)
            now_s = self._clock()
            raise late(request, now_s, {_WAITING: (now_s - request.start_s) * 1e3})
        if not outcome.usable:  # Its engine was lost between the giving and the waking.
            self._let_go(outcome, request)
            return self._await(self._put(request, None))
        if not outcome.gate.try_enter(outcome.share, outcome.permits, outcome):
            outcome.gate.enter(outcome.share, outcome.permits, outcome)
        return self._run_here(outcome, request, counted=True)

    def _at_the_gate(self, slot: Slot, request: InferRequest) -> Reply:
        """Runs a request in this thread on a slot that it has, as soon as the other versions let the device go."""
        left_s = None
        if request.deadline_s is not None:
            left_s = request.deadline_s - self._clock() - slot.costs.seconds(request.rows)
        if not slot.gate.enter(slot.share, slot.permits, slot, left_s):
            wake(self._desk.release(slot, (), request.rows, 0.0, self._clock(), counted=False))
            now_s = self._clock()
            raise late(request, now_s, {_WAITING: (now_s - request.start_s) * 1e3})
        if not slot.usable:  # Its engine was lost meanwhile.
            slot.gate.leave(slot.share, 0.0, slot.permits, slot)
            wake(self._desk.release(slot, (), request.rows, 0.0, self._clock(), counted=False))
            return self._await(self._put(request, None))
        return self._run_here(slot, request, counted=False)

    def _let_go(self, slot: Slot | None, request: InferRequest) -> None:
        """Gives back a slot that a request was given and does not need."""
        if slot is not None:
            wake(self._desk.release(slot, (), request.rows, 0.0, self._clock(), counted=True))

    def _reply(self, request: InferRequest, outputs: Arrays, slot: Slot, done_s: float) -> Reply:
        return Reply(
            outputs=outputs,
            version=self._version,
            place=slot.engine.place,
            reason=request.reason,
            latency_ms=(done_s - request.start_s) * 1e3,
        )

    def _recost(self) -> None:
        """What the router sees follows the slots; without any the last figures stay."""
        crowd, solo = self._desk.slots.crowd, self._desk.slots.solo
        if crowd:
            loaded = crowd[0].costs
            alone = loaded if solo is None else solo.costs
            self._costs = loaded if alone is loaded else DeviceCosts(alone, loaded)

    def _serve(self) -> None:
        """A worker: takes what the desk has for it, until closed and empty."""
        me = allocate_lock()
        me.acquire()
        self._desk.workers.append(me)
        slept = False
        while (work := self._desk.next(me, slept=slept)) is not None:
            slept = False
            for entry, error in work.settled:
                entry.fail(error)
            if work.slot is not None:
                self._lead(work.slot, work.entry)
            elif not me.acquire(timeout=work.nap_s):
                slept = True
                self._desk.woke(me)

    def _lead(self, slot: Slot, retried: Entry | None) -> None:
        """Runs what waits on a slot that is taken, batch after batch, until it is to be given back."""
        answers: list[tuple[Entry, Reply]] = []
        slot.gate.enter(slot.share, slot.permits, slot)
        while True:
            begun_s = self._clock()
            runs: list[int] = []
            batch: list[Entry] = []
            goes_on, sleeper = False, None
            try:
                batch, settled = self._desk.take_batch(slot, retried)
                retried = None
                for entry, error in settled:
                    entry.fail(error)
                # Only now, as the next run is about to let go of the GIL: who is woken earlier only waits for it.
                hand_over(answers)
                if batch:
                    runs = self._run(slot, batch, begun_s, answers)
            finally:
                run_s = self._clock() - begun_s if batch else 0.0
                goes_on, sleeper = self._desk.goes_on(slot, runs, batch, run_s)
                if not goes_on:
                    slot.gate.leave(slot.share, run_s, slot.permits, slot)
                wake(sleeper)
            if not goes_on:
                break
            turn = slot.gate.turn(slot.share, run_s, slot.permits, slot)
            if turn is not None:
                hand_over(answers)
                slot.gate.wait(turn)
        hand_over(answers)

    def _run(self, slot: Slot, batch: list[Entry], begun_s: float, answers: list[tuple[Entry, Reply]]) -> list[int]:
        """Runs a batch; the rows of each run. What failed is settled, the answers are to be handed over.

        The time that counts is from `begun_s`, when the permits were there: what it costs to form the batch delays the
        queue as much as the run does.
        """
        request = batch[0].request
        if isinstance(batch[0].future, Bulk):
            return self._run_bulk(slot, batch[0], batch[0].future)
        before_s = self._clock()
        try:
            outputs = run_joined(slot, self._signatures[request.signature], [entry.request for entry in batch])
        except Exception as error:  # noqa: BLE001  whatever it is belongs to these callers; the worker serves on
            failure = named(request, error)
            if isinstance(failure, EngineLost) or len(batch) == 1:
                self._tell(slot, failure)
                for entry in batch:
                    self._failed(slot, entry, failure)
                return []
            # One request may have spoilt it for all: each gets a run of its own.
            _log.warning("a batch of %d requests failed, running them one by one: %s", len(batch), error)
            return [rows for entry in batch for rows in self._run(slot, [entry], self._clock(), answers)]
        done_s = self._clock()
        rows = sum([entry.request.rows for entry in batch])
        slot.costs.record(rows, done_s - begun_s, done_s)
        for entry, arrays in zip(batch, outputs, strict=True):
            if done_s > entry.waiting.deadline_s:
                self._desk.stats.expired += 1
                queued_ms, run_ms = (before_s - entry.queued_s) * 1e3, (done_s - before_s) * 1e3
                entry.fail(late(entry.request, done_s, {"in the device's queue": queued_ms, "running": run_ms}))
            else:
                answers.append((entry, self._reply(entry.request, arrays, slot, done_s)))
        return [rows]

    def _run_bulk(self, slot: Slot, entry: Entry, bulk: Bulk) -> list[int]:
        runs, error = run_piece(bulk, slot, self._signatures[entry.request.signature], self._clock, self._reply)
        if error is not None:
            self._tell(slot, error)
        if bulk.done_all:
            bulk.finish()
        else:
            unanswered = self._desk.put_back(entry)
            if unanswered is not None:
                entry.fail(unanswered)
        return runs

    def _again(self, slot: Slot, request: InferRequest, failure: Exception) -> Reply:
        """A run in the caller's thread failed: another device answers, if there is one."""
        if not isinstance(failure, EngineFailed) or not self._origin.is_here:
            raise failure
        entry = self._desk.queue.entry(request, None, self._clock())
        self._failed(slot, entry, failure)
        return self._await(entry)

    def _failed(self, slot: Slot, entry: Entry, failure: EdgeRuntimeError) -> None:
        """A request's run failed: it is tried again on another slot, or ends."""
        if isinstance(failure, EngineFailed):
            tried_again, sleeper = self._desk.failed(slot, entry, failure)
            wake(sleeper)
            if tried_again:
                return
        entry.fail(failure)

    def _tell(self, slot: Slot, failure: EdgeRuntimeError) -> None:
        """The slot goes out of use if its engine is lost, and whoever supervises it hears of the failure."""
        if not isinstance(failure, EngineFailed):
            return
        if isinstance(failure, EngineLost):
            settled = self._desk.lose(slot)
            self._recost()
            for entry, error in settled:
                entry.fail(error)
        try:
            self._on_failure(slot, failure)
        except Exception:  # noqa: BLE001  a supervisor's fault must not end the engine's worker
            _log.exception("%r: the handler of its failure failed", slot)
