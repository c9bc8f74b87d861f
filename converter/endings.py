"""How the command ends when it is told to: Ctrl-C, SIGTERM, SIGHUP. Imports nothing heavy, so that it holds early."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PATIENCE_S = 10.0
"""For the unwinding, which a second signal is not to break off: it kills processes and removes folders."""

_OF_A_SHELL = 128
"""A shell's exit code for a command that a signal has ended is this and the signal's number."""


class Ended(KeyboardInterrupt):
    """A signal has asked this program to end; it unwinds as after Ctrl-C. The text says which."""


class Endings:
    """While the `with` lasts, the signals that ask for an end raise `Ended` in the main thread.

    Until `unwind` is called, there is nothing to tidy up: then the program ends at once, with one line. Signals that
    are ignored stay so (`nohup`), and those that somebody else handles are left alone.

    Attributes:
        received: The first of them that came; None so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received: signal.Signals | None = None
        self._clock = clock
        self._since_s = 0.0
        self._unwinds = False
        self._before: dict[signal.Signals, signal.Handlers | Callable[[int, FrameType | None], object]] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # No other may set handlers.
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is signal.SIG_DFL or before is signal.default_int_handler:
                    self._before[number] = before
                    signal.signal(number, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def exit_code(self) -> int:
        """As a shell has it: 130 for Ctrl-C, 143 for SIGTERM; 0 where none came."""
        return _OF_A_SHELL + self.received if self.received else 0

    def unwind(self) -> None:
        """From now on there is something to tidy up."""
        self._unwinds = True

    def _end(self, number: int, _frame: FrameType | None) -> None:
        now_s = self._clock()
        if self.received is not None and now_s - self._since_s < PATIENCE_S:
            return
        self.received, self._since_s = signal.Signals(number), now_s
        error = Ended("interrupted" if number == signal.SIGINT else f"ended by {self.received.name}")
        if self._unwinds:
            raise error
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"edge-convert: {error}\n".encode())
        os._exit(self.exit_code)
