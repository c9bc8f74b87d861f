"""How many interpreters a version has on the CPU, and with how many threads. Pure."""

from __future__ import annotations

import msgspec

MAX_THREADS = 4
"""A Pi's cores. More rarely help networks of the size that runs on a device."""

MAX_GROWN = 8
"""Interpreters that are made of themselves under load: each holds its own packed weights."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be made.

    Attributes:
        threads: The numbers of threads that are to be tried for the first interpreter; the better one is taken.
        engines: Interpreters that are made at load.
        grows_to: Interpreters that may be made under load, with `grown_threads` each.
        grown_threads: Their threads.
        solo: Whether the first one, if it has several threads, is for a request that is alone: under load
            interpreters of one thread each do more together.
    """

    threads: tuple[int, ...]
    engines: int = 1
    grows_to: int = 1
    grown_threads: int = 1
    solo: bool = False


def layout(engines: int | None, threads: int | None, cores: int) -> Layout:
    """The layout for what the user gave and for a machine of that many cores.

    Measured on two cores: two interpreters of one thread run a small int8 network 4,800 times a second, one of two
    threads 2,700 times, and one of each together no more than that. Alone, two threads are up to 1.9 times as fast.
    """
    if engines is not None:
        each = threads or max(1, min(MAX_THREADS, cores // engines))
        return Layout(threads=(each,), engines=engines, grows_to=engines, grown_threads=each)
    if threads is not None:
        return Layout(threads=(threads,), grows_to=min(MAX_GROWN, max(1, cores // threads)), grown_threads=threads)
    candidates = (1,) if cores == 1 else (1, min(MAX_THREADS, cores))
    return Layout(threads=candidates, grows_to=min(MAX_GROWN, cores), solo=True)
