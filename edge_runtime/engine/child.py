"""Starts a Python module as a child process, keeps the end of what it prints, and says how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edge_runtime.engine.origin import Origin
from edge_runtime.engine.threads import run
from edge_runtime.errors import EngineFailed

if TYPE_CHECKING:
    import subprocess

_log = logging.getLogger(__name__)

_KEPT_BYTES = 4096
"""The end of what a child printed, where its reason stands."""

_SHOWN_CHARACTERS = 400
"""Of that, in an error's text."""

_PIPE_BYTES = 2**16
"""What Linux keeps in a pipe: all that a child that has ended can have left there."""

_START_LIMIT_S = 20.0
"""Until the thread that starts a child has done so: milliseconds, unless memory is short or the machine swaps."""

_LOOK_AGAIN_MS = 500
"""How often to look whether the child has ended, on kernels before 5.3, which have no pidfd."""


class Child:
    """A child process, in a process group of its own. Thread-safe.

    One thread a child starts it, reads what it prints, and reaps it. It lives as long as the child: Linux ends a
    process that asked to die with its parent as soon as the *thread* that started it ends.

    Attributes:
        pid: Its id; also after it has ended.
    """

    pid: int = 0

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        on_end: Callable[[], Callable[[], None] | None],
    ) -> None:
        """Starts `python -P -m MODULE ARGUMENTS...`, with this process's environment and module path.

        Args:
            name: For logs and the thread's name.
            module: What is run.
            arguments: What it is given.
            descriptors: What it inherits, under the same numbers; nothing else is inherited.
            on_end: Called in the child's thread when it has ended and was reaped; returns quickly. What it returns is
                called next, and nobody waits for that.

        Raises:
            EngineFailed: no process can be started.
        """
        if not sys.executable or getattr(sys, "frozen", False):
            raise EngineFailed(f"{name}: no worker can be started: this program has no Python interpreter of its own")
        self._name = name
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._descriptors = tuple(descriptors)
        self._on_end = on_end
        self._origin = Origin()
        self._printed = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._error: Exception | None = None
        self._started, self._ended, self._told = threading.Event(), threading.Event(), threading.Event()
        self._tells_more = False
        self._given_up = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"edge-worker-{name}", daemon=True)
        try:
            run(self._watcher, self._started, _START_LIMIT_S)
        except (RuntimeError, MemoryError) as error:
            # It may come late: then it starts nothing, or ends what it has started.
            self._given_up.set()
            self.kill()
            raise EngineFailed(f"{name}: no worker can be started: {error or 'memory is short'}") from error
        if self._error is not None:
            raise EngineFailed(f"{name}: no worker can be started: {self._error}") from self._error

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    def kill(self) -> None:
        """Ends it with SIGKILL, and returns at once. In a forked process: does nothing."""
        if self._process is not None and self._origin.is_here:
            self._process.kill()

    def wait(self, limit_s: float) -> bool:
        """Waits until it has ended, was reaped and `on_end` was called; False if it has not within these seconds.

        A killed process ends at once unless a driver holds it in the kernel.
        """
        if not self._told.wait(limit_s):
            return False
        # What is called last may be what waits here, or wait for a lock that who waits here has.
        if not self._tells_more:
            self._watcher.join()
        return True

    def ending(self, doing: str = "") -> str:
        """How it ended, and the end of what it printed, in one line: `was killed by SIGABRT; it printed: ...`.

        Args:
            doing: What it did when it ended; stands behind how.
        """
        status = self._process.returncode if self._process is not None else None
        if status is None:
            return f"does not answer any more{doing}"
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
        lines = self._printed.decode("utf-8", errors="replace").split("\n")
        text = " | ".join(line.strip() for line in lines if line.strip())
        if len(text) > _SHOWN_CHARACTERS:
            text = f"...{text[-_SHOWN_CHARACTERS:]}"
        return f"{how}{doing}; it printed: {text}" if text else f"{how}{doing}, and printed nothing"

    def _watch(self) -> None:
        if self._given_up.is_set():
            return
        try:
            process = self._popen()
        except Exception as error:  # noqa: BLE001  it is raised where the child was asked for
            self._error = error
            self._ended.set()
            self._started.set()
            return
        self._process, self.pid = process, process.pid
        self._started.set()
        if self._given_up.is_set():
            process.kill()
        with process:
            assert process.stdout is not None
            self._read_to_its_end(process, process.stdout.fileno())
        self._ended.set()
        on_end, self._on_end = self._on_end, _nothing  # Whoever gave it has this child: neither would be freed.
        more = on_end()
        del on_end
        self._tells_more = more is not None
        self._told.set()
        if more is not None:
            more()

    def _popen(self) -> subprocess.Popen[bytes]:
        import subprocess  # noqa: PLC0415  for applications whose engines run apart only

        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  "" means the current directory here
        # A group of its own: Ctrl-C in the application's terminal does not reach it, not even while it starts.
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=self._descriptors,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,
        )

    def _read_to_its_end(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        """Reads until the child has ended, and not until the pipe has: its own children may hold that open."""
        os.set_blocking(pipe, False)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        with _pidfd(process.pid) as pidfd:
            if pidfd is not None:
                poll.register(pidfd, select.POLLIN)
            partial = b""
            while True:
                ready = [one for one, _ in poll.poll(None if pidfd is not None else _LOOK_AGAIN_MS)]
                ended = pidfd in ready if pidfd is not None else process.poll() is not None
                if ended or pipe in ready:
                    chunk = _read(pipe)
                    if not chunk and not ended:
                        poll.unregister(pipe)
                    partial = self._keep(partial + chunk)
                if ended:
                    break
            self._keep(partial + b"\n")

    def _keep(self, content: bytes) -> bytes:
        """Keeps and logs the lines in it; what is behind the last one is returned, unless it is too long for a line."""
        end = len(content) if len(content) > _KEPT_BYTES else content.rfind(b"\n") + 1
        self._printed = (self._printed + content[:end])[-_KEPT_BYTES:]
        for line in content[:end].splitlines():
            if line.strip():
                _log.debug("%s (worker process %d): %s", self._name, self.pid, line.decode("utf-8", errors="replace"))
        return content[end:]


def _nothing() -> None:
    """In place of what has been called."""


def _read(pipe: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, _PIPE_BYTES)
    return b""


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    """A descriptor that can be read when the process has ended; None where the kernel has none."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
