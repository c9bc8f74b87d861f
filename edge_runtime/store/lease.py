"""A version that is open in some process: a shared lock on its directory, which ends with the process if not before."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TRIES, _WAIT_S = 100, 0.01
"""Whoever holds the exclusive lock looks or renames. A stopped one must not hold up the loading of a model for ever."""

_LOOKS, _LOOK_WAIT_S = 3, 0.005
"""Another one who looks holds it for microseconds."""

_log = logging.getLogger(__name__)


class Lease:
    """Keeps a version's directory from being removed by whoever makes room. Thread-safe."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor that holds the lock; see `take`."""
        self._held = [descriptor]

    def __repr__(self) -> str:
        return f"<Lease {'held' if self._held else 'given back'}>"

    def close(self) -> None:
        """Gives it back. Called again, it does nothing."""
        with contextlib.suppress(IndexError):
            os.close(self._held.pop())


def take(path: Path) -> Lease | None:
    """The lease on what lies at the path now.

    None where there is no directory, the file system has no locks or somebody has held the exclusive one for a second:
    the version can be run all the same, but whoever makes room does not know of it.
    """
    for _ in range(_TRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None  # Whoever opens the package says what is wrong with it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # noqa: PTH116  as the line above
                return Lease(descriptor)
        except BlockingIOError:
            time.sleep(_WAIT_S)
        except OSError as error:
            _log.info("%s can't be held open for others to see: %s", path, error.strerror or error)
            os.close(descriptor)
            return None
        os.close(descriptor)
    _log.info("%s can't be held open for others to see: another process keeps it locked", path)
    return None


def is_open(path: Path) -> bool:
    """Whether some process has the version open, this one included. False where that can't be told."""
    try:
        with alone(path) as mine:
            return not mine
    except OSError:
        return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Holds the exclusive lock on a version's directory meanwhile; False if some process has it open.

    Raises:
        OSError: there is no such directory, or it can't be locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock_alone(descriptor)
    finally:
        os.close(descriptor)


def _lock_alone(descriptor: int) -> bool:
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_WAIT_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
