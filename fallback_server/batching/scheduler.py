"""One pool of threads for all queues, which share its time by their weights."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fallback_server.batching.abandoned import Watchdog
from fallback_server.batching.company import Company
from fallback_server.batching.execution import Outcome, execute, execute_alone, unwanted
from fallback_server.batching.fairness import DeficitRoundRobin, Turn
from fallback_server.batching.options import MAX_THREADS, BatchingOptions
from fallback_server.batching.queue import TOO_LONG, Array, BatchQueue, Task
from fallback_server.batching.runs import Run, Runs
from fallback_server.core.errors import DeadlineExceeded, QueueFull, RequestCancelled, ServerError, ServerStopping
from fallback_server.late_inputs import size_bytes

_log = logging.getLogger(__name__)

MAX_ROWS = 2**31
"""More than any request has."""

_SWEEP_S = 0.05
"""How often a queue that is full, or waits for company, is searched for tasks that nobody waits for: that looks at
every task, under the lock."""

OnDone = Callable[[Sequence[Outcome]], None]


class _Taken(NamedTuple):
    """A batch that is taken out of its queue.

    Attributes:
        queue: Whose.
        tasks: What is in it.
        run: Its place among those under way.
        rows: How many.
        charged_s: What its queue was charged for it so far.
    """

    queue: BatchQueue
    tasks: list[Task]
    run: Run
    rows: int
    charged_s: float


class BatchScheduler:
    """Runs what is submitted, in batches. Never blocks whoever submits: it refuses when too much waits.

    `num_batch_threads` batches run at a time, one more of a queue that has none under way, and those that take long
    don't count (see `Runs`): so models that are slow, or hang, can't keep the others waiting. A thread more than run is
    there to see that, made when it is needed. Among queues that could run it is deficit round robin, in run time.

    Args:
        options: The number of batches that run at a time, and the bound on what waits in all queues together.
        on_done: Gets the outcomes of a batch, in the thread that ran it. Every accepted task comes there once.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, options: BatchingOptions, on_done: OnDone, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self.inline_s = options.max_inline_us / 1e6
        self._on_done = on_done
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: dict[BatchQueue, None] = {}
        self._runs = Runs(options.num_batch_threads)
        self._shares = DeficitRoundRobin()
        self.watchdog = Watchdog(self._under_way, bound_s=options.max_abandoned_run_s, clock=clock)
        self._company = Company()
        self._own = self._company.own
        self._swept_s: dict[BatchQueue, float] = {}
        self._bytes = 0
        self._idle = 0
        self._looks_s = math.inf
        self._started = False
        self._stopping = False
        self._threads: dict[threading.Thread, None] = {}
        self._numbers = itertools.count()

    def start(self) -> None:
        """Starts the threads."""
        with self._lock:
            self._started = True
            for _ in range(self._options.num_batch_threads + 1):
                self._add_thread()
        self.watchdog.start()

    def submit(self, items: Sequence[tuple[BatchQueue, Task]]) -> list[ServerError | None]:
        """Queues tasks; for each, None or why it was refused. A refused one doesn't come to `on_done`."""
        now_s = self._clock()
        with self._lock:
            refusals = [self._admit(queue, task, now_s) for queue, task in items]
            self._call_for(items, refusals, now_s)
            crowd = self._crowd(items, refusals, now_s)
        return self._squeezed_in(items, refusals, crowd, now_s) if crowd else refusals

    def run_here(
        self, items: Sequence[tuple[BatchQueue, Task]], *, inline_s: float | None = None
    ) -> list[ServerError | None]:
        """As `submit`; but what is over sooner than a thread would wake up for it is run in this one.

        That is what came for queues in which nothing waits and whose runs are short (`BatchQueue.is_short`), where a
        batch may begin now. `on_done` has its outcomes before this returns. The rest goes to the threads, as does what
        is left when this thread has run for `TOO_LONG` times the bound.

        Args:
            items: As in `submit`.
            inline_s: How long a run may take for that; None: the options' `max_inline_us`.
        """
        bound_s = self._options.max_inline_us / 1e6 if inline_s is None else inline_s
        now_s = self._clock()
        until_s = now_s + TOO_LONG * bound_s
        with self._lock:
            own = self._short(items, bound_s)
            refusals = [self._admit(queue, task, now_s) for queue, task in items]
            self._call_for(items, refusals, now_s, but=own)
            taken = self._take_here(own, now_s)
            crowd = self._crowd(items, refusals, now_s)
        while taken is not None:
            self._run(taken)
            with self._lock:
                self._end(taken)
                now_s = self._clock()
                taken = self._take_here(own, now_s) if now_s < until_s else None
                if self._waiting and taken is None:
                    self._call_one()
        return self._squeezed_in(items, refusals, crowd, now_s) if crowd else refusals

    def run_alone(
        self,
        queue: BatchQueue,
        inputs: Mapping[str, Array],
        *,
        rows: int,
        deadline_s: float | None = None,
        inline_s: float | None = None,
        came_s: Sequence[float] = (),
    ) -> dict[str, Array] | ServerError | None:
        """As `run_here` for one request, where nothing stands against it: its outcome, which `on_done` does not get.

        None where it is not to be run here, may not begin now, or is to be refused: then nothing has been done. There
        is no task: nearly all that a short run costs is what is done around it.

        Args:
            queue: Where it would wait.
            inputs: Checked against the signature.
            rows: As of `Task`.
            deadline_s: As of `Task`.
            inline_s: As in `run_here`.
            came_s: Where these are the inputs of several requests, one's after the other's: when each came. Then an
                error says only that they can't be run together.
        """
        if not queue.takes_alone(inputs, rows):
            return None
        clock, runs, runner = self._clock, self._runs, queue.runner
        now_s = clock()
        with self._lock:
            if (
                self._stopping
                or queue.rows
                or not queue.is_short(rows, bound_s=self.inline_s if inline_s is None else inline_s)
                or runs.may_begin_s(queue, now_s, lanes=queue.lanes, runner=runner) > now_s
                or (self._bytes and self._bytes + size_bytes(inputs) > self._options.max_enqueued_bytes)
                or (deadline_s is not None and now_s + (queue.costs.recent_s(rows, now_s) or 0.0) >= deadline_s)
            ):
                return None
            run = runs.begin(queue, now_s, counts=not queue.lanes, runner=runner)
            queue.runs_here += 1
        outcome = execute_alone(queue, inputs, rows=rows, came_s=came_s, clock=clock)
        with self._lock:
            runs.end(run)
            took_s = clock() - now_s
            self._shares.charge(queue.turn, took_s)
            self._own.used_s += took_s
            if self._waiting and self._idle:
                self._wake.notify()
        return outcome

    @staticmethod
    def _short(items: Sequence[tuple[BatchQueue, Task]], bound_s: float) -> dict[BatchQueue, None]:
        """Whose items are to be run here. Under the lock."""
        rows: Counter[BatchQueue] = Counter()
        for queue, task in items:
            # A piece of a large request may run for long.
            rows[queue] += task.rows if task.rows <= queue.batch_rows else MAX_ROWS
        return {
            queue: None
            for queue, count in rows.items()
            if count < MAX_ROWS and not queue.rows and queue.is_short(min(count, queue.batch_rows), bound_s=bound_s)
        }

    def _take_here(self, own: Iterable[BatchQueue], now_s: float) -> _Taken | None:
        """A batch of one of these that may begin now; what may not is left to the threads. Under the lock."""
        for queue in own:
            if not queue.rows:
                continue
            if self._may_s(queue, now_s) <= now_s:
                taken = self._take_of(queue, now_s)
                if taken is not None:
                    queue.runs_here += 1
                    return taken
            elif queue in self._waiting:
                self._call_threads([queue], 1, now_s)
        return None

    def step(self) -> bool:
        """Runs the batch that is due, in this thread; False when none is. What the threads do, for tests."""
        with self._lock:
            taken, _ = self._take(self._clock())
        if taken is None:
            return False
        self._run(taken)
        with self._lock:
            self._end(taken)
        return True

    def stop(self, *, timeout_s: float) -> bool:
        """Takes nothing more, runs what waits without delay; False when that outlasts `timeout_s`."""
        with self._lock:
            self._stopping = True
            self._wake.notify_all()
            threads = list(self._threads)
        end_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        self.watchdog.stop()
        return not any(thread.is_alive() for thread in threads)

    def __repr__(self) -> str:
        return f"BatchScheduler({len(self._waiting)} queues wait, {self._bytes} bytes, {self._idle} threads idle)"

    def _admit(self, queue: BatchQueue, task: Task, now_s: float) -> ServerError | None:
        if self._stopping:
            return ServerStopping("the server is stopping")
        if task.deadline_s is not None and now_s >= task.deadline_s:
            return DeadlineExceeded(f"the deadline had passed {(now_s - task.deadline_s) * 1e3:.0f} ms before it came")
        refusal = queue.refusal(task, now_s, threads=self._options.num_batch_threads)
        if refusal is not None:
            return refusal
        if self._bytes and self._bytes + task.bytes > self._options.max_enqueued_bytes:
            return QueueFull(
                f"the server's queues are full: {self._bytes} bytes wait, "
                f"{task.bytes} more would pass max_enqueued_bytes = {self._options.max_enqueued_bytes}"
            )
        task.enqueued_s = now_s
        queue.put(task)
        self._bytes += task.bytes
        self._waiting[queue] = None
        return None

    def _crowd(
        self, items: Sequence[tuple[BatchQueue, Task]], refusals: Sequence[ServerError | None], now_s: float
    ) -> dict[BatchQueue, list[Task]]:
        """What is to be looked through for tasks that nobody waits for, since their places are wanted. Under the lock.

        Full queues are, at most every `_SWEEP_S`; all that wait where there are too many bytes.
        """
        full = {queue for (queue, _), no in zip(items, refusals, strict=True) if isinstance(no, QueueFull)}
        if not full:
            return {}
        if self._bytes and any(queue.admits(task.rows) for queue, task in items if queue in full):
            full |= self._waiting.keys()
        full = {queue for queue in full if queue.rows and now_s >= self._swept_s.get(queue, -math.inf) + _SWEEP_S}
        self._swept_s = {one: at_s for one, at_s in self._swept_s.items() if one in self._waiting}
        self._swept_s |= dict.fromkeys(full, now_s)
        return {queue: queue.tasks() for queue in full}

    def _squeezed_in(
        self,
        items: Sequence[tuple[BatchQueue, Task]],
        refusals: list[ServerError | None],
        crowd: Mapping[BatchQueue, Sequence[Task]],
        now_s: float,
    ) -> list[ServerError | None]:
        """Takes those out of full queues that nobody waits for, and has the refused ones tried again.

        Each of thousands is looked at: not under the lock, which every other request needs too.
        """
        gone = {queue: {task for task in tasks if unwanted(task, now_s) is not None} for queue, tasks in crowd.items()}
        if not any(gone.values()):
            return refusals
        swept: list[Outcome] = []
        with self._lock:
            for queue, tasks in gone.items():
                before_bytes = queue.bytes
                dropped = queue.drop(tasks.__contains__)
                self._bytes -= before_bytes - queue.bytes
                if not queue.rows:
                    self._waiting.pop(queue, None)
                for task in dropped:
                    refusal = unwanted(task, now_s)
                    swept.append((task, refusal or RequestCancelled("the caller cancelled the request")))
            again = [
                self._admit(queue, task, now_s) if isinstance(no, QueueFull) else no
                for (queue, task), no in zip(items, refusals, strict=True)
            ]
            self._call_for(items, again, now_s)
        self._hand_over("a full queue", swept)
        return again

    def _call_for(
        self,
        items: Sequence[tuple[BatchQueue, Task]],
        refusals: Sequence[ServerError | None],
        now_s: float,
        *,
        but: Container[BatchQueue] = (),
    ) -> None:
        """As `_call_threads`, for what was not refused. Under the lock."""
        queues = [queue for (queue, _), no in zip(items, refusals, strict=True) if no is None and queue not in but]
        if queues:
            different = tuple(dict.fromkeys(queues))
            # One thread takes all that runs together. More would wake up for nothing, each with the lock.
            self._call_threads(different, sum(max(1, queue.batches()) for queue in different), now_s)

    def _call_threads(self, queues: Sequence[BatchQueue], accepted: int, now_s: float) -> None:
        """Sees to it that somebody looks at what has come, if not now then when a batch has run long. Under the lock.

        Nobody is woken for what may not run yet: whoever ends a batch looks, and one idle thread looks in time.
        """
        if not self._idle:
            self._add_thread()
            return
        soonest_s = min((self._may_s(one, now_s) for one in queues if one.rows), default=math.inf)
        if soonest_s <= now_s:
            self._wake.notify(accepted)
        elif self._looks_s > soonest_s:
            self._wake.notify()

    def _call_one(self) -> None:
        """Sees to it that one thread looks at what waits. Under the lock."""
        if self._idle:
            self._wake.notify()
        else:
            self._add_thread()

    def _add_thread(self) -> None:
        """One thread more, if there may be one. Under the lock."""
        if not self._started or self._stopping or len(self._threads) > self._options.num_batch_threads + MAX_THREADS:
            return
        name = f"{self._options.thread_pool_name}-{next(self._numbers)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads[thread] = None
        try:
            thread.start()
        except RuntimeError as error:
            del self._threads[thread]
            if not self._threads:
                raise
            _log.warning("no thread more for batches that wait: %s", error)

    def _take(self, now_s: float) -> tuple[_Taken | None, float]:
        """The next batch that is due, taken out; or None, and when one may be. Under the lock."""
        while True:
            passed: list[BatchQueue] = []
            earliest_s = [math.inf]
            index = self._shares.choose(self._ready(now_s, passed, earliest_s))
            if index is None:
                return None, earliest_s[0]
            taken = self._take_of(passed[index], now_s)
            if taken is not None:
                return taken, now_s

    def _ready(self, now_s: float, queues: list[BatchQueue], earliest_s: list[float]) -> Iterator[Turn]:
        """Who could run a batch now, and is noted; and of the others when the first of them may. Under the lock."""
        for queue in self._waiting:
            may_s = self._may_s(queue, now_s)
            if may_s <= now_s:
                queues.append(queue)
                yield queue.turn
            else:
                earliest_s[0] = min(earliest_s[0], may_s)

    def _may_s(self, queue: BatchQueue, now_s: float) -> float:
        """From when on a queue in which something waits may begin a batch, if none ends before. Under the lock."""
        begin_s = self._runs.may_begin_s(
            queue, now_s, lanes=queue.lanes, runner=queue.runner, room_until_s=queue.room_until_s
        )
        # Not asked of a queue that has to wait for another batch to end: that may look at much.
        return begin_s if begin_s == math.inf or self._stopping else max(begin_s, queue.due_at_s())

    def _take_of(self, queue: BatchQueue, now_s: float) -> _Taken | None:
        """A queue's next batch, taken out; None where what there was need not run. Under the lock."""
        before_bytes = queue.bytes
        try:
            tasks = queue.take(now_s)
        except Exception:  # noqa: BLE001  it costs its own queue what waits there, and no thread
            _log.exception("%s: no batch could be put together", queue.name)
            tasks = queue.give_up()
        self._bytes -= before_bytes - queue.bytes
        # To the end of the line, so that those who have something left are served in turn.
        del self._waiting[queue]
        if queue.rows:
            self._waiting[queue] = None
        if not tasks:
            return None
        rows = sum(task.size for task in tasks if task.refused is None)
        charged_s = queue.costs.expected_s(rows) or 0.0
        self._shares.charge(queue.turn, charged_s)
        if rows:
            queue.began(rows, now_s)
        waiting = queue.batches()
        waiting_s = waiting * (queue.costs.expected_s(queue.batch_rows) or 0.0) / self._options.num_batch_threads
        queue.room_until_s = self._company.room_until_s(
            queue.process, waiting=waiting, now_s=now_s, waiting_s=waiting_s
        )
        run = self._runs.begin(queue, now_s, counts=not queue.lanes, runner=queue.runner)
        return _Taken(queue, tasks, run, rows, charged_s)

    def _end(self, taken: _Taken) -> None:
        """A batch has run. Under the lock."""
        now_s = self._clock()
        self._runs.end(taken.run)
        taken.queue.ended(taken.rows)
        took_s = now_s - taken.run.begun_s
        self._shares.charge(taken.queue.turn, took_s - taken.charged_s)
        self._company.account(taken.queue.process).used_s += took_s

    def _next(self, done: list[_Taken]) -> _Taken | None:
        """Waits for a batch; None when this thread is not needed any more.

        Args:
            done: What this thread has just run, if anything. Taken out: an idle thread keeps no version that has gone.
        """
        with self._lock:
            if done:
                self._end(done.pop())
                if self._idle and self._waiting:
                    self._wake.notify()  # What it has passed over may have its turn now.
            while True:
                now_s = self._clock()
                taken, earliest_s = self._take(now_s)
                if taken is not None:
                    if self._waiting and (not self._idle or any(self._ready(now_s, [], [math.inf]))):
                        self._call_one()  # Of a large request the next piece may begin.
                    return taken
                if self._leaves(earliest_s):
                    del self._threads[threading.current_thread()]
                    return None
                if earliest_s < math.inf:  # Somebody's caller may leave meanwhile.
                    earliest_s = min(earliest_s, now_s + _SWEEP_S)
                self._idle += 1
                self._looks_s = min(self._looks_s, earliest_s)
                self._wake.wait(None if earliest_s == math.inf else earliest_s - now_s)
                self._idle -= 1
                self._looks_s = math.inf  # Of the others nothing is known: one look too many does no harm.

    def _under_way(self) -> list[tuple[BatchQueue, float]]:
        """See `Watchdog`."""
        with self._lock:
            return [(queue, at_s) for queue, at_s in self._runs.oldest().items() if isinstance(queue, BatchQueue)]

    def _leaves(self, earliest_s: float) -> bool:
        """Whether a thread that may begin nothing before that instant is needed no more. Under the lock."""
        if self._stopping:
            return earliest_s == math.inf
        return self._idle > 0 and len(self._threads) > self._options.num_batch_threads + 1

    def _work(self) -> None:
        done: list[_Taken] = []
        while True:
            try:
                taken = self._next(done)
            except Exception:  # noqa: BLE001  no error of ours costs a thread: nobody would run what comes
                _log.exception("a batch thread goes on after an error")
                done.clear()
                with self._lock:
                    self._wake.wait(_SWEEP_S)  # Not at once: it may be there still.
                continue
            if taken is None:
                return
            self._run(taken)
            # Its tasks hold their inputs, which would stay until this thread has something else to do.
            done.append(taken._replace(tasks=[]))
            del taken

    def _run(self, taken: _Taken) -> None:
        if taken.queue.process is not None:
            taken.queue.process.leave_core(leave=taken.queue.room_until_s > taken.run.begun_s)
        self._hand_over(taken.queue.name, execute(taken.queue, taken.tasks, clock=self._clock))

    def _hand_over(self, name: str, outcomes: Sequence[Outcome]) -> None:
        try:
            self._on_done(outcomes)
        except Exception:  # noqa: BLE001  the thread serves other queues too
            _log.exception("%s: the outcomes of a batch could not be handed over", name)
