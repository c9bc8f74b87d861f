"""The threads that run what waits: one for each slot, each on whichever slot it is let into."""

from __future__ import annotations

import logging
from _thread import LockType, allocate_lock
from collections.abc import Callable, Mapping

from converter.artifact import Signature
from edge_runtime.errors import EngineLost
from edge_runtime.scheduling.bulk import Bulk, run_piece
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.failures import Failures
from edge_runtime.scheduling.queue import Entry, hand_over
from edge_runtime.scheduling.runs import late, named, replied, run_joined
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.waking import wake
from edge_runtime.types import Reply

_log = logging.getLogger(__name__)

_FAULT_PAUSE_S = 0.05
"""How long a worker rests after a fault of its own, lest it does nothing but log them."""


class Worker:
    """What a worker's thread does. One object serves any number of threads."""

    def __init__(
        self,
        desk: Desk,
        failures: Failures,
        *,
        signatures: Mapping[str, Signature],
        version: int,
        clock: Callable[[], float],
    ) -> None:
        """Takes the batcher's."""
        self._desk = desk
        self._failures = failures
        self._signatures = signatures
        self._clock = clock
        self._version = version

    def serve(self) -> None:
        """Takes what the desk has for it, until closed and empty. No fault ends it: nobody would take its place."""
        me = allocate_lock()
        me.acquire()
        self._desk.workers.append(me)
        slept = False
        while True:
            try:
                work = self._desk.next(me, slept=slept)
                if work is None:
                    return
                slept = False
                for entry, error in work.settled:
                    entry.fail(error)
                wake(work.also)
                if work.slot is not None:
                    self._lead(work.slot)
                else:
                    slept = not me.acquire(timeout=work.nap_s)
            except Exception:  # noqa: BLE001  see above
                _log.exception("a worker failed, and goes on")
                self._put_right(me)

    def _put_right(self, me: LockType) -> None:
        """What a worker had when it failed is free."""
        for sleeper in self._desk.recover():
            wake(sleeper)
        me.acquire(timeout=_FAULT_PAUSE_S)

    def _lead(self, slot: Slot) -> None:
        """Runs what waits on a slot that it has, with its permits, batch after batch, until others are to have it."""
        answers: list[tuple[Entry, Reply]] = []
        goes_on = True
        while goes_on:
            begun_s = self._clock()
            runs: list[int] = []
            batch, settled = self._desk.take_batch(slot)
            try:
                for entry, error in settled:
                    entry.fail(error)
                # Only now, as the next run is about to let go of the GIL: who is woken earlier only waits for it.
                hand_over(answers)
                if batch:
                    runs = self._run(slot, batch, begun_s, answers)
                goes_on, sleeper = self._desk.goes_on(slot, runs, self._clock() - begun_s if batch else 0.0)
            except Exception as error:
                hand_over(answers)
                for entry in batch:
                    entry.fail(named(entry.request, error))
                raise
            wake(sleeper)
        hand_over(answers)

    def _run(self, slot: Slot, batch: list[Entry], begun_s: float, answers: list[tuple[Entry, Reply]]) -> list[int]:
        """Runs a batch; the rows of each run. What failed is settled, the answers are to be handed over.

        The time that counts is from `begun_s`, when the permits were there: what it costs to form the batch delays the
        queue as much as the run does.
        """
        request = batch[0].request
        if isinstance(batch[0].future, Bulk):
            return self._run_bulk(slot, batch[0], batch[0].future)
        slot.started_s = before_s = self._clock()
        try:
            outputs = run_joined(slot, self._signatures[request.signature], [entry.request for entry in batch])
        except Exception as error:  # noqa: BLE001  whatever it is belongs to these callers; the worker serves on
            failure = named(request, error)
            if isinstance(failure, EngineLost) or len(batch) == 1:
                self._failures.tell(slot, failure, self._failures.lost(slot, failure))
                for entry in batch:
                    self._failures.retry(slot, entry, failure)
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
                answers.append((entry, replied(entry.request, arrays, slot, self._version, done_s)))
        return [rows]

    def _run_bulk(self, slot: Slot, entry: Entry, bulk: Bulk) -> list[int]:
        done = len(bulk.outcomes)
        runs, error = run_piece(bulk, slot, self._signatures[entry.request.signature], self._clock, self._version)
        if error is not None:
            self._failures.tell(slot, error, self._failures.lost(slot, error))
        self._desk.ran(bulk, done)
        if bulk.done_all:
            bulk.finish()
        else:
            unanswered = self._desk.put_back(entry, len(bulk.requests) - len(bulk.outcomes))
            if unanswered is not None:
                entry.fail(unanswered)
        return runs
