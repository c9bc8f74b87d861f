"""Starts threads also where memory is short, without being held up."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def begin(thread: threading.Thread, on_failure: Callable[[Exception], None]) -> None:
    """Starts a thread, and returns at once, perhaps before it runs.

    `Thread.start` waits until the new thread runs: for ever, if memory runs out before its first line. So a thread
    that nobody needs does the waiting. Then the new thread never runs, and nobody is told: who needs to know looks.

    Args:
        thread: Not started yet.
        on_failure: Called if the system starts no thread: here, or in another thread. Must not raise.
    """

    def start() -> None:
        try:
            thread.start()
        except Exception as error:  # noqa: BLE001  it is told
            on_failure(error)

    try:
        _thread.start_new_thread(start, ())
    except (RuntimeError, MemoryError) as error:
        on_failure(error)


def run(thread: threading.Thread, started: threading.Event, limit_s: float) -> None:
    """Starts a thread and waits until it says that it runs.

    Args:
        thread: Not started yet.
        started: Set by it.
        limit_s: How long it is waited for.

    Raises:
        RuntimeError, MemoryError: the system starts no thread, or it does not run in time.
    """
    refused: list[Exception] = []

    def fail(error: Exception) -> None:
        refused.append(error)
        started.set()

    begin(thread, fail)
    came = started.wait(limit_s)
    if refused:
        raise refused[0]
    if not came:
        raise RuntimeError(f"a new thread did not run within {limit_s:g} s")
