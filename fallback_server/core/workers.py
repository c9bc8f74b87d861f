"""Threads for loads and unloads, apart from those that answer requests."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class WorkerPool:
    """A fixed number of threads that run jobs in turn.

    They are daemons: a load may hang where nothing stops it, and must not keep the process from ending.
    """

    def __init__(self, *, name: str, threads: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Queues a job. What it raises is logged and harms no other job."""
        self._jobs.put(job)

    def stop(self, *, timeout_s: float) -> bool:
        """Ends the threads after the jobs that are queued; False when some still run after `timeout_s`."""
        for _ in self._threads:
            self._jobs.put(None)
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001  the next job is another's
                _log.exception("a job failed in %s", threading.current_thread().name)
