"""One pool of threads for all queues, which are served in turn."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from fallback_server.batching.execution import Outcome, execute, unwanted
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.core.errors import QueueFull, RequestCancelled, ServerError, ServerStopping

_log = logging.getLogger(__name__)

_SWEEP_S = 0.05
"""How often a full queue is searched for tasks that nobody waits for: it looks at every task, under the lock."""

OnDone = Callable[[Sequence[Outcome]], None]


class BatchScheduler:
    """Runs what is submitted, in batches. Never blocks whoever submits: it refuses when too much waits.

    There is one thread more than `num_batch_threads`. It runs batches only of a queue that has none under way: so one
    slow model can't hold all threads, and costs nothing while no other is asked for.

    Args:
        options: The number of batches that run at a time, and the bound on what waits in all queues together.
        on_done: Gets the outcomes of a batch, in the thread that ran it. Every accepted task comes there once.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, options: BatchingOptions, on_done: OnDone, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._on_done = on_done
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: dict[BatchQueue, None] = {}
        self._running: Counter[BatchQueue] = Counter()
        self._swept_s: dict[BatchQueue, float] = {}
        self._swept: list[Outcome] = []
        self._bytes = 0
        self._idle = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads."""
        for index in range(self._options.num_batch_threads + 1):
            thread = threading.Thread(target=self._work, name=f"{self._options.thread_pool_name}-{index}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, items: Sequence[tuple[BatchQueue, Task]]) -> list[ServerError | None]:
        """Queues tasks; for each, None or why it was refused. A refused one doesn't come to `on_done`."""
        now_s = self._clock()
        with self._lock:
            refusals = [self._admit(queue, task, now_s) for queue, task in items]
            accepted = refusals.count(None)
            if self._idle and accepted:
                self._wake.notify(accepted)
            swept, self._swept = self._swept, []
        if swept:
            self._hand_over("a full queue", swept)
        return refusals

    def step(self) -> bool:
        """Runs the batch that is due, in this thread; False when none is. What the threads do, for tests."""
        with self._lock:
            taken, _ = self._take(self._clock())
        if taken is None:
            return False
        self._run(*taken)
        with self._lock:
            self._ended(taken[0])
        return True

    def stop(self, *, timeout_s: float) -> bool:
        """Takes nothing more, runs what waits without delay; False when that outlasts `timeout_s`."""
        with self._lock:
            self._stopping = True
            self._wake.notify_all()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def __repr__(self) -> str:
        return f"BatchScheduler({len(self._waiting)} queues wait, {self._bytes} bytes, {self._idle} threads idle)"

    def _admit(self, queue: BatchQueue, task: Task, now_s: float) -> ServerError | None:
        if self._stopping:
            return ServerStopping("the server is stopping")
        if not queue.admits(task.rows):
            self._sweep(queue, now_s)
        if not queue.admits(task.rows):
            return QueueFull(
                f"the queue of {queue.name} is full: {queue.rows} rows wait, "
                f"{task.rows} more would pass max_enqueued_batches * max_batch_size = {queue.options.max_enqueued_rows}"
            )
        if self._bytes and self._bytes + task.bytes > self._options.max_enqueued_bytes:
            for other in list(self._waiting):
                self._sweep(other, now_s)
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

    def _sweep(self, queue: BatchQueue, now_s: float) -> None:
        """Frees the places of what nobody waits for in a full queue. Under the lock; `submit` hands it over."""
        if now_s < self._swept_s.get(queue, -math.inf) + _SWEEP_S:
            return
        dropped = queue.drop(lambda task: unwanted(task, now_s) is not None)
        self._bytes -= sum(task.bytes for task in dropped)
        if not queue.rows:
            self._waiting.pop(queue, None)
        self._swept_s = {one: at_s for one, at_s in self._swept_s.items() if one in self._waiting}
        self._swept_s[queue] = now_s
        for task in dropped:
            refusal = unwanted(task, now_s)
            self._swept.append((task, refusal or RequestCancelled("the caller cancelled the request")))

    def _take(self, now_s: float) -> tuple[tuple[BatchQueue, list[Task]] | None, float]:
        """The next batch that is due, taken out; or None, and when one will be. Under the lock."""
        earliest_s = math.inf
        only_idle = self._running.total() >= self._options.num_batch_threads
        for queue in self._waiting:
            if only_idle and queue in self._running:
                continue
            due_s = -math.inf if self._stopping else queue.due_at_s()
            if due_s <= now_s:
                tasks = queue.take()
                self._bytes -= sum(task.bytes for task in tasks)
                # To the end of the line, so that every queue has its turn.
                del self._waiting[queue]
                if queue.rows:
                    self._waiting[queue] = None
                self._running[queue] += 1
                return (queue, tasks), now_s
            earliest_s = min(earliest_s, due_s)
        return None, earliest_s

    def _ended(self, queue: BatchQueue) -> None:
        """A batch of the queue is done. Under the lock."""
        self._running[queue] -= 1
        if not self._running[queue]:
            del self._running[queue]

    def _next(self, done: BatchQueue | None) -> tuple[BatchQueue, list[Task]] | None:
        """Waits for a batch; None when the scheduler has stopped and nothing waits that this thread may run.

        Args:
            done: Whose batch this thread has just run.
        """
        with self._lock:
            if done is not None:
                self._ended(done)
                if self._idle and self._waiting:
                    self._wake.notify()  # What it has passed over may have its turn now.
            while True:
                now_s = self._clock()
                taken, earliest_s = self._take(now_s)
                if taken is not None:
                    return taken
                if self._stopping:
                    return None
                self._idle += 1
                self._wake.wait(None if earliest_s == math.inf else earliest_s - now_s)
                self._idle -= 1

    def _work(self) -> None:
        done: BatchQueue | None = None
        while (taken := self._next(done)) is not None:
            self._run(*taken)
            done = taken[0]
            del taken  # Its tasks hold their inputs, which would stay until this thread has something else to do.

    def _run(self, queue: BatchQueue, tasks: list[Task]) -> None:
        self._hand_over(queue.name, execute(queue, tasks, clock=self._clock))

    def _hand_over(self, name: str, outcomes: Sequence[Outcome]) -> None:
        try:
            self._on_done(outcomes)
        except Exception:  # noqa: BLE001  the thread serves other queues too
            _log.exception("%s: the outcomes of a batch could not be handed over", name)
