"""Reads of small files under a root, which forgive absence and remember what could not be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

MAX_TEXT_BYTES = 2**20
"""The files of sysfs and proc are small; /proc/cpuinfo of a large server is the longest read here."""

_MOST_DIGITS = 20
"""No 64-bit number has more, its sign included."""

_T = TypeVar("_T")
_DIGITS = re.compile(r"(\d+)")
_NUMBER = re.compile(r"[+-]?[0-9]+")


class Tree:
    """A file system below `root`. Paths are given without the leading slash: `sys/class/net`.

    Not for use by several threads at once.

    Attributes:
        root: Where it begins; `/` is the running machine, anything else a copy or a test's fake.
        unread: What was expected and could not be read, each with the reason, in the order of asking.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unread: list[str] = []

    def text(self, path: str, *, expected: bool = False) -> str | None:
        """The file's text without surrounding white space and NULs; None where it can't be read.

        Args:
            path: The file.
            expected: Whether its absence belongs into `unread`; a refusal always does.
        """
        data = self._try(path, expected=expected, read=_read)
        return None if data is None else data.decode("utf-8", errors="replace").strip(" \t\r\n\0")

    def names(self, path: str, *, expected: bool = False) -> list[str]:
        """The names in a directory, numbers within them in numeric order; none where it can't be read."""
        found = self._try(path, expected=expected, read=_names)
        return sorted(found or [], key=_natural)

    def number(self, path: str) -> int | None:
        """The file's decimal number; None where it can't be read or is none."""
        text = self.text(path)
        if text is None:
            return None
        # `int` takes more than kernels write: underscores, and other scripts' digits.
        if _NUMBER.fullmatch(text) and len(text) <= _MOST_DIGITS:
            return int(text)
        self.unread.append(f"/{path}: {text[:40]!r} is no number")
        return None

    def exists(self, path: str) -> bool:
        """Whether something stands there, as far as this process may see."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def _try(self, path: str, *, expected: bool, read: Callable[[Path], _T]) -> _T | None:
        try:
            return read(self.root / path)
        except OSError as error:
            # A sensor that is switched off answers EIO or EAGAIN: worth a word, unlike plain absence.
            if expected or not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.unread.append(f"/{path}: {error.strerror}")
            return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_TEXT_BYTES)


def _names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name)]
