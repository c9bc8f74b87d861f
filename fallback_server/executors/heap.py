"""Memory that is there before it is needed, so that a large read into it is no one long stay in the kernel.

A read of hundreds of MB into fresh memory takes the kernel a page fault for every 4 KiB, and a kernel that is not
preempted (as servers' often are) lets nothing else onto that processor for milliseconds at a time. The program's own
stores fault as well, but between two of them another thread may run.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fallback_server.core.memory import give_back

MIN_BYTES = 2**22
"""Less is read within a millisecond or two."""

SPARE_BYTES = 2**26
"""So much more than after its load a process without runs may hold..."""

BUSY_BYTES = 2**30
"""...and one with runs: what is free beyond that goes once a second, for the page faults of what is used again."""

_LOOK_S = 1.0

_SLACK = 2**20
"""What the allocator itself needs between blocks."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""

_NEVER = -1
_MMAP_MAX = 65536
_TRIM_THRESHOLD = 2**17
"""glibc's own."""


@contextlib.contextmanager
def touched(size_bytes: int) -> Iterator[None]:
    """What is allocated in here, up to so many bytes altogether, takes memory that was touched before.

    The process holds as much meanwhile, and what is free at the end is given back. What is freed later may stay: it is
    for what lives as long as the process. Changes glibc's malloc for the whole process, and so is for one thread
    at a time; where there is another malloc, it does nothing.
    """
    libc = _libc()
    if libc is None or size_bytes < MIN_BYTES:
        yield
        return
    # So that the block that is freed here stays, in one piece, for those that are allocated next.
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        _touch(libc, size_bytes + _SLACK)
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, int(os.environ.get("MALLOC_MMAP_MAX_", _MMAP_MAX)))
        libc.mallopt(_M_TRIM_THRESHOLD, int(os.environ.get("MALLOC_TRIM_THRESHOLD_", _TRIM_THRESHOLD)))
        give_back()


def resident_bytes() -> int:
    """The memory that this process holds, shared or not; 0 where that can't be read."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


class Spare:
    """Gives free memory back once a process that ran has nothing to run, where it is much; sooner, where it is more.

    malloc keeps what was freed, see `worker.nursery`: the next run takes no page fault for it. The end of a thread's
    heap, up to 64 MiB, stays in any case: malloc gives back no more of any but the first one.

    Attributes:
        runs: How many there were: counted by whoever runs, roughly where several do at once.

    Args:
        resident: The process's memory in bytes.
        trim: Gives back what is free.
    """

    def __init__(self, resident: Callable[[], int] = resident_bytes, trim: Callable[[], object] = give_back) -> None:
        self._resident_bytes = resident
        self._trim = trim
        self._least_bytes = self._resident_bytes()
        self._looked_at = self._trimmed_at = 0
        self.runs = 0

    def look(self) -> None:
        """Looks once; to be called every so often."""
        runs, idle = self.runs, self.runs == self._looked_at
        self._looked_at = runs
        if runs == self._trimmed_at:
            return
        if idle:
            self._trimmed_at = runs
        if self._resident_bytes() > self._least_bytes + (SPARE_BYTES if idle else BUSY_BYTES):
            self._trim()
            self._least_bytes = min(self._least_bytes, self._resident_bytes())

    def work(self) -> None:
        """Looks for as long as the process runs."""
        while True:
            time.sleep(_LOOK_S)
            self.look()


def _touch(libc: Any, size_bytes: int) -> None:
    block = libc.malloc(size_bytes)
    if not block:  # The read will say so.
        return
    np.ctypeslib.as_array(ctypes.cast(block, ctypes.POINTER(ctypes.c_uint8)), (size_bytes,))[:: mmap.PAGESIZE] = 0
    libc.free(block)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc")):
        return None
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc
