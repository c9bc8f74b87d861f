"""Processes that a model has started: they end when its worker does, also those that have left its group or session.

The nursery and each worker are subreapers (prctl(2)): a process whose parent ends becomes a child of the next of them
above it. So what a worker has started, and what that has, stays below the worker; and when the worker ends, all of it
becomes the nursery's. A child of the nursery that is no worker is an ended worker's.

What a worker has become the parent of so, it has to reap when it ends, and nothing else: how its own children end is
for the model to ask. Linux keeps children by the thread that started them, and gives to the first thread those that are
left by other processes, or by threads that have ended. In a worker the first thread starts none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

_SET_CHILD_SUBREAPER = 36

LIMIT_S = 1.0
"""For all that a worker has left to end, which each one does at once unless the system keeps it."""

END_S = 5.0
"""For all workers to end, and what they leave then: killed ones make room for others, which takes long where these are
busy."""

_POLL_S = 0.002

PATIENCE_S = 10.0
"""Who waits for a process has done so by then."""

_LOOK_S = 1.0


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


class Reaper:
    """Reaps what the model's processes leave to this one when it has ended, and none of those that it started itself.

    It looks once a second, and reaps what has been a zombie for `PATIENCE_S`. A process that the model started in a
    thread which ended within that second can't be told from one that was left: how that one ended is lost to a model
    that asks only later than `PATIENCE_S` after its end. Nothing is reaped where the kernel does not list children.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._own: set[int] = set()
        self._ended_s: dict[int, float] = {}

    def start(self) -> None:
        """Begins to look, in a thread of its own."""
        threading.Thread(target=self._work, name="reaper", daemon=True).start()

    def note(self) -> None:
        """Has it know the children of this thread, which is about to end."""
        with self._lock:
            self._own.update(_children_of(threading.get_native_id()))

    def look(self) -> None:
        """Looks once."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # There are none, as of most models.
            self._ended_s.clear()
            return
        first = os.getpid()
        left = set(_children_of(first))
        with self._lock:
            started = {pid for thread in _threads() if thread != first for pid in _children_of(thread)}
            self._own = (self._own | started) & (left | started)
            left -= self._own
        now_s = self._clock()
        self._ended_s = {pid: self._ended_s.get(pid, now_s) for pid in left if pid in self._ended_s or _is_zombie(pid)}
        for pid, ended_s in self._ended_s.items():
            if now_s - ended_s >= PATIENCE_S:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _work(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            self.look()


def _children() -> list[int]:
    """The children of this process, which has one thread."""
    own = os.getpid()
    with contextlib.suppress(OSError):
        return _listed(threading.get_native_id())
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == own]  # noqa: PTH208


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]  # noqa: PTH208  numbers alone


def _children_of(thread: int) -> list[int]:
    """The children that a thread of this process has; none where it has ended, or the kernel does not list them."""
    try:
        return _listed(thread)
    except OSError:
        return []


def _listed(thread: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{thread}/children").read_text("ascii").split()]


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """A process's state, parent and more; empty where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []
