"""Temporary folders that are gone once they are not needed, even where the program that made them was killed.

A folder's owner holds a lock on it, which the kernel lets go of when the process ends, however it ends. Whoever makes
a folder first removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "edge-convert-work-"
"""Of folders whose owners hold a lock; no other temporary folder may be called so."""


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A folder in the system's temporary folder; it is gone afterwards, after SIGKILL when the next one is made.

    Raises:
        OSError: it can't be made.
    """
    sweep(Path(tempfile.gettempdir()))
    folder, descriptor = _made()
    try:
        # One further in: the lock on the outer one is this module's, a store's writers lock the store.
        inner = folder / "work"
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _made() -> tuple[Path, int]:
    """The folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            descriptor = _open(folder)
        except FileNotFoundError:
            continue  # Another one swept it before it could be locked.
        with contextlib.suppress(OSError):  # A file system without locks: then nobody can sweep there either.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is(folder, descriptor):
            return folder, descriptor
        os.close(descriptor)


def sweep(root: Path) -> None:
    """Removes this user's working folders in `root` whose owners are gone."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = _open(folder)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is(folder: Path, descriptor: int) -> bool:
    """Whether the path still leads to the folder that was opened."""
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
