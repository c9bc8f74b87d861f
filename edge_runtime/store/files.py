"""The small files of a store: read within bounds, replaced by one rename, changed under the lock on their folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import InvalidConfig

MAX_BYTES = 1 << 20
"""They hold a few names and numbers; a larger file is none of them."""


@contextlib.contextmanager
def named(what: str, path: Path, *, missing: bool = False) -> Iterator[None]:
    """Names the file system's refusals; that something is absent is passed on, unless `missing` is refused as well."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not missing:
            raise
        raise InvalidConfig(f"{what} {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds the exclusive lock on a directory, which ends with the process if not before; gives its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def read(what: str, path: Path) -> bytes:
    """The file's bytes.

    Raises:
        FileNotFoundError: there is none.
        InvalidConfig: it is no file, too large, or can't be read.
    """
    with named(what, path):
        # Neither a folder nor a pipe, which would be waited for.
        if path.exists() and not path.is_file():
            raise InvalidConfig(f"{path}: {what} must be a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InvalidConfig(f"{path}: at most {MAX_BYTES} bytes of {what} are read")
    return data


def write(path: Path, data: bytes) -> None:
    """Replaces the file by one rename. Readable by all whom the umask allows: the writer is rarely the runtime's user.

    One writer at a time; what a killed one left behind gives way.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        # Where the disk is full, it is an empty file that nobody knows.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
