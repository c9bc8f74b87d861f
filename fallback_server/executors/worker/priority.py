"""How threads of workers make room for whatever else wants to run: other models, that answer meanwhile.

A thread that is only nice is left the processor until the next tick where it has it, 4 ms on many systems, whoever
wakes up meanwhile. One that has asked for a long slice as well is put off at once by any other that wakes up, and gets
no less of the processor for it over time. Who asks for a long slice may ask for the usual one again, which needs no
privilege; who has become nicer may not. Linux heeds slices since 6.12 (EEVDF), and takes no notice before.

Being nice is for the thread that loads alone: what a run makes for good (TensorFlow's thread pools that are made when
they are first needed) would stay nice. A load and its warming up keep to half of the cores instead, with all their
threads, where others answer meanwhile; so does a killed worker that frees its memory. A kernel that is busy for them
is not put off by anybody, and is left the fewer cores for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

NICE = 10
"""A tenth of the processor's time where all of it is asked for, and all of what nobody asks for."""

_LEAST_NICE = -20
"""Whoever started the server may have given it more of the processor than usual: that stays."""

_LONG_NS = 100_000_000
"""The longest slice that Linux grants."""

_SHORT_NS = 100_000
"""The shortest."""

_USUAL_NS = 0

_SOONER, _SOONEST = 500, 1000
"""Of /proc/PID/oom_score_adj, in thousandths of the memory that there is. A limit of memory may be hit twice before
what the first process held is free: then the next of them goes."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}

_KEEP_POLICY = 0x08
"""SCHED_FLAG_KEEP_POLICY."""

_ATTR = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`, as sched_setattr(2) tells: size, policy, flags, nice, priority, runtime (the slice), two."""


def step_back(*, nice: int = _LEAST_NICE) -> None:
    """Has the calling thread make room at once, and the threads and processes that it makes; at least so nice too."""
    _put_off(threading.get_native_id(), nice)


def wake_soon() -> None:
    """Has the calling thread, and those that it makes, run at once when they wake up, before what workers run.

    What reads, refuses and answers takes the processor for a moment, and else waits at each wake-up until a run of a
    model has had its slice. It gets no more of the processor for it over time. Threads that run models in this process
    have it, too: among them nobody is first.
    """
    _set_slice(threading.get_native_id(), _SHORT_NS)


def go_first() -> None:
    """Has the kernel end this process, and those that it makes, before the server where memory runs out.

    All clients would lose a server for what one model took. An operator's own figure is kept to, raised by half of what
    there is, which counts more than half of the memory.
    """
    with contextlib.suppress(OSError):  # A system without it, or that lets nobody.
        said = Path("/proc/self/oom_score_adj")
        said.write_text(str(min(int(said.read_text()) + _SOONER, _SOONEST)))


class Aside:
    """This process keeps to half of the cores that it may run on, from `begin` to `end`."""

    def __init__(self) -> None:
        self._all: frozenset[int] = frozenset()
        self._half: frozenset[int] = frozenset()

    def begin(self) -> None:
        """For all threads that there are, and those that they make.

        TensorFlow's pools must be there: they get a thread for each core that whoever makes them may run on.
        """
        self._all = frozenset(os.sched_getaffinity(0))
        self._half = _half(self._all)
        for thread in _threads("self"):
            _keep_to(thread, self._half)

    def end(self) -> None:
        """All cores again. A thread that somebody else has given others meanwhile keeps these."""
        for thread in _threads("self") if self._half else ():
            with contextlib.suppress(ProcessLookupError):  # It has ended.
                if os.sched_getaffinity(thread) == self._half:
                    _keep_to(thread, self._all)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """All cores meanwhile, where it keeps to half of them: for what is no measure there. Not to be nested."""
        if not self._half:
            yield
            return
        self.end()
        try:
            yield
        finally:
            self.begin()


class Narrowed:
    """Another process keeps off the first of the cores that it may run on, from the start to `end`.

    One that had a single core keeps it.

    Args:
        pid: Whose threads, and those that they make.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._all: frozenset[int] = frozenset()
        self._rest: frozenset[int] = frozenset()
        with contextlib.suppress(OSError):  # It has ended.
            self._all = frozenset(os.sched_getaffinity(pid))
            self._rest = frozenset(sorted(self._all)[1:])
            self._move(self._all, self._rest)

    def end(self) -> None:
        """All cores again. A thread that somebody else has given others meanwhile keeps these."""
        with contextlib.suppress(OSError):
            self._move(self._rest, self._all)

    def _move(self, given: frozenset[int], wanted: frozenset[int]) -> None:
        for thread in _threads(str(self._pid)) if self._rest else ():
            with contextlib.suppress(ProcessLookupError):
                if os.sched_getaffinity(thread) == given:
                    _keep_to(thread, wanted)


def come_back() -> None:
    """Has all threads of this process, also TensorFlow's, have usual slices again; who is nice stays so."""
    for thread in _threads("self"):
        with contextlib.suppress(ProcessLookupError):
            _set_slice(thread, _USUAL_NS)


def put_aside(pid: int) -> None:
    """Has another process make room in all it still does: freeing its memory, when it is killed next."""
    with contextlib.suppress(OSError):  # It has ended, or is not ours to tell.
        half = _half(frozenset(os.sched_getaffinity(pid)))
        for thread in _threads(str(pid)):
            with contextlib.suppress(ProcessLookupError):
                _put_off(thread, NICE)
                _keep_to(thread, half)


def _half(cores: frozenset[int]) -> frozenset[int]:
    """One core of one, one of two, two of four."""
    return frozenset(sorted(cores)[len(cores) // 2 :])


def _threads(process: str) -> list[int]:
    return [int(thread.name) for thread in Path("/proc", process, "task").iterdir()]


def _put_off(thread: int, nice: int) -> None:
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, thread))
    os.setpriority(os.PRIO_PROCESS, thread, nice)
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
