"""One worker's process, as the first process has it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fallback_server.workers.channel import AnyMessage, Channel
from fallback_server.workers.messages import Access, Drained, Figures, Listening
from fallback_server.workers.printed import follow
from fallback_server.workers.views import ModelRoutes

PROGRAM = "fallback_server.workers.worker_main"

_ROOT = Path(__file__).parents[2]
"""Where this package is imported from."""

STUCK_S = 5.0
"""A worker that takes nothing that it is told for so long hangs."""

_STDERR = 2
"""Where the log goes: a worker writes its own there too, and what else it prints is brought there by `printed`."""


class Member:
    """Starts a worker. One thread.

    Args:
        index: Its number, from 1.
        now_s: The instant.
        program: The module that it runs.

    Attributes:
        index: See above.
        process: Its process.
        channel: What it is told by.
        alive: Until `end`.
        listening: Whether it takes connections.
        drained: Whether it has nothing in flight any more.
        told: What it was told of models, by name.
        told_access: What it was told of who may do what.
        started_s: When it was started.
        heard_s: When it has last shown that it lives.

    Raises:
        OSError: the system refuses another process.
    """

    def __init__(self, index: int, *, now_s: float, program: str = PROGRAM) -> None:
        self.index = index
        self.alive = True
        self.listening = False
        self.drained = False
        self.told: Mapping[str, ModelRoutes] = {}
        self.told_access: Access | None = None
        self.started_s = self.heard_s = now_s
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(STUCK_S)
        readable, lifeline = os.pipe()
        try:
            log = os.dup(_STDERR)
        except OSError:  # It is closed: then nobody reads a log.
            log = os.open(os.devnull, os.O_WRONLY)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", program, str(theirs.fileno()), str(readable), str(log)],
                pass_fds=[theirs.fileno(), readable, log],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
            )
        except BaseException:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(readable)
            os.close(log)
        assert self.process.stdout is not None
        follow(index, self.process.stdout)
        self.channel = Channel(ours)
        self._lifeline = lifeline

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Tells it something.

        Raises:
            ChannelClosed: it has ended, or hangs.
        """
        self.channel.send(message, fds)

    def receive(self, *, now_s: float) -> AnyMessage:
        """What it says next.

        Raises:
            ChannelClosed: it has ended.
        """
        message, fds = self.channel.receive()
        for fd in fds:
            os.close(fd)
        if isinstance(message, Listening | Drained) or (isinstance(message, Figures) and message.turned):
            self.heard_s = now_s
        return message

    def end(self, *, wait_s: float = 0.0) -> str:
        """Ends it, and reaps it; how it ended, for messages. Done once.

        Args:
            wait_s: How long it has to end by itself.
        """
        self.alive = False
        self.channel.close()
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_s)
        os.close(self._lifeline)  # The kernel kills what is left.
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
