"""A folder for a socket that nobody else may reach, which is gone with its server, or cleared away by the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "fallback-server-"

_YOUNG_S = 60.0
"""A folder that is younger may not be locked yet by who has made it."""


class PrivateFolder:
    """A folder of mode 0700 in the system's folder for temporary files, locked as long as its server lives."""

    def __init__(self) -> None:
        _clear_away(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Removes it. Closing again does nothing."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(lock)


def _clear_away(folder: Path) -> None:
    """Removes what servers of this user left that were killed: what nobody has locked."""
    for path in folder.glob(f"{PREFIX}*"):
        # What can't be looked at, or is gone meanwhile, is somebody else's.
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_S:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
