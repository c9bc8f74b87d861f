"""A loaded version as the server holds it: its executor, a queue for each of its signatures, and what it has done."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fallback_server.batching.company import Process
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, BatchRun
from fallback_server.batching.runs import Runner
from fallback_server.core.errors import InvalidInput, VersionRefused
from fallback_server.core.loader import LoadStop
from fallback_server.core.servable import ServableId
from fallback_server.counts import Gauge
from fallback_server.executors.base import Array, Executor, Signature, joint_name, joint_names
from fallback_server.executors.choice import Choice
from fallback_server.executors.registry import AUTO, Registry
from fallback_server.opening import Opener
from fallback_server.package_info import PackageInfo, read_package
from fallback_server.sequences.pairing import state_inputs
from fallback_server.statistics import KeptStatistics, VersionStatistics

MAX_LANES = 64
"""How many requests of a model that merges them itself reach it at the same time: as many as go to a worker."""

MAX_JOINT = 16
"""Combinations of signatures that one run answers: a model has a few signatures, and its callers a few combinations."""

_WEIGHT = 0.1
"""Of the newest run in the mean: some twenty runs tell of a model that has become slower."""


class Observer(Protocol):
    """Is told what versions do; see `Metrics`. Must not raise, and must not block."""

    def batch(
        self, *, model: str, version: int, rows: int, padded_rows: int, queued_s: Iterable[float], run_s: float
    ) -> None:
        """A batch has run."""

    def load(self, *, model: str, version: int, seconds: float, ok: bool) -> None:
        """A load has ended."""


class ServedModel:
    """What the manager keeps loaded.

    Args:
        servable_id: Which version.
        executor: Runs it.
        options: How its requests are merged.
        package: What it was published with.
        choice: Why this executor runs it; None where there was nothing to choose.
        on_run: Told of every run that has ended well.
        clock: Monotonic seconds.
        statistics: What it has answered before; None for nothing.

    Attributes:
        executor: Runs it.
        signatures: What can be called, by name.
        queues: Signature name -> where its requests wait.
        statistics: What it has answered.
        package: What it was published with; None where nothing says so.
        choice: What runs it, and why that does.
        lost: How its executor died; empty while that lives.
        elsewhere: Its queues in other processes that share the port, by what tells of them. Replaced, never changed.
        on_close: Called when it is closed.
    """

    def __init__(
        self,
        servable_id: ServableId,
        executor: Executor,
        options: BatchingOptions,
        package: PackageInfo | None = None,
        *,
        choice: Choice | None = None,
        on_run: Callable[[BatchRun], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        statistics: VersionStatistics | None = None,
    ) -> None:
        self.executor = executor
        self.signatures = executor.signatures
        self.statistics = VersionStatistics() if statistics is None else statistics
        self.package = package
        self.choice = Choice(kind=executor.kind) if choice is None else choice
        self.lost = ""
        self._options = options
        self.elsewhere: Mapping[int, Gauge] = {}
        self.on_close: Callable[[], None] = _nothing
        self._meter = _Meter(clock)
        self._servable_id = servable_id
        self._on_run = on_run
        self._lock = threading.Lock()
        at_once = getattr(executor, "at_once", 0)
        self._runner = Runner(at_once) if at_once else None
        self._joint_queues: dict[str, BatchQueue] = {}
        self.queues: Mapping[str, BatchQueue] = {
            name: self._queue(name, signature) for name, signature in executor.signatures.items()
        }

    @property
    def options(self) -> BatchingOptions:
        """How its requests are merged."""
        return self._options

    @property
    def platform(self) -> str:
        """What runs it, as TensorFlow Serving names platforms."""
        return getattr(self.executor, "platform", "tensorflow")

    def joint_queue(self, names: Sequence[str]) -> BatchQueue | None:
        """Where requests wait that one run answers for several signatures; None where these are no such.

        Its inputs are those of any of them; its outputs are named by `joint_name`. Of `MAX_JOINT` combinations.
        """
        signatures = [self.signatures[name] for name in names]
        first = signatures[0]
        if len(set(names)) < len(names) or not first.inputs_id:
            return None
        if any((each.inputs_id, each.batches) != (first.inputs_id, first.batches) for each in signatures):
            return None
        name = joint_name(*sorted(names))
        with self._lock:
            if name not in self._joint_queues and len(self._joint_queues) < MAX_JOINT:
                self._joint_queues[name] = self._queue(name, first)
            return self._joint_queues.get(name)

    @property
    def short(self) -> bool:
        """Whether its runs are over sooner than another thread would begin them; see `BatchScheduler.run_here`."""
        bound_s = self._options.max_inline_us / 1e6
        return any(queue.is_short(1, bound_s=bound_s) for queue in self.queues.values())

    def runs_here(self) -> int:
        """How many batches ran in the thread that brought their requests."""
        there = sum(each.runs_here for each in self.elsewhere.values())
        return there + sum(queue.runs_here for queue in self._all_queues())

    def batch_rows(self) -> int:
        """How many rows go into a batch now: of the signature whose latency target lets the fewest."""
        return min((queue.batch_rows for queue in self._all_queues()), default=0)

    def queued_rows(self) -> int:
        """How many rows wait, over all signatures and all processes that answer."""
        there = sum(each.queued_rows for each in self.elsewhere.values())
        return there + sum(queue.rows for queue in self._all_queues())

    def expected_wait_ms(self) -> float:
        """How long a request of one row and no priority that comes now would wait and run; 0 before the first run.

        The batches before it (`BatchQueue.batches`), each as long as runs took of late, shared out among the threads;
        half a run for each that is under way, since those have run for a while; and its own. Where several processes
        answer, of the one where it is longest.
        """
        return max([self._own_wait_ms(), *(each.expected_wait_ms for each in self.elsewhere.values())])

    def close(self) -> None:
        """Frees the executor's memory."""
        self.on_close()
        self.executor.close()

    def _own_wait_ms(self) -> float:
        if self._meter.mean_s is None:
            return 0.0
        batches = sum(queue.batches() for queue in self._all_queues())
        threads = self._options.num_batch_threads
        ahead = (batches + self._meter.running / 2) / (min(threads, self._runner.at_once) if self._runner else threads)
        return (ahead + 1) * self._meter.mean_s * 1e3

    def _queue(self, name: str, signature: Signature) -> BatchQueue:
        """A queue for a signature, or for several that take what this one takes."""
        return BatchQueue(
            name=f"{self._servable_id.name}/{self._servable_id.version}:{'+'.join(joint_names(name))}",
            run=functools.partial(self._meter.run, functools.partial(self.executor.run, name)),
            options=dataclasses.replace(self._options, worth_rows=signature.worth_rows),
            merges=signature.batches,
            on_run=functools.partial(_ran, self.statistics, self._on_run),
            variable_axes=_padded_axes(signature),
            lanes=MAX_LANES if signature.batches_inside else 0,
            in_process=self.executor.in_process,
            runner=self._runner,
            process=self.executor if isinstance(self.executor, Process) else None,
            tried_s=getattr(self.executor, "run_s", 0.0),
        )

    def _all_queues(self) -> tuple[BatchQueue, ...]:
        return (*self.queues.values(), *tuple(self._joint_queues.values()))


def _padded_axes(signature: Signature) -> dict[str, frozenset[int]]:
    """Input -> the dimensions along which it may be filled up: none of what is the state after a step, as it is."""
    states = state_inputs(signature)
    return {name: spec.variable_axes for name, spec in signature.inputs.items() if name not in states}


def _nothing() -> None:
    pass


def _ran(statistics: VersionStatistics, on_run: Callable[[BatchRun], None] | None, run: BatchRun) -> None:
    statistics.ran(run)
    if on_run is not None:
        on_run(run)


class _Meter:
    """Times runs. Thread-safe.

    Attributes:
        mean_s: How long they took of late; None before the first.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # No lock: to append and to take away are single steps, and of two means that are made at once one may be lost.
        self._running: list[None] = []
        self.mean_s: float | None = None

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    def run(
        self, run: Callable[[Mapping[str, Array]], dict[str, Array]], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        self._running.append(None)
        begin_s = self._clock()
        try:
            outputs = run(inputs)
        finally:
            self._running.pop()
        took_s, mean_s = self._clock() - begin_s, self.mean_s
        self.mean_s = took_s if mean_s is None else mean_s + _WEIGHT * (took_s - mean_s)
        return outputs


class ServedModelLoader:
    """Loads one version with whichever executor knows its files, and warms it up.

    Args:
        servable_id: Which version.
        path: Its folder.
        registry: The executors.
        options: How its requests are merged.
        on_lost: Called once, in any thread, with what was loaded and why, when it dies before it is closed.
        warm: Whether it is warmed up.
        batching_for: What the version's own folder says of batching; None where that is not asked.
        observer: Is told of loads and runs.
        clock: Monotonic seconds.
        kept: What versions have answered before they were loaded anew; None where each load begins at nothing.
        kind: What is to run it; `AUTO` for what its files say, and of several what is faster.
    """

    def __init__(
        self,
        servable_id: ServableId,
        path: Path,
        *,
        registry: Registry,
        options: BatchingOptions,
        on_lost: Callable[[ServedModel, str], None] | None = None,
        warm: bool = True,
        batching_for: Callable[[Path, BatchingOptions], BatchingOptions] | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        kept: KeptStatistics | None = None,
        kind: str = AUTO,
    ) -> None:
        self._kept = kept
        self._kind = kind
        self._servable_id = servable_id
        self._path = path
        self._registry = registry
        self._options = options
        self._on_lost = on_lost
        self._warm = warm
        self._batching_for = batching_for
        self._observer = observer
        self._clock = clock
        self._retriable = True
        self._stop = LoadStop()

    @property
    def retriable(self) -> bool:
        """See `Loader`: not where the version's own files were refused, before or after TensorFlow had them."""
        return self._retriable

    def estimated_bytes(self) -> int:
        """See `Loader.estimated_bytes`."""
        return self._registry.estimated_bytes(self._path, self._kind)

    def load(self) -> ServedModel:
        """See `Loader.load`."""
        begin_s, ok = self._clock(), False
        try:
            model = self._load()
            self._stop.over()
            ok = True
        except (VersionRefused, InvalidInput):
            self._retriable = False
            raise
        finally:
            if self._observer is not None and (ok or not self._stop.asked):
                key = self._servable_id
                seconds = self._clock() - begin_s
                self._observer.load(model=key.name, version=key.version, seconds=seconds, ok=ok)
        return model

    def stop(self) -> None:
        """See `Loader.stop`."""
        self._stop.ask()

    def _load(self) -> ServedModel:
        options = self._options if self._batching_for is None else self._batching_for(self._path, self._options)
        loss = _Loss(self._on_lost)
        title = f"{self._servable_id.name}/{self._servable_id.version}"
        opened = Opener(
            self._registry,
            self._path,
            options,
            kind=self._kind,
            title=title,
            on_lost=loss.tell,
            stop=self._stop,
            warm=self._warm,
        ).open()
        try:
            model = ServedModel(
                self._servable_id,
                opened.executor,
                options,
                read_package(self._path),
                choice=opened.choice,
                on_run=self._ran,
                clock=self._clock,
                statistics=None if self._kept is None else self._kept.of(self._servable_id),
            )
        except BaseException:
            opened.executor.close()
            raise
        loss.is_of(model)
        return model

    def _ran(self, run: BatchRun) -> None:
        if self._observer is not None:
            self._observer.batch(
                model=self._servable_id.name,
                version=self._servable_id.version,
                rows=run.rows,
                padded_rows=run.padded_rows,
                queued_s=run.queued_s,
                run_s=run.run_s,
            )


class _Loss:
    """Keeps the word that an executor is dead until there is the model to say it of."""

    def __init__(self, on_lost: Callable[[ServedModel, str], None] | None) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._model: ServedModel | None = None
        self._how: str | None = None

    def tell(self, how: str) -> None:
        """The executor is dead."""
        with self._lock:
            self._how = how
        self._say()

    def is_of(self, model: ServedModel) -> None:
        """The model that has the executor."""
        with self._lock:
            self._model = model
        self._say()

    def _say(self) -> None:
        with self._lock:
            if self._model is None or self._how is None or self._on_lost is None:
                return
            model, how, on_lost, self._on_lost = self._model, self._how, self._on_lost, None
        model.lost = f"the model's process ended ({how})"
        on_lost(model, model.lost)
