"""Where the main thread's requests are sent: beside it, since signals' handlers raise in the main thread alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

_log = logging.getLogger(__name__)

_CLOSE_S = 5.0
"""How long closing waits for what was handed over."""


class Sender:
    """Runs what changes the books of the calls under way where no interrupt can come in between. Thread-safe.

    Ctrl-C, or an exception that an application's own handler raises, comes at any point of whatever the main thread
    does: half done it would leave calls counted that never end, and what is raised would be taken for a server's fault.
    To hand something over is one step, after which it is done in any case.
    """

    def __init__(self) -> None:
        """Starts the thread, so that nobody is interrupted while starting it."""
        # With each what all until then were said to take: whatever an interrupt keeps from being put is made up for.
        self._handed: SimpleQueue[tuple[Callable[[], None], int] | None] = SimpleQueue()
        self._handed_bytes = self._begun_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-remote-sender", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How much was handed over and is not done."""
        return self._handed.qsize()

    @property
    def backlog_bytes(self) -> int:
        """What that keeps in memory."""
        return self._handed_bytes - self._begun_bytes

    def run(self, what: Callable[[], None], nbytes: int = 0) -> None:
        """Runs it in this thread; from the main thread soon in the sender's, in the order of their coming.

        Args:
            what: Must be quick.
            nbytes: What it keeps in memory until it is done.
        """
        if self._ended.is_set() or threading.get_ident() != threading.main_thread().ident:
            what()
            return
        self._handed_bytes += nbytes  # In the main thread alone.
        self._handed.put((what, self._handed_bytes))
        if self._ended.is_set():  # While it was being put: then nobody else looks.
            self._drain()

    def close(self) -> None:
        """Does what was handed over, and ends the thread. Later things are run by whoever brings them."""
        self._handed.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (handed := self._handed.get()) is not None:
            self._do(*handed)
            del handed  # Else the last request's inputs would be kept until the next comes.
        self._ended.set()
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                handed = self._handed.get_nowait()
            except Empty:
                return
            if handed is not None:
                self._do(*handed)

    def _do(self, what: Callable[[], None], begun_bytes: int) -> None:
        self._begun_bytes = begun_bytes
        try:
            what()
        except Exception:  # noqa: BLE001  one request's trouble must not end the others' thread
            _log.exception("what was handed over failed")
