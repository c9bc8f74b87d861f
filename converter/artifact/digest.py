"""SHA-256 of files and of trees of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from converter.artifact.schema import FileEntry

READ_BYTES = 1 << 20
"""How much of a file is read, or copied, before somebody may end it."""


def nothing() -> None:
    """Ends nothing."""


def file_entry(path: Path, *, may_end: Callable[[], None] = nothing) -> FileEntry:
    """Size and SHA-256 of a file, read once, in bounded memory.

    Args:
        path: The file.
        may_end: Called before each `READ_BYTES`; what it raises ends this.
    """
    digest, size_bytes, view = hashlib.sha256(), 0, memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while True:
            may_end()
            if not (count := file.readinto(view)):
                return FileEntry(size_bytes=size_bytes, sha256=digest.hexdigest())
            digest.update(view[:count])
            size_bytes += count


def tree_digest(root: Path, *, without: tuple[str, ...] = ()) -> str:
    """`sha256:` and one digest over every file below `root`: their paths, sizes and bytes, in the paths' order.

    A tree that was copied has the same digest; one in which a file was renamed, added or altered has another.

    Args:
        root: The folder.
        without: What the paths of files begin with, seen from `root` and with `/`, that do not count.
    """
    digest = hashlib.sha256()
    files = {path.relative_to(root).as_posix(): path for path in _files(root)}
    for relative in sorted(files):
        if relative.startswith(without):
            continue
        entry = file_entry(files[relative])
        name = os.fsencode(relative)
        digest.update(name + f"\0{entry.size_bytes}\0{entry.sha256}\n".encode())
    return "sha256:" + digest.hexdigest()


def _files(root: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    # Links to folders are followed: a model's weights may lie elsewhere. Each folder once, or a link upwards loops.
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(folder) / name for name in names]
    return found
