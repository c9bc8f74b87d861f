"""SIGTERM, SIGINT and SIGHUP, from the first moment of a server to its last."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_STOPS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """What the signals of this process do, which changes as it goes on.

    At first a stop ends the process at once, with exit code 0: nothing has begun that would have to be finished. The
    first process of a container would otherwise not hear it at all, and any other would be killed by it. A hangup is
    remembered. Later both are handed on, and at the end they are passed over: also after the context, so that nothing
    changes the exit code while the interpreter tidies up.

    Used as a context in the main thread; in any other it does nothing, as signals are the main thread's.

    Args:
        program: Begins what is told when the process ends so.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._before: dict[signal.Signals, object] = {}
        self._on_stop: Callable[[signal.Signals], object] = self._leave
        self._on_hangup: Callable[[], object] = self._remember
        self._hung_up = False
        self._ending = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (*_STOPS, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._ending:
            return
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        self._before.clear()

    def deliver_stops(self, on_stop: Callable[[signal.Signals], object]) -> None:
        """From now on a stop is handed on.

        Args:
            on_stop: Called between any two instructions of the main thread: it may do no more than tell an event loop.
        """
        self._on_stop = on_stop

    def deliver_hangups(self, on_hangup: Callable[[], object]) -> None:
        """From now on a hangup is handed on; one that has come before, now."""
        self._on_hangup = on_hangup
        if self._hung_up:
            on_hangup()

    def pass_over(self) -> None:
        """From now on they do nothing: the process is about to end by itself."""
        self._on_stop = self._on_hangup = _nothing
        self._ending = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            self._on_hangup()
        else:
            self._on_stop(signal.Signals(number))

    def _leave(self, number: signal.Signals) -> None:
        # What is raised here would be lost if it came in the midst of an import's clean-up.
        os.write(2, f"{self._program}: {number.name} during the start: stopped\n".encode())
        os._exit(0)

    def _remember(self) -> None:
        self._hung_up = True


def _nothing(*_: object) -> None:
    pass
