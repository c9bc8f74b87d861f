"""One worker process, seen from the server: what it says, what it prints, and that it has ended."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.executors.worker.line_limit import LineLimit
from fallback_server.executors.worker.messages import Load, Loaded, LoadRefused
from fallback_server.executors.worker.priority import Narrowed, put_aside
from fallback_server.executors.worker.wire import Closed, Receiver, WireError, send

_log = logging.getLogger(__name__)

KEPT_LINES = 5
"""Of what a worker printed, for the error of one that dies."""

MAX_LINE = 1000
"""Longer lines are cut."""

_GONE_S = 10.0
"""For the kernel to free a killed process: a second takes hundreds of GB."""

_READ = 2**16
"""As much as a pipe holds by default."""

_LAST_READS = 16
"""As much as a pipe holds at most, where nobody has more privilege."""


class Worker:
    """A worker process. `Nursery.spawn` makes it, and calls what is marked so; the rest is for any thread.

    Args:
        title: See the attribute.
        control: See the attribute.
        output: See the attribute.
        clock: Monotonic seconds.

    Attributes:
        title: The model and version, for logs.
        control: The server's end of its control socket.
        output: What it prints is read here.
        answers: Whether it has been given requests to answer.
        hung: Whether it was ended for a run that did not end.
        gone: Set once it has ended.
        code: How it ended, once it has: an exit code, or below 0 a signal's number; None where nobody could see it.
    """

    def __init__(
        self, title: str, control: socket.socket, output: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title = title
        self.control = control
        self.output = output
        self.answers = False
        self.hung = False
        self.gone = threading.Event()
        self.code: int | None = None
        self.pid: int | None = None
        self._pidfd: int | None = None
        self._receiver = Receiver(control, wait=False)
        self._answer: Future[Loaded] = Future()
        self._why_gone: str | None = None
        self._killed = False
        self._narrowed: Narrowed | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._on_gone: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._limit = LineLimit(clock)

    def load(self, load: Load, fds: Sequence[int] = ()) -> Loaded:
        """Has it load a version, and waits until it has.

        Args:
            load: What.
            fds: What comes with it; the caller's to close.

        Raises:
            LoadFailed: it could not, or its process ended meanwhile; the text says why.
        """
        with contextlib.suppress(Closed):  # That is told below, with the reason.
            send(self.control, load, fds)
        return self._answer.result()

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Has a function called when the process ends without `kill`; at once, if it has. In any thread."""
        with self._lock:
            self._on_lost = on_lost
            lost = self.gone.is_set() and not self._killed
        if lost:
            on_lost(self.how_it_ended())

    def when_gone(self, do: Callable[[], None]) -> None:
        """Has a function called when the process has ended, however it did; at once, if it has. It must not block."""
        with self._lock:
            gone = self.gone.is_set()
            if not gone:
                self._on_gone.append(do)
        if gone:
            do()

    def leave_core(self, *, leave: bool) -> None:
        """Has it keep off one of the cores that it may run on, or no longer. Again: does nothing."""
        if leave is (self._narrowed is not None):
            return
        with self._lock:
            if self.pid is None or self.gone.is_set():
                return
            if not leave and self._narrowed is not None:
                self._narrowed.end()
                self._narrowed = None
            elif leave and self._narrowed is None:
                self._narrowed = Narrowed(self.pid)

    def kill(self) -> None:
        """Ends it at once, whatever it does, and waits until its memory is free. Again: does nothing."""
        self.kill_soon()
        if self.pid is None:
            return  # There is none: one that comes yet is ended as it comes.
        if not self.gone.wait(_GONE_S):
            _log.warning("%s: its process %s is killed, and has not ended in %.0f s", self.title, self.pid, _GONE_S)

    def end(self, *, grace_s: float) -> None:
        """Has it end by itself, and kills it where that takes longer than `grace_s`. Again: does nothing."""
        with self._lock:
            self._killed = True
        with contextlib.suppress(OSError):  # It has ended.
            self.control.shutdown(socket.SHUT_WR)
        if not self.gone.wait(grace_s):
            self.kill()

    def kill_soon(self) -> None:
        """Ends it, and waits for nothing. A load does not wait for a process that is still to come, either.

        That takes seconds where TensorFlow is being imported.
        """
        with self._lock:
            self._killed = True
            there = self.pid is not None or self.gone.is_set()
            if self.pid is not None and not self.gone.is_set():
                put_aside(self.pid)
            self._signal(signal.SIGKILL)
        if not there:
            self._refuse("the load was stopped")

    def end_hanging(self, *, ran_s: float) -> None:
        """Ends it for a run that has gone on for so long: a loss. Does nothing where it has ended, or is being ended.

        Waits for nothing.
        """
        with self._lock:
            if self._killed or self.hung or self.pid is None or self.gone.is_set():
                return
            self.hung = True
            self._why_gone = f"by the server, for a run that went on for {ran_s:.0f} s and for which nobody waited"
            _log.error(
                "%s: a run has gone on for %.0f s, and nobody waits for it any more: its process %s is ended for it",
                self.title,
                ran_s,
                self.pid,
            )
            put_aside(self.pid)
            self._signal(signal.SIGKILL)

    def wait_ended(self, timeout_s: float) -> None:
        """The nursery's thread: waits for a killed process to end."""
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(timeout_s * 1000)

    def how_it_ended(self) -> str:
        """`signal 6`, for messages."""
        if self._why_gone is not None:
            return self._why_gone
        if self.code is None:
            return "nobody saw how"
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"

    def private_bytes(self) -> int:
        """The memory that its end would free; 0 where that can't be read."""
        if self.pid is None or self.gone.is_set():
            return 0
        try:
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

    def spawned(self, pid: int, pidfd: int) -> None:
        """The nursery's thread: it is there."""
        with self._lock:
            self.pid, self._pidfd = pid, pidfd
            if self._killed:
                self._signal(signal.SIGKILL)

    def read_control(self) -> bool:
        """The nursery's thread: takes what it says; False when it says no more."""
        while True:
            try:
                message = self._receiver.receive().message
            except BlockingIOError:
                return True
            except (Closed, WireError):
                return False
            if isinstance(message, Loaded):
                with contextlib.suppress(InvalidStateError):
                    self._answer.set_result(message)
            elif isinstance(message, LoadRefused):
                self._refuse(message.why)

    def read_output(self) -> bool:
        """The nursery's thread: logs some of what it printed; False when there is nothing more to come.

        One read, so that a worker that prints without end leaves the thread to the others.
        """
        try:
            content = os.read(self.output, _READ)
        except BlockingIOError:
            return True
        if not content:
            return False
        *lines, self._partial = (self._partial + content).split(b"\n")
        self._partial = self._partial[-_READ:]
        for line in lines:
            self._printed(line)
        return True

    def ended(self, code: int | None, why: str | None = None) -> None:
        """The nursery's thread: its process is no more.

        Args:
            code: See the attribute.
            why: Instead of the code, where there never was a process.
        """
        self.read_control()
        self._read_last_words()
        with self._lock:
            self.code, self._why_gone = code, self._why_gone or why
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
            self.gone.set()
            on_lost = None if self._killed else self._on_lost
            on_gone, self._on_gone = self._on_gone, []
        for do in on_gone:
            do()
        self.control.close()
        os.close(self.output)
        how = self.how_it_ended()
        told = f"; it printed: {' | '.join(self._lines)}" if self._lines else ""
        text = "the load was stopped" if self._killed else f"the model's process ended ({how}) while it loaded"
        self._refuse(text + told)
        if on_lost is not None:
            _log.error("%s: its process %s ended (%s)", self.title, self.pid, how)
            try:
                on_lost(how)
            except Exception:  # noqa: BLE001  the thread serves other workers too
                _log.exception("%s: its loss could not be told", self.title)

    def _refuse(self, why: str) -> None:
        """The load has failed, unless it is over."""
        with contextlib.suppress(InvalidStateError):
            self._answer.set_exception(LoadFailed(why))

    def _read_last_words(self) -> None:
        """What is left in the pipe. A process of the model's own may have it open still, and print on."""
        for _ in range(_LAST_READS):
            if not self.read_output():
                break
        if self._partial:
            self._printed(self._partial)
        if left_out := self._limit.taken_left_out():
            _log.info("%s: ... %d lines left out; the last ones: %s", self.title, left_out, " | ".join(self._lines))

    def _printed(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode(errors="replace").rstrip()
        if not text:
            return
        self._lines.append(text)
        if self._limit.admits():
            if left_out := self._limit.taken_left_out():
                _log.info("%s: ... %d lines left out", self.title, left_out)
            _log.info("%s: %s", self.title, text)

    def _signal(self, number: signal.Signals) -> None:
        """Under the lock, so that the descriptor is this process's."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def __repr__(self) -> str:
        state = self.how_it_ended() if self.gone.is_set() else "alive"
        return f"Worker({self.title}, process {self.pid}, {state})"


def ended_by(pid: int, *, timeout_s: float) -> int | None:
    """How an orphan ended, where it became a child of this process; None where it became another's."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None
