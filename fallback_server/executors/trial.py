"""Runs a TFLite file in a process of its own before it may run in the server's: what crashes or hangs does so there."""

from __future__ import annotations

import threading

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.worker.messages import Load, Loaded
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.process import Worker

TRIAL_S = 60.0
"""For one run of each signature in each size; what takes longer is a hang, or nothing that answers requests."""


def try_out(
    load: Load, fd: int, *, nursery: Nursery, title: str, stop: LoadStop | None = None, limit_s: float = TRIAL_S
) -> tuple[Worker, Loaded]:
    """Has a worker load a file and run it. The worker is the caller's: to end, or to keep, since it can answer.

    Args:
        load: What, of the kind `litert`.
        fd: The file; the caller's to close.
        nursery: Starts the process.
        title: For logs.
        stop: Ends it early, and with it the load.
        limit_s: How long it may take.

    Raises:
        LoadFailed: it could not be loaded or run, its process ended meanwhile, or it took too long.
    """
    worker = nursery.spawn(title)
    if stop is not None:
        stop.calls(worker.kill_soon)
    late = threading.Event()

    def end() -> None:
        late.set()
        worker.kill_soon()

    timer = threading.Timer(limit_s, end)
    timer.name, timer.daemon = "trial", True
    timer.start()
    try:
        return worker, worker.load(load, [fd])
    except LoadFailed as error:
        worker.kill()
        if late.is_set():
            raise LoadFailed(f"LiteRT's trial run hangs: it was ended after {limit_s:.0f} s") from error
        raise LoadFailed(f"LiteRT's trial run failed: {error}") from error
    except BaseException:
        worker.kill()
        raise
    finally:
        timer.cancel()
