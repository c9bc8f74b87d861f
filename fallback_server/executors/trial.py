"""Runs a TFLite file in a process of its own before it may run in the server's: what crashes or hangs does so there."""

from __future__ import annotations

import os
import select
import threading

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.worker.messages import Load, Loaded
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.process import Worker

STEP_S = 60.0
"""For each step of a trial: to load the file, and to run a signature once in a size. What takes longer is a hang, or
nothing that answers requests."""

RIVAL_STEP_S = 20.0
"""The same where the version can be served in another form meanwhile: that waits for the trial."""


def try_out(
    load: Load, fd: int, *, nursery: Nursery, title: str, stop: LoadStop | None = None, limit_s: float = STEP_S
) -> tuple[Worker, Loaded]:
    """Has a worker load a file and run it. The worker is the caller's: to end, or to keep, since it can answer.

    Args:
        load: What, of the kind `litert`.
        fd: The file; the caller's to close.
        nursery: Starts the process.
        title: For logs.
        stop: Ends it early, and with it the load.
        limit_s: How long each step may take.

    Raises:
        LoadFailed: it could not be loaded or run, its process ended meanwhile, or a step took too long.
    """
    worker = nursery.spawn(title)
    if stop is not None:
        stop.calls(worker.kill_soon)
    watch = _Watch(worker, limit_s)
    try:
        with watch as step:
            return worker, worker.load(load, [fd, step])
    except LoadFailed as error:
        worker.kill()
        if watch.late:
            raise LoadFailed(
                f"LiteRT's trial run hangs: it was ended after {limit_s:.0f} s without a step that was done"
            ) from error
        raise LoadFailed(f"LiteRT's trial run failed: {error}") from error
    except BaseException:
        worker.kill()
        raise


class _Watch:
    """Ends a worker that says for too long that nothing is done; a context, which gives what the worker writes to.

    Args:
        worker: Which.
        limit_s: How long it may be silent.

    Attributes:
        late: Whether it was ended.
    """

    def __init__(self, worker: Worker, limit_s: float) -> None:
        self.late = False
        self._worker = worker
        self._limit_s = limit_s
        self._fds: list[int] = []
        self._thread = threading.Thread(target=self._work, name="trial", daemon=True)

    def __enter__(self) -> int:
        """Begins to wait for a step."""
        try:
            self._fds += os.pipe()
            self._fds += os.pipe()
            os.set_blocking(self._fds[1], False)  # The worker's writes never wait; those that fail are not missed.
            self._thread.start()
        except BaseException:
            self._close()
            raise
        return self._fds[1]

    def __exit__(self, *error: object) -> None:
        """Waits for nothing any more."""
        os.write(self._fds[3], b"!")
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _work(self) -> None:
        steps, _, over, _ = self._fds
        poll = select.poll()
        poll.register(steps, select.POLLIN)
        poll.register(over, select.POLLIN)
        while True:
            events = dict(poll.poll(self._limit_s * 1e3))
            if not events:
                self.late = True
                self._worker.kill_soon()
                return
            if over in events:
                return
            os.read(steps, 2**16)
