"""How long a slice a thread has asked for, how nice it is, and how many cores it may run on."""

import ctypes
import os
import platform
import struct

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275, "riscv64": 275}
_ATTR = struct.Struct("=IIQiIQQQ")


def slice_ns(thread):
    """The slice of a thread, in ns; 0 where the system has none."""
    attributes = ctypes.create_string_buffer(_ATTR.size)
    number = _SCHED_GETATTR[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, thread, attributes, _ATTR.size, 0) == 0
    return _ATTR.unpack(attributes.raw)[5]


def nice(thread):
    """How nice a thread is."""
    return os.getpriority(os.PRIO_PROCESS, thread)


def cores(thread):
    """On how many cores a thread may run."""
    return len(os.sched_getaffinity(thread))
