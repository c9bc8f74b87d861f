"""Memory that malloc keeps though nothing uses it, given back to the system."""

from __future__ import annotations

import ctypes
import functools
from typing import Any


def give_back() -> None:
    """Has malloc give back whole pages that are free, of all its heaps. Takes milliseconds, without Python's lock.

    What was freed lies between what lives longer (gRPC receives a message in thousands of small pieces), and the next
    that is large would come on top. Does nothing with another malloc than glibc's.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Any:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes = [ctypes.c_size_t]
    return trim
