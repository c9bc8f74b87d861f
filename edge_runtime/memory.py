"""Memory that malloc keeps though nothing uses it: few heaps, and given back where much was freed at once."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping
from typing import Any

HEAPS = 3
"""At most so many does malloc have for all threads: one for callers, and two for those that run and load. An
interpreter takes memory when it is made, and next to none when it runs."""

_M_ARENA_MAX = -8
"""A parameter of mallopt(3)."""


def have_few_heaps(environment: Mapping[str, str] | None = None) -> bool:
    """Bounds malloc's heaps to `HEAPS`, for the whole process; whether that was done.

    glibc has up to eight a core, and gives a new thread any that is free. Each version has threads of its own, which
    take most memory while it is loaded: of a heap in which that once lay glibc keeps the end, and so with every version
    more heaps come to be as large as the largest. Those that are there already stay.

    Args:
        environment: The process's, if None. Where it says how many heaps there are, nothing is done; nor with
            another malloc than glibc's.
    """
    said = os.environ if environment is None else environment
    libc = _libc()
    if libc is None or "MALLOC_ARENA_MAX" in said or "arena_max" in said.get("GLIBC_TUNABLES", ""):
        return False
    return bool(libc.mallopt(_M_ARENA_MAX, HEAPS))


def give_back() -> None:
    """Has malloc give back whole pages that are free, without Python's lock.

    Takes milliseconds where there are few, and some tenths of a second for a gigabyte that lies in pieces; whoever
    needs memory from the same heap waits meanwhile.
    """
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc_trim")):
        return None
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc
