"""Whether the disk has room for a package, and which disk it was that had none."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_FREE_BYTES = 64 * 2**20
"""What stays free of a disk; of a small one a smaller part."""

_FREE_PARTS = 20

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What only whoever writes is told."""


def room_bytes(root: Path) -> int:
    """What a package may take of the disk that a folder is on; 64 MiB, or a twentieth of a small disk, stay free."""
    usage = shutil.disk_usage(root)
    return max(usage.free - min(_FREE_BYTES, usage.total // _FREE_PARTS), 0)


def check_room(root: Path, size_bytes: int) -> None:
    """Whether that many bytes may be written there.

    Raises:
        OSError: they would leave too little of the disk free; its file is the folder.
    """
    if size_bytes > (room := room_bytes(root)):
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size_bytes} bytes come, {room} may be taken", str(root)
        )


@contextlib.contextmanager
def naming(root: Path) -> Iterator[None]:
    """Has an error of a full disk name the folder that was written to: the system names what was read, or nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or error.filename == str(root):
            raise
        raise OSError(error.errno, error.strerror, str(root)) from error
