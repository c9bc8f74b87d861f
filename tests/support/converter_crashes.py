"""Tasks that end in every way a task can."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from converter.errors import DataInvalid


def add(a, b=0):
    return a + b


def big_array(count):
    return np.arange(count, dtype=np.float64)


def total(array):
    return float(array.sum())


def segfault():
    sys.stderr.write("about to fall\n")
    sys.stderr.flush()
    ctypes.string_at(0)


def abort():
    os.abort()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code):
    os._exit(code)


def system_exit(code):
    sys.exit(code)


def hang(pid_file=None):
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def hang_with_grandchild(pid_file):
    process = subprocess.Popen(["sleep", "600"])
    Path(pid_file).write_text(f"{os.getpid()} {process.pid}")
    process.wait()


def raise_value_error():
    sys.stderr.write("noise before the fall\n")
    raise ValueError("no good: 7")


def raise_data_invalid():
    raise DataInvalid("sample 3: NaN")


def unpicklable():
    return lambda: 0


def talk(size_bytes):
    sys.stdout.write("x" * size_bytes + "the end")
    sys.stdout.flush()
    os.abort()


def process_id():
    return os.getpid()


def loaded(module):
    return module in sys.modules


def environment(name):
    return os.environ.get(name)


def fill_memory(mebibytes, hold_file=None):
    """Takes memory piece by piece and touches it; gives back how much."""
    pieces = [np.ones(2**17) for _ in range(mebibytes)]
    if hold_file:
        Path(hold_file).write_text("full")
        while True:
            time.sleep(1)
    return len(pieces)


def fill_memory_with_tensorflow(mebibytes):
    import tensorflow as tf

    pieces = [tf.fill((2**18,), float(index)) for index in range(mebibytes)]
    return len(pieces)


def map_file(path):
    """Reads all of a mapped file, which is no memory of the process's own."""
    return float(np.load(path, mmap_mode="r").sum())


def more_than_there_is():
    return np.ones(2**50)


def wait_for(path, result):
    """Ends once the file is there."""
    while not Path(path).is_file():
        time.sleep(0.01)
    return result
