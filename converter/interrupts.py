"""Holds Ctrl-C back while what is done can no more be called undone."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Hold:
    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, _Handler] = {}
        self._came: list[int] = []

    def begin(self) -> None:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # One that is ignored needs no holding, and one that ends the process at once can't be held from here.
            if callable(handler) and number not in self._handlers:
                self._handlers[number] = handler
                signal.signal(number, lambda number, _frame: self._came.append(number))

    def end(self, *, forget: bool) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._came and not forget:
            self._handlers[signal.Signals(self._came[0])](self._came[0], None)


_outermost: list[_Hold] = []
"""At most one; the main thread's, which alone handles signals."""


@contextlib.contextmanager
def holding_interrupts(*, forget: bool = False) -> Iterator[Callable[[], None]]:
    """Gives a function from whose call to the end of the body interrupts are held back; before it they come as ever.

    What was held comes at the end. A body within another such body holds until that one ends, so that whoever tells
    of the outcome can be spared as well. Held are SIGINT, and SIGTERM and SIGHUP where Python handles them. Only the
    main thread gets signals: in others the function does nothing.

    Args:
        forget: What was held does not come: whoever interrupts what has then been done and told changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    if _outermost:
        yield _outermost[0].begin
        return
    hold = _Hold()
    _outermost.append(hold)
    try:
        yield hold.begin
    finally:
        _outermost.clear()
        hold.end(forget=forget)
