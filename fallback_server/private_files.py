"""Files that nobody but their owner reads, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

_PRIVATE = 0o600
_FOLDER = 0o700


def write_private(path: Path, content: bytes, *, mode: int = _PRIVATE, keep: bool = False) -> None:
    """Writes a file beside its place, and moves it there: readers find what was before, or all that is new.

    Args:
        path: Its place.
        content: All of it.
        mode: What it may be used for, whatever the process' umask says.
        keep: Whether owner, group and mode of a file that is there already are kept, and a link to it is followed: so
            that who has read it goes on reading it, whoever edits it.

    Raises:
        OSError: it can't be written, or not given to its owner.
    """
    owner = group = -1
    if keep:
        path = path.resolve()
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            mode, owner, group = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _give(file.fileno(), owner, group)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _give(descriptor: int, owner: int, group: int) -> None:
    made = os.fstat(descriptor)
    changes = (owner if owner != made.st_uid else -1, group if group != made.st_gid else -1)
    if changes != (-1, -1):
        os.fchown(descriptor, *changes)


def private_folder(path: Path) -> Path:
    """A folder of this user's alone, which is made where there is none.

    Raises:
        OSError: it can't be made; or what is there is no folder, another user's, or open to others.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=_FOLDER)
    return own_folder(path)


def own_folder(path: Path) -> Path:
    """A folder that is there, and this user's alone.

    Raises:
        OSError: it is not there, is no folder, another user's, or open to others.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is no folder")
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to user {found.st_uid}, and not to user {os.getuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{path} is open to others: its mode is {stat.S_IMODE(found.st_mode):o}, not 700")
    return path
