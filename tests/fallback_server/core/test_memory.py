"""`fallback_server.core.memory`: what malloc keeps is given back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_GLIBC = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")

_SCATTERED = """
import ctypes
from fallback_server.core.memory import give_back
from fallback_server.executors.heap import resident_bytes

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
pieces = [libc.malloc(16_000) for _ in range(4_000)]
for each in pieces:
    ctypes.memset(each, 1, 16_000)
for number, each in enumerate(pieces):
    if number % 16:
        libc.free(each)
before = resident_bytes()
give_back()
print(before - resident_bytes())
"""


@pytest.mark.skipif(not _GLIBC, reason="another malloc than glibc's")
def test_memory_between_what_lives_longer_is_given_back():
    """Of 64 MB in pieces of which each sixteenth stays, most goes, though nothing at the heap's end is free."""
    done = subprocess.run([sys.executable, "-c", _SCATTERED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 32_000_000
