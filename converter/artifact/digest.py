"""SHA-256 of files and of trees of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from converter.artifact.schema import FileEntry


def file_entry(path: Path) -> FileEntry:
    """Size and SHA-256 of a file, read once, in bounded memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileEntry(size_bytes=file.tell(), sha256=digest.hexdigest())


def tree_digest(root: Path) -> str:
    """`sha256:` and one digest over every file below `root`: their paths, sizes and bytes, in the paths' order.

    A tree that was copied has the same digest; one in which a file was renamed, added or altered has another.
    """
    digest = hashlib.sha256()
    for path in sorted(_files(root), key=lambda path: path.relative_to(root).as_posix()):
        entry = file_entry(path)
        digest.update(f"{path.relative_to(root).as_posix()}\0{entry.size_bytes}\0{entry.sha256}\n".encode())
    return "sha256:" + digest.hexdigest()


def _files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
