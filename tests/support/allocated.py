"""How much memory something takes at its most."""

import contextlib
import tracemalloc
from types import SimpleNamespace


@contextlib.contextmanager
def measured():
    """Gives an object whose `peak_bytes` is, after the block, the most that was allocated in it at a time."""
    peak = SimpleNamespace(peak_bytes=0)
    tracemalloc.start()
    try:
        yield peak
        peak.peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
