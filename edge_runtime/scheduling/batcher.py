"""An Executor over engines: the caller's own thread where one is idle, else a bounded queue, batched if that pays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import msgspec
import numpy as np

from converter.artifact import Signature
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, EngineFailed, Overloaded, RuntimeClosed
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.policy import form_batch
from edge_runtime.scheduling.queue import Entry, RequestQueue, size_of
from edge_runtime.types import Arrays, InferRequest, Reply

_log = logging.getLogger(__name__)

_LOOK_AHEAD = 64
"""Entries that are looked at to form a batch: bounds the work under the lock, and exceeds every useful batch size."""


class Load(msgspec.Struct, frozen=True, gc=False):
    """How busy a batcher is: what the router predicts from.

    Attributes:
        queued_requests: Requests that wait.
        queued_rows: Their rows.
        running_rows: Rows that run now.
        engines: Engines in all.
        full: Whether the queue refuses.
    """

    queued_requests: int
    queued_rows: int
    running_rows: int
    engines: int
    full: bool


class Batcher:
    """Runs requests of one version on its engines. Thread-safe."""

    def __init__(
        self,
        engines: Sequence[Engine],
        signatures: Sequence[Signature],
        *,
        version: int,
        costs: CostTable,
        max_queued_requests: int,
        max_queued_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """Starts one thread an engine; they sleep while callers find an engine idle.

        Args:
            engines: At least one, all of the same variant.
            signatures: What callers see.
            version: What replies say.
            costs: Measured on these engines; kept up to date here.
            max_queued_requests: Beyond it, requests are refused.
            max_queued_bytes: The same, for the bytes of their inputs.
            clock: Monotonic seconds.
        """
        self.costs = costs
        self._version = version
        self._clock = clock
        self._idle = list(engines)
        self._engines = tuple(engines)
        self._signatures = {signature.name: signature for signature in signatures}
        self._queue = RequestQueue(max_queued_requests, max_queued_bytes)
        self._running_rows = 0
        self._closed = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._workers = [
            threading.Thread(target=self._serve, name=f"edge-engine-{index}", daemon=True)
            for index in range(len(engines))
        ]
        for worker in self._workers:
            worker.start()

    def __repr__(self) -> str:
        return f"<Batcher {len(self._idle)} of {len(self._engines)} engines idle, {self._queue!r}, {self.costs!r}>"

    @property
    def load(self) -> Load:
        """How busy it is now."""
        queue = self._queue
        return Load(len(queue), queue.rows, self._running_rows, len(self._engines), not queue.has_room())

    def try_infer(self, request: InferRequest) -> Reply | None:
        """Answers in this thread if an engine is idle and nobody waits; None if not.

        Raises:
            EngineFailed: the run failed.
            RuntimeClosed: closed meanwhile.
        """
        with self._lock:
            if self._closed:
                raise RuntimeClosed(f"{request.subject} has been unloaded")
            if not self._idle or self._queue:
                return None
            engine = self._idle.pop()
            self._running_rows += request.rows
        clock = self._clock
        try:
            before_s = clock()
            outputs = engine.run(request.signature, request.inputs)
            done_s = clock()
        finally:
            self._release(engine, request.rows)
        self.costs.record(request.rows, done_s - before_s)
        if request.deadline_s is not None and done_s > request.deadline_s:
            raise late(request, done_s, {"running": (done_s - before_s) * 1e3})
        return Reply(
            outputs=outputs,
            version=self._version,
            place=engine.place,
            reason=request.reason,
            latency_ms=(done_s - request.start_s) * 1e3,
        )

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`. Waits in the queue if no engine is idle, at most until the deadline."""
        reply = self.try_infer(request)
        if reply is not None:
            return reply
        future = self.submit(request)
        remaining_s = None if request.deadline_s is None else max(request.deadline_s - self._clock(), 0)
        try:
            return future.result(remaining_s)
        except TimeoutError as error:
            if isinstance(error, EdgeRuntimeError):
                raise
            future.cancel()
            raise late(request, self._clock(), {"waiting for the device": (remaining_s or 0) * 1e3}) from None

    def submit(self, request: InferRequest) -> Future[Reply]:
        """See `Executor`."""
        with self._lock:
            if self._closed:
                raise RuntimeClosed(f"{request.subject} has been unloaded")
            if not self._queue.has_room(size_of(request)):
                raise Overloaded(
                    f"{request.subject}: {size_of(request)} bytes don't fit into the device's queue: {self._queue!r}"
                )
            entry = self._queue.push(request, self._key(request), self._clock())
            if self._idle:
                self._work.notify()
        entry.future.add_done_callback(lambda future: self._drop(entry) if future.cancelled() else None)
        return entry.future

    def close(self) -> None:
        """Refuses new requests, finishes those that it took, then frees the engines."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
        for worker in self._workers:
            worker.join()
        with self._lock:
            self._settled.wait_for(lambda: len(self._idle) == len(self._engines))
            self._idle.clear()
        for engine in self._engines:
            engine.close()

    def _drop(self, entry: Entry) -> None:
        with self._lock:
            self._queue.drop(entry)

    def _key(self, request: InferRequest) -> object:
        """What requests must share to be joined; None if this one can't be."""
        signature = self._signatures[request.signature]
        if signature.batch_axis is None or request.rows > self.costs.largest or self.costs.largest == 1:
            return None
        axis = signature.batch_axis
        shapes = []
        for spec in signature.inputs:
            array = request.inputs[spec.name]
            # Pixels and floats of one input would be joined to floats.
            shapes.append((array.dtype, array.shape[:axis], array.shape[axis + 1 :]))
        return (request.signature, tuple(shapes))

    def _serve(self) -> None:
        """A worker: takes an idle engine and a batch, runs it, until closed and empty."""
        while True:
            with self._lock:
                begun_s = self._clock()
                while not (self._idle and self._queue):
                    if self._closed and not self._queue:
                        return
                    self._work.wait()
                    begun_s = self._clock()
                engine = self._idle.pop()
                batch, expired = self._take()
                rows = sum(entry.request.rows for entry in batch)
                self._running_rows += rows
            try:
                for entry in expired:
                    self._expire(entry)
                if batch:
                    self._run(engine, batch, begun_s)
            finally:
                self._release(engine, rows)

    def _take(self) -> tuple[list[Entry], list[Entry]]:
        looked_at = self._queue.head(_LOOK_AHEAD)
        plan = form_batch([entry.waiting for entry in looked_at], self._clock(), self.costs.sizes)
        leaving = set(plan.run) | set(plan.expired)
        self._queue.put_back(entry for i, entry in enumerate(looked_at) if i not in leaving)
        batch = [looked_at[i] for i in plan.run]
        # From here on a caller can't cancel any more: what runs is answered.
        batch = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        return batch, [looked_at[i] for i in plan.expired]

    def _run(self, engine: Engine, batch: list[Entry], begun_s: float) -> None:
        """Runs a batch and settles its futures.

        The time that counts is from `begun_s`, when this worker became free: what it cost to get here delays the
        queue as much as the run does.
        """
        before_s = self._clock()
        try:
            outputs = self._run_joined(engine, batch)
        except Exception as error:  # noqa: BLE001  whatever it is belongs to these callers; the worker serves on
            if len(batch) == 1:
                batch[0].future.set_exception(_named(batch[0].request, error))
                return
            # One request may have spoilt it for all: each gets a run of its own.
            _log.warning("a batch of %d requests failed, running them one by one: %s", len(batch), error)
            for entry in batch:
                self._run(engine, [entry], self._clock())
            return
        done_s = self._clock()
        self.costs.record(sum(entry.request.rows for entry in batch), done_s - begun_s)
        for entry, arrays in zip(batch, outputs, strict=True):
            request = entry.request
            if request.deadline_s is not None and done_s > request.deadline_s:
                spent_ms = {
                    "in the device's queue": (before_s - entry.queued_s) * 1e3,
                    "running": (done_s - before_s) * 1e3,
                }
                entry.future.set_exception(late(request, done_s, spent_ms))
                continue
            entry.future.set_result(
                Reply(
                    outputs=arrays,
                    version=self._version,
                    place=engine.place,
                    reason=request.reason,
                    latency_ms=(done_s - request.start_s) * 1e3,
                )
            )

    def _run_joined(self, engine: Engine, batch: list[Entry]) -> list[Arrays]:
        first = batch[0].request
        if len(batch) == 1:
            return [engine.run(first.signature, first.inputs)]
        signature = self._signatures[first.signature]
        axis = signature.batch_axis or 0
        joined = {
            spec.name: np.concatenate([entry.request.inputs[spec.name] for entry in batch], axis=axis)
            for spec in signature.inputs
        }
        return split(engine.run(first.signature, joined), [entry.request.rows for entry in batch], axis)

    def _expire(self, entry: Entry) -> None:
        if entry.future.set_running_or_notify_cancel():
            now_s = self._clock()
            stage = f"in the device's queue, {self._queue.rows} rows still behind"
            entry.future.set_exception(late(entry.request, now_s, {stage: (now_s - entry.queued_s) * 1e3}))

    def _release(self, engine: Engine, rows: int) -> None:
        with self._lock:
            self._idle.append(engine)
            self._running_rows -= rows
            if self._queue:
                self._work.notify()
            elif self._closed:
                self._work.notify_all()
                self._settled.notify_all()


def _named(request: InferRequest, error: Exception) -> EdgeRuntimeError:
    """The error itself where it has a name, else an EngineFailed that says what it was."""
    if isinstance(error, EdgeRuntimeError):
        return error
    _log.error("%s: an engine failed in a way that has no name", request.subject, exc_info=error)
    return EngineFailed(f"{request.subject}: {type(error).__name__}: {error}")


def late(request: InferRequest, now_s: float, spent_ms: dict[str, float]) -> DeadlineExceeded:
    """The error for a request whose deadline has passed; what the stages leave over was spent before them."""
    deadline_s = now_s if request.deadline_s is None else request.deadline_s
    before_ms = max((now_s - request.start_s) * 1e3 - sum(spent_ms.values()), 0.0)
    return DeadlineExceeded(
        request.subject, (deadline_s - request.start_s) * 1e3, {"before that": before_ms, **spent_ms}
    )


def split(outputs: Arrays, rows: Sequence[int], axis: int) -> list[Arrays]:
    """Cuts joined outputs into each request's own.

    Raises:
        EngineFailed: an output has another number of rows than went in, so that rows can't be told apart.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim <= axis or array.shape[axis] != total:
            raise EngineFailed(f"output {name!r} has shape {list(array.shape)} for {total} rows")
    ends = np.cumsum(rows)[:-1]
    parts = {name: np.split(array, ends, axis=axis) for name, array in outputs.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(rows))]
