"""Large JSON, read in other processes: a parser holds Python's lock for as long as it works, and then all wait.

What is made of a body takes up to fifty times its size. Each is read by a fork of its own (`json_reader_main.py`),
whose memory is bounded and goes back when it ends; arrays come back as their bytes. A fork lives no longer than
somebody waits for it, and no other dies with it, nor with the program that forks: a body whose reader was killed is
read again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fallback_server.core.errors import QueueFull, RequestCancelled, ServerStopping
from fallback_server.core.resources import free_bytes
from fallback_server.transport.rest import pickles
from fallback_server.transport.rest.refusals import HttpRefused

_PROGRAM = "fallback_server.transport.rest.json_reader_main"

_ROOT = Path(__file__).parents[3]
"""Where this package is imported from."""

_LEAST_BYTES = 2**29
_UNKNOWN_FREE_BYTES = 2**33
_PROGRAMS = 4
_READS = 2
_TELL_EVERY_S = 10.0
_STATUS_S = 1.0

_log = logging.getLogger(__name__)


class Reading:
    """One body that is to be read, for as long as somebody waits for it. Thread-safe.

    Args:
        function: Of a module of this package: reads the body.
        body: Is held until it was read, or given up.
        arguments: Of the function, behind the body.
    """

    def __init__(self, function: Callable[..., Any], body: bytearray, *arguments: object) -> None:
        self.size_bytes = len(body)
        self._lock = threading.Lock()
        self._call: tuple[Callable[..., Any], bytearray, tuple[object, ...]] | None = (function, body, arguments)
        self._fork: _Fork | None = None

    def give_up(self) -> None:
        """Nobody waits any more: what reads it is ended, and the body let go."""
        with self._lock:
            self._call, fork = None, self._fork
        if fork is not None:
            fork.end()

    def check(self) -> None:
        """Raises RequestCancelled where nobody waits any more."""
        if self._call is None:
            raise RequestCancelled("nobody waits for the request's body to be read")

    def read_by(self, fork: _Fork) -> None:
        """What reads it from now on."""
        with self._lock:
            self._fork = fork
            self.check()

    def send(self, sock: socket.socket) -> None:
        """Sends it to what reads it."""
        self.check()
        assert self._call is not None
        function, body, arguments = self._call
        pickles.send(sock, (function, pickle.PickleBuffer(body), arguments))


class _Fork:
    """A process that reads one body, as it is seen from here: it is killed when this ends, whatever it is at."""

    def __init__(self) -> None:
        self.sock, self._its_sock = socket.socketpair()
        try:
            self._its_lifeline, lifeline = os.pipe()
        except BaseException:
            self.sock.close()
            self._its_sock.close()
            raise
        self._lifeline: int | None = lifeline
        self._lock = threading.Lock()

    def asked_of(self, control: socket.socket) -> bytes:
        """Waits for the program to fork; what it says, which is nothing where it has ended."""
        with contextlib.suppress(OSError):
            try:
                socket.send_fds(control, [b"."], [self._its_sock.fileno(), self._its_lifeline])
            finally:
                self._hand_over()
            return self.sock.recv(1)
        return b""

    def end(self) -> None:
        """Kills it, and wakes whoever waits for its answer. For any thread."""
        with self._lock:
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The same, for whoever has waited."""
        self.end()
        self._hand_over()
        self.sock.close()

    def _hand_over(self) -> None:
        if self._its_sock.fileno() >= 0:
            self._its_sock.close()
            os.close(self._its_lifeline)


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

    def how_it_ended(self) -> str:
        """Of one that says nothing any more."""
        try:
            code = self._process.wait(_STATUS_S)  # It can be deaf before it can be reaped.
        except subprocess.TimeoutExpired:
            return "it answers no more"
        return f"signal {-code}" if code < 0 else f"status {code}"

    def end(self) -> None:
        """Ends it, but none of its forks."""
        self.control.close()
        self._process.kill()
        self._process.wait()
        os.close(self._lifeline)


class JsonReaders:
    """Reads bodies in other processes, the first of which is started when it is needed. For any thread.

    Args:
        at_once: How many bodies are read at a time, at most: they share half of the memory that is free.
        free: How many bytes are; None where nobody knows.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        at_once: int,
        free: Callable[[], int | None] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once = at_once
        self._free = free
        self._clock = clock
        self._lock = threading.Lock()
        self._program: _Program | None = None
        self._forks: set[_Fork] = set()
        self._closed = False
        self._told_s = float("-inf")
        self._untold = 0

    def read(self, function: Callable[..., Any], body: bytearray, *arguments: object) -> Any:
        """What a function of a module of this package gives for a body. Waits for it.

        Raises:
            ServerError: as the function does.
            HttpRefused: 413: what is in the body takes more memory than it may; 503: what read it was killed, twice.
            QueueFull: there can be no process to read it.
            ServerStopping: these readers are closed.
        """
        return self.run(Reading(function, body, *arguments))

    def run(self, reading: Reading) -> Any:
        """The same.

        Raises:
            RequestCancelled: it was given up.
        """
        for _ in range(_READS):
            try:
                told, value = self._read(reading)
            except (OSError, EOFError):
                reading.check()
                self._tell("a process that read a body of %d bytes was killed", reading.size_bytes)
                continue
            if not told:
                raise value
            return value
        raise HttpRefused(
            503,
            f"the processes that read the request's body of {reading.size_bytes} bytes were killed: ask again later",
        )

    def close(self) -> None:
        """Ends the processes; whoever still waits for one is refused."""
        with self._lock:
            self._closed = True
            program, self._program = self._program, None
            forks = list(self._forks)
        for fork in forks:
            fork.end()
        if program is not None:
            program.end()

    def _read(self, reading: Reading) -> tuple[bool, Any]:
        free = self._free()
        limit_bytes = max(_LEAST_BYTES, (_UNKNOWN_FREE_BYTES if free is None else free) // (2 * self._at_once))
        fork = self._forked(reading)
        try:
            fork.sock.sendall(pickles.LIMIT.pack(limit_bytes))
            reading.send(fork.sock)
            answer: tuple[bool, Any] = pickles.receive(fork.sock, pickles.room)
        except MemoryError as error:
            text = f"what is in the request's body of {reading.size_bytes} bytes takes over {limit_bytes >> 20} MiB"
            raise HttpRefused(413, f"{text} to read") from error
        finally:
            self._ended(fork)
        return answer

    def _forked(self, reading: Reading) -> _Fork:
        """A process that waits for what it is to read."""
        for _ in range(_PROGRAMS):
            with self._lock:
                program = self._living()
                fork = _Fork()
                self._forks.add(fork)
            try:
                reading.read_by(fork)
                said = fork.asked_of(program.control)
            except BaseException:
                self._ended(fork)
                raise
            if said == pickles.FORKED:
                return fork
            self._ended(fork)
            if said == pickles.FULL:
                raise QueueFull("there is no process to read the request's body")
            reading.check()
            self._discard(program)
        raise HttpRefused(503, "what reads large bodies was killed again and again: ask again later")

    def _ended(self, fork: _Fork) -> None:
        with self._lock:
            self._forks.discard(fork)
        fork.close()

    def _living(self) -> _Program:
        if self._closed:
            raise ServerStopping("the server is stopping")
        if self._program is None:
            self._program = _Program()
        return self._program

    def _discard(self, program: _Program) -> None:
        with self._lock:
            if program is not self._program:
                return
            self._program = None
        how = program.how_it_ended()
        program.end()
        self._tell("the process that forks readers of large bodies ended (%s), and is started anew", how)

    def _tell(self, text: str, *values: object) -> None:
        """Logs a line, seldom; with how many were not."""
        with self._lock:
            now_s = self._clock()
            if self._closed:
                return
            if now_s - self._told_s < _TELL_EVERY_S:
                self._untold += 1
                return
            untold, self._told_s, self._untold = self._untold, now_s, 0
        _log.warning(f"{text}%s", *values, f"; so did {untold} more since the last line" if untold else "")
