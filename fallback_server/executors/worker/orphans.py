"""Processes that a model has started: they end when its worker does, also those that have left its group or session.

The nursery and each worker are subreapers (prctl(2)): a process whose parent ends becomes a child of the next of them
above it. So what a worker has started, and what that has, stays below the worker; and when the worker ends, all of it
becomes the nursery's. A child of the nursery that is no worker is an ended worker's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path

_SET_CHILD_SUBREAPER = 36

LIMIT_S = 1.0
"""For all that a worker has left to end, which each one does at once unless the system keeps it."""

END_S = 5.0
"""For all workers to end, and what they leave then: killed ones make room for others, which takes long where these are
busy."""

_POLL_S = 0.002


def adopt() -> None:
    """Has this process become the parent of what its descendants leave behind."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(known: Collection[int], *, limit_s: float = LIMIT_S) -> None:
    """Kills all children of this process, and theirs, and reaps them. In its only thread.

    Args:
        known: Children that are left alone.
        limit_s: How long they have to end; what takes longer ends later, and is reaped the next time.
    """
    end_s = time.monotonic() + limit_s
    while orphans := [pid for pid in _children() if pid not in known]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() >= end_s:
            return
        time.sleep(_POLL_S)


def _children() -> list[int]:
    """The children of this process, which has one thread."""
    own = os.getpid()
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{own}/task/{threading.get_native_id()}/children").read_text().split()]
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == own]  # noqa: PTH208


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0  # It has ended meanwhile.
