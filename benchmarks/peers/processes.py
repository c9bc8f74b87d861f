"""A server as a process of its own: started, found ready, its processor time told, and ended with all below it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotThere(Exception):
    """Something that a row needs is not on this machine; the text says what, and what brings it."""


class Started:
    """A process that was started, with its output in a file.

    Args:
        command: Its program and arguments.
        environment: Variables beside this process's own.
        folder: Where it runs.

    Attributes:
        pid: Its number.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def output(self) -> str:
        """What it has printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def printed(self, pattern: str) -> re.Match[str]:
        """Waits until it has printed something.

        Raises:
            RuntimeError: it ended, or `READY_S` passed.
        """
        end_s = time.monotonic() + READY_S
        while not (found := re.search(pattern, self.output())):
            self.alive(end_s)
            time.sleep(0.05)
        return found

    def listens(self, port: int) -> None:
        """Waits until somebody listens at a port.

        Raises:
            RuntimeError: as `printed`.
        """
        end_s = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            self.alive(end_s)
            time.sleep(0.05)

    def alive(self, end_s: float) -> None:
        """Raises RuntimeError where it has ended, or that instant is over."""
        if self._process.poll() is not None or time.monotonic() > end_s:
            raise RuntimeError(f"{self._process.args!r} is not ready: {self.output()[-2000:]}")

    def cpu_s(self) -> float:
        """Seconds of processor time that it and all processes below it have used."""
        return sum(map(_cpu_s, below(self.pid)))

    def stop(self) -> None:
        """Ends it and all below it."""
        all_of_it = below(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in all_of_it[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._log.close()


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def below(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            found += [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def run_child(code: str, *arguments: str) -> str:
    """Runs Python code in an interpreter of its own, in the repository; what it printed.

    Raises:
        RuntimeError: it failed; the text is the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def _cpu_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()  # A program's name may have blanks in it.
    return (int(fields[11]) + int(fields[12])) / _TICKS
