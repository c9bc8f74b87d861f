"""A number in memory that processes share: so each sees at every request whether what it knows still holds."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading

_BYTES = 8
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Epoch:
    """Counts the changes of versions and routes in the first process; read by the others without asking it.

    The first process counts a change before anybody can see it, and a worker answers by what it was told as long as
    the count is the one that it was told with. So no two processes ever answer by different states: while they would,
    all is passed on to the first. Eight aligned bytes are read and written as one.

    Args:
        fd: A descriptor of the memory, see `made`; this one's to close.

    Attributes:
        fd: The descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _BYTES)
        self._count = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()

    @classmethod
    def made(cls) -> Epoch:
        """A new one, at 0."""
        fd = os.memfd_create("epoch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    @property
    def value(self) -> int:
        """How many changes there were."""
        return self._count[0]

    def advance(self) -> None:
        """There is one more. In the first process alone; any thread. Does nothing once this is closed."""
        with self._lock:
            if self.fd >= 0:
                self._count[0] += 1

    def close(self) -> None:
        """Lets go of the memory. Closing again does nothing."""
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                self._count.release()
                self._memory.close()
                os.close(fd)
