"""How threads of workers make room for whatever else wants to run: other models, that answer meanwhile.

A thread that is only nice is left the processor until the next tick where it has it, 4 ms on many systems, whoever
wakes up meanwhile. One that has asked for a long slice as well is put off at once by any other that wakes up, and gets
no less of the processor for it over time. Who asks for a long slice may ask for the usual one again, which needs no
privilege; who has become nicer may not. Linux heeds slices since 6.12 (EEVDF), and takes no notice before.

What is nice while others answer keeps to half of the cores besides: a kernel that is busy for a load (it reads hundreds
of MB, and frees them) is not put off by anybody, and is left the fewer cores for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import threading
from collections.abc import Callable
from pathlib import Path

NICE = 10
"""A tenth of the processor's time where all of it is asked for, and all of what nobody asks for."""

_CORES = frozenset(os.sched_getaffinity(0))
"""What this process may run on, as it was started."""

NICE_CORES = frozenset(sorted(_CORES)[len(_CORES) // 2 :])
"""What is left to those that are nice: one core of one, one of two, two of four."""

_LONG_NS = 100_000_000
"""The longest slice that Linux grants."""

_USUAL_NS = 0

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}

_KEEP_POLICY = 0x08
"""SCHED_FLAG_KEEP_POLICY."""

_ATTR = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`, as sched_setattr(2) tells: size, policy, flags, nice, priority, runtime (the slice), two."""


def step_back(*, nice: int = 0, cores: frozenset[int] | None = None) -> None:
    """Has the calling thread make room at once, and the threads and processes that it makes.

    Args:
        nice: It is at least so nice from now on.
        cores: It keeps to these. TensorFlow's thread pools have to be there already: they have a thread for each core
            that whoever makes them may run on.
    """
    _put_off(threading.get_native_id(), nice, cores)


def come_back() -> None:
    """Has all threads of this process, also TensorFlow's, have usual slices and all cores; they stay as nice."""
    for thread in _threads("self"):
        with contextlib.suppress(ProcessLookupError):  # It has ended.
            _keep_to(thread, _CORES)
            _set_slice(thread, _USUAL_NS)


def put_aside(pid: int) -> None:
    """Has another process make room in all it still does: freeing its memory, when it is killed next."""
    with contextlib.suppress(OSError):  # It has ended, or is not ours to tell.
        for thread in _threads(str(pid)):
            with contextlib.suppress(ProcessLookupError):
                _put_off(thread, NICE, NICE_CORES)


def _threads(process: str) -> list[int]:
    return [int(thread.name) for thread in Path("/proc", process, "task").iterdir()]


def _put_off(thread: int, nice: int, cores: frozenset[int] | None) -> None:
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, thread))
    os.setpriority(os.PRIO_PROCESS, thread, nice)
    if cores is not None:
        _keep_to(thread, cores)
    _set_slice(thread, _LONG_NS)


def _keep_to(thread: int, cores: frozenset[int]) -> None:
    with contextlib.suppress(OSError):  # Somebody else has taken these cores from this process meanwhile.
        os.sched_setaffinity(thread, cores)


def _set_slice(thread: int, slice_ns: int) -> None:
    """Asks for it. A system that refuses, or knows no slices, shares out its time as it would without."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    _syscall()(number, thread, _ATTR.pack(_ATTR.size, 0, _KEEP_POLICY, nice, 0, slice_ns, 0, 0), 0)


@functools.cache
def _syscall() -> Callable[..., int]:
    syscall = ctypes.CDLL(None).syscall
    syscall.restype = ctypes.c_long
    return syscall
