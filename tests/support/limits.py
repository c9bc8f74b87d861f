"""Small disks and little memory, for what runs out of them; only root may have these."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MEMORY = Path("/sys/fs/cgroup/memory")


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of that size at the folder, which is made; skips where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        pytest.skip("only root mounts a small disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no small disk: {made.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, name: str = "filler") -> Path:
    """Leaves no room on the disk of the folder; the file that takes it."""
    file = folder / name
    with file.open("wb", buffering=0) as out:
        for size in (2**16, 512, 1):
            try:
                while out.write(bytes(size)):
                    pass
            except OSError:
                continue
    return file


class Memory:
    """A group of processes that have so much memory together; the kernel ends one of them when they want more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, pid: int) -> None:
        """Takes a process in; those that it starts from now on are in too."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def bound(self, more_bytes: int) -> None:
        """Sets the limit to what they take now, and so much more."""
        used = int((self._folder / _name("memory.usage_in_bytes", "memory.current")).read_text())
        (self._folder / _name("memory.limit_in_bytes", "memory.max")).write_text(str(used + more_bytes))


def _name(first: str, second: str) -> str:
    return first if _MEMORY.is_dir() else second


@contextmanager
def little_memory() -> Iterator[Memory]:
    """A group whose memory can be bounded; skips where there are none."""
    root = _MEMORY if _MEMORY.is_dir() else Path("/sys/fs/cgroup")
    folder = root / f"faults-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes: {error}")
    try:
        if not (folder / _name("memory.limit_in_bytes", "memory.max")).exists():
            pytest.skip("memory can't be bounded here")
        yield Memory(folder)
    finally:
        _end(folder, root)


def _end(folder: Path, root: Path) -> None:
    """Gives those that are left back, so that the group can go."""
    for pid in (folder / "cgroup.procs").read_text().split():
        (root / "cgroup.procs").write_text(pid)
    folder.rmdir()
