"""Where parsers of files find their input."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

NAME = "given"


@functools.cache
def place() -> Path:
    """A folder that lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _FOLDERS.append(folder)
    return Path(folder.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def from_file(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], None]:
    """The reader of a file as one of bytes."""

    def read_bytes(data: bytes) -> None:
        path = place() / f"{NAME}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read(path)

    return read_bytes


@contextlib.contextmanager
def emptied() -> Iterator[Path]:
    """An empty folder, which must not have been left for another."""
    outer = Path(tempfile.mkdtemp(dir=place()))
    inner = outer / "in" / "side"
    inner.mkdir(parents=True)
    try:
        yield inner
        assert [path.name for path in outer.iterdir()] == ["in"], "something was written outside"
        assert [path.name for path in (outer / "in").iterdir()] == ["side"], "something was written outside"
        for path in inner.rglob("*"):
            assert path.resolve().is_relative_to(inner), f"{path} leads outside"
    finally:
        shutil.rmtree(outer)
