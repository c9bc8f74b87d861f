"""Keeps what LiteRT notes (`INFO: ...`) off a command's stderr."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

_STDERR = 2
"""Its descriptor."""

_NOTE = "INFO: "


class Stderr:
    """What is written to stderr, held back until it is to be shown. Not thread-safe, but for the writing.

    Attributes:
        stream: For what is to be seen at once; None where stderr is closed.
    """

    def __init__(self, stream: TextIO | None, held: int | None = None) -> None:
        """Takes both.

        Args:
            stream: Where lines are shown.
            held: The descriptor of the file that they are held in; None where nothing is held.
        """
        self.stream = stream
        self._held = held
        self._done_bytes = 0
        self._told = ""

    def drop(self, text: str) -> None:
        """Lines with this text are not shown: whoever calls is about to say it, as the command's error."""
        self._told = " ".join(text.split()).rstrip(".")

    def show(self, *, all_: bool = False) -> None:
        """Shows what was written since, but for notes; the last line only if it is ended, or all is asked for."""
        if self._held is None or self.stream is None:
            return
        # Not by reading: the descriptor shares its place with those that write.
        content = os.pread(self._held, os.fstat(self._held).st_size - self._done_bytes, self._done_bytes)
        if not all_:
            content = content[: content.rfind(b"\n") + 1]
        self._done_bytes += len(content)
        for line in content.decode(errors="replace").splitlines(keepends=True):
            if not line.startswith(_NOTE) and not (self._told and self._told in line):
                self.stream.write(line)
        self.stream.flush()


@contextlib.contextmanager
def without_notes(*, debug: bool = False) -> Iterator[Stderr]:
    """Holds what is written to stderr, and shows it afterwards, or when told to, without LiteRT's notes.

    Its C++ writes them to the descriptor, and has no level that could be set. The descriptor is the whole process's:
    only for a command. Where the process crashes, what was held is lost, and what it crashed of is shown, and where.

    Args:
        debug: Hold nothing.
    """
    kept = None
    if not debug:
        with contextlib.suppress(OSError, AttributeError):  # It is closed: nothing can come of it.
            sys.stderr.flush()
            kept = os.dup(_STDERR)
    if kept is None:
        yield Stderr(sys.stderr if debug else None)
        return
    with tempfile.TemporaryFile() as held, os.fdopen(kept, "w", errors="replace") as shown:
        os.dup2(held.fileno(), _STDERR)
        stderr = Stderr(shown, held.fileno())
        crashes = not faulthandler.is_enabled()  # Whoever has it enabled has said where to.
        if crashes:
            faulthandler.enable(file=shown, all_threads=False)
        try:
            yield stderr
        finally:
            if crashes:
                faulthandler.disable()
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
            stderr.show(all_=True)
