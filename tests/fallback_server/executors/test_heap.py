"""Memory that is touched ahead, in a process of its own: it changes that process's malloc."""

import json
import subprocess
import sys

import pytest

from fallback_server.executors.heap import BUSY_BYTES, SPARE_BYTES, Spare

READS = """
import ctypes, json, os, resource, sys
from fallback_server.executors.heap import touched
size, ahead = 64 * 2**20, int(sys.argv[1])
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
begin = resident()
with touched(ahead):
    before = faults()
    blocks = [libc.malloc(size // 4) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size // 4)
    taken = faults() - before
kept = resident() - begin
print(json.dumps([taken, kept]))
"""


def read(ahead):
    """How many pages were faulted in within, and the bytes that the process holds more afterwards."""
    done = subprocess.run([sys.executable, "-c", READS, str(ahead)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_memory_that_was_touched_faults_no_more_and_the_rest_goes():
    """Filling it faults in hardly a page, and what was touched beyond it is given back."""
    size = 64 * 2**20
    fresh, held = read(0)
    assert fresh > size / 4096 / 600, "pages, or huge ones"
    taken, kept = read(2 * size)
    assert taken < 64
    assert kept < held + 2**22


def test_what_is_free_goes_back_once_nothing_runs():
    """Not while there are runs unless it is very much, not where it is little, and once for all that ran."""
    held, trims = [100], []

    def trim():
        trims.append(True)
        held[0] = 90

    spare = Spare(lambda: held[0], trim)
    spare.look()
    held[0] = 100 + SPARE_BYTES + 1
    spare.look()
    assert not trims  # Nothing ran: it is no run's.
    spare.runs += 1
    spare.look()
    assert not trims
    spare.look()
    spare.look()
    assert trims == [True]
    spare.runs += 1
    held[0] = 90 + SPARE_BYTES
    spare.look()
    spare.look()
    assert trims == [True]
    spare.runs += 1
    held[0] = 90 + BUSY_BYTES + 1
    spare.look()
    assert trims == [True, True]
