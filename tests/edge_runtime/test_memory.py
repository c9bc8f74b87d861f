"""`edge_runtime.memory`: how many heaps malloc has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.edge_models import publish_scale

from edge_runtime.memory import HEAPS, have_few_heaps

_GLIBC = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")

_COUNT = """
import ctypes, os, sys, tempfile, threading
import edge_runtime

with edge_runtime.Runtime.open(sys.argv[1]):
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
    libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    together = threading.Barrier(12)

    def take():
        together.wait()
        assert libc.malloc(1000)
        together.wait()

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with tempfile.NamedTemporaryFile() as file:
        stream = libc.fdopen(os.dup(file.fileno()), b"w")
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        print(open(file.name).read().count("<heap nr="))
"""


def _heaps(store: Path, **settings: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | settings
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, str(store)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not _GLIBC, reason="another malloc than glibc's")
def test_an_open_runtime_has_few_heaps_however_many_threads_there_are(tmp_path: Path) -> None:
    """A dozen threads that take memory share three heaps; or as many as the environment says."""
    publish_scale(tmp_path, 1, 2.0)
    assert _heaps(tmp_path) <= HEAPS
    assert _heaps(tmp_path, MALLOC_ARENA_MAX="6") > HEAPS


@pytest.mark.parametrize("said", [{"MALLOC_ARENA_MAX": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}])
def test_what_the_environment_says_of_heaps_holds(said: dict[str, str]) -> None:
    """Who has said how many heaps there are is not overruled."""
    assert not have_few_heaps(said)
