"""A terminal that one program has to itself for a while: another screen, keys as they are pressed, all of it undone."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, without cursor, and without going on in the next line at the right edge (xterm's control
sequences: https://invisible-island.net/xterm/ctlseqs/ctlseqs.html)."""

_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
}


class Terminal:
    """What is drawn on, and whose keys are read. Made by `taken`."""

    def __init__(self, keys: TextIO | None, screen: TextIO) -> None:
        self._keys = keys
        self._screen = screen

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        return tuple(shutil.get_terminal_size((100, 40)))  # type: ignore[return-value]  # a named tuple of two

    def draw(self, lines: Sequence[str]) -> None:
        """Replaces what is shown, in one write, so that nothing flickers."""
        body = f"{_REST_OF_LINE}\r\n".join(lines)
        self._screen.write(f"{_HOME}{body}{_REST_OF_LINE}{_REST_OF_SCREEN}")
        self._screen.flush()

    def key(self, timeout_s: float) -> str:
        """Waits for a key; `up`, `down`... or its letter; empty when the time is over, `resized` when the window is."""
        with _woken_by_resize() as resized:
            typed = -1 if self._keys is None else self._keys.fileno()
            ready, _, _ = select.select([one for one in (typed, resized) if one >= 0], [], [], timeout_s)
        if typed not in ready:
            return "resized" if resized in ready else ""
        data = os.read(typed, 64).decode(errors="replace")
        if not data:  # The terminal is gone.
            return "q"
        return _KEYS.get(data, data[:1])


class Paper:
    """A terminal that heeds no control sequences: what is drawn is written, one picture below the other."""

    size = None

    def __init__(self, keys: TextIO | None, screen: TextIO) -> None:
        """Takes what is typed, where that is a terminal: keys are read when the line is ended."""
        self._keys = keys
        self._screen = screen

    def draw(self, lines: Sequence[str]) -> None:
        """Writes the lines, and an empty one."""
        self._screen.write("".join(f"{one}\n" for one in (*lines, "")))
        self._screen.flush()

    def key(self, timeout_s: float) -> str:
        """Waits for a line; its first letter, empty when the time is over."""
        ready, _, _ = select.select([] if self._keys is None else [self._keys.fileno()], [], [], timeout_s)
        if not ready:
            return ""
        return os.read(ready[0], 64).decode(errors="replace")[:1] or "q"  # Without anything: the terminal is gone.


@contextlib.contextmanager
def taken(keys: TextIO, screen: TextIO) -> Iterator[Terminal]:
    """Takes the terminal, and gives it back as it was, also when the program is ended or stopped (Ctrl-Z) meanwhile.

    Args:
        keys: What is typed; where that is no terminal, no keys are read.
        screen: A terminal.
    """
    typed = keys if keys.isatty() else None
    before: list[Any] | None = None if typed is None else termios.tcgetattr(typed)

    def say(text: str) -> None:
        # A signal may come while the screen is written to, which can't be written to from there: past its buffer, then.
        with contextlib.suppress(RuntimeError):
            screen.flush()
        os.write(screen.fileno(), text.encode())

    def enter() -> None:
        if typed is not None:
            tty.setcbreak(typed, termios.TCSADRAIN)
        say(_ENTER)

    def leave() -> None:
        if typed is not None and before is not None:
            termios.tcsetattr(typed, termios.TCSADRAIN, before)
        say(_LEAVE)

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # Here the process stands until it is continued.
        signal.signal(number, stop)
        enter()

    with _handled({signal.SIGTERM: _end, signal.SIGHUP: _end, signal.SIGTSTP: stop}):
        try:
            enter()
            yield Terminal(typed, screen)
        finally:
            with contextlib.suppress(OSError):  # The terminal is gone, and needs nothing.
                leave()


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _woken_by_resize() -> Iterator[int]:
    """A descriptor that can be read from when the window's size has changed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        with contextlib.suppress(OSError):
            os.write(writer, b"!")

    try:
        with _handled({signal.SIGWINCH: note}):
            yield reader
    finally:
        os.close(reader)
        os.close(writer)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """So that `finally` is run."""
    del frame
    sys.exit(128 + number)
