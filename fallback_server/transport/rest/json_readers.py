"""Large JSON, read in other processes: a parser holds Python's lock for as long as it works, and then all wait.

What is made of a body takes up to fifty times its size. Each is read by a fork of its own (`json_reader_main.py`),
whose memory is bounded and goes back when it ends; arrays come back as their bytes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fallback_server.core.errors import QueueFull
from fallback_server.core.resources import free_bytes
from fallback_server.transport.rest import pickles
from fallback_server.transport.rest.refusals import HttpRefused

_PROGRAM = "fallback_server.transport.rest.json_reader_main"

_ROOT = Path(__file__).parents[3]
"""Where this package is imported from."""

_LEAST_BYTES = 2**29
_UNKNOWN_FREE_BYTES = 2**33
_TRIES = 2


class _Program:
    """The process that forks."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        readable, self._lifeline = os.pipe()
        # A thread for each core would be copied by no fork, and takes address space.
        environment = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"} | os.environ
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, str(theirs.fileno()), str(readable)],
                pass_fds=[theirs.fileno(), readable],
                stdin=subprocess.DEVNULL,
                stdout=2,  # What the server prints is its product.
                env=environment,
                process_group=0,
            )
        except BaseException:
            self.control.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(readable)

    def end(self) -> None:
        """Ends it, and all of its forks."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)


class JsonReaders:
    """Reads bodies in other processes, the first of which is started when it is needed. For any thread.

    Args:
        at_once: How many bodies are read at a time, at most: they share half of the memory that is free.
        free: How many bytes are; None where nobody knows.
    """

    def __init__(self, *, at_once: int, free: Callable[[], int | None] = free_bytes) -> None:
        self._at_once = at_once
        self._free = free
        self._lock = threading.Lock()
        self._program: _Program | None = None
        self._closed = False

    def read(self, function: Callable[..., Any], body: bytearray, *arguments: object) -> Any:
        """What a function of a module of this package gives for a body. Waits for it.

        Raises:
            ServerError: as the function does.
            HttpRefused: what is in the body takes more memory than it may.
            QueueFull: there is no process to read it.
        """
        free = self._free()
        limit_bytes = max(_LEAST_BYTES, (_UNKNOWN_FREE_BYTES if free is None else free) // (2 * self._at_once))
        with self._forked() as sock:
            try:
                sock.sendall(pickles.LIMIT.pack(limit_bytes))
                pickles.send(sock, (function, pickle.PickleBuffer(body), arguments))
                told, value = pickles.receive(sock, pickles.room)
            except (OSError, EOFError) as error:
                text = f"what is in the request's body of {len(body)} bytes takes over {limit_bytes >> 20} MiB to read"
                raise HttpRefused(413, text) from error
        if not told:
            raise value
        return value

    def close(self) -> None:
        """Ends the processes; whoever still waits for one is refused."""
        with self._lock:
            self._closed = True
            self._discard(self._program)

    def _forked(self) -> socket.socket:
        """A fork's socket."""
        for _ in range(_TRIES):
            with self._lock:
                program = self._living()
            ours, theirs = socket.socketpair()
            said = b""
            with contextlib.suppress(OSError):
                with theirs:
                    socket.send_fds(program.control, [b"."], [theirs.fileno()])
                said = ours.recv(1)
            if said == pickles.FORKED:
                return ours
            ours.close()
            if said == pickles.FULL:
                break
            with self._lock:
                self._discard(program)
        raise QueueFull("there is no process to read the request's body")

    def _living(self) -> _Program:
        if self._closed:
            raise QueueFull("the server is stopping")
        if self._program is None:
            self._program = _Program()
        return self._program

    def _discard(self, program: _Program | None) -> None:
        if program is not None and program is self._program:
            self._program = None
            program.end()
