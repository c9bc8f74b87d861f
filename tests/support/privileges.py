"""Root reads every file; tests of what can't be read give that up for a while."""

import contextlib
import ctypes
import os

_VERSION_3 = 0x20080522
_FILE_CAPABILITIES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def unprivileged():
    """File permissions hold for this thread while the body runs, even if it is root's."""
    if os.geteuid() != 0:
        yield
        return
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, then the same for higher numbers
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~_FILE_CAPABILITIES
    assert libc.capset(header, less) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0, os.strerror(ctypes.get_errno())
