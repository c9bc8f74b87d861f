"""How threads of workers make room for whatever else wants to run: other models, that answer meanwhile.

A thread that is only nice is left the processor until the next tick where it has it, 4 ms on many systems, whoever
wakes up meanwhile. One that has asked for a long slice as well is put off at once by any other that wakes up, and gets
no less of the processor for it over time. Who asks for a long slice may ask for the usual one again, which needs no
privilege; who has become nicer may not. Linux heeds slices since 6.12 (EEVDF), and takes no notice before.
"""

from __future__ import annotations

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

_LONG_NS = 100_000_000
"""The longest slice that Linux grants."""

_USUAL_NS = 0

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}

_KEEP_POLICY = 0x08
"""SCHED_FLAG_KEEP_POLICY."""

_ATTR = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`, as sched_setattr(2) tells: size, policy, flags, nice, priority, runtime (the slice), two."""


def step_back(*, nice: int = 0) -> None:
    """Has the calling thread make room at once, and the threads and processes that it makes; at least so nice too."""
    thread = threading.get_native_id()
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, thread))
    os.setpriority(os.PRIO_PROCESS, thread, nice)
    _set_slice(thread, _LONG_NS)


def come_back() -> None:
    """Has all threads of this process, also TensorFlow's, have usual slices again; they stay as nice as they are."""
    for thread in Path("/proc/self/task").iterdir():
        _set_slice(int(thread.name), _USUAL_NS)


def _set_slice(thread: int, slice_ns: int) -> None:
    """Asks for it. A system that refuses, or knows no slices, shares out its time as it would without."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    try:
        nice = os.getpriority(os.PRIO_PROCESS, thread)
    except ProcessLookupError:  # It has ended.
        return
    _syscall()(number, thread, _ATTR.pack(_ATTR.size, 0, _KEEP_POLICY, nice, 0, slice_ns, 0, 0), 0)


@functools.cache
def _syscall() -> Callable[..., int]:
    syscall = ctypes.CDLL(None).syscall
    syscall.restype = ctypes.c_long
    return syscall
