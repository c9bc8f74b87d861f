"""Sessions in a worker process: what crashes or hangs there costs a run, and not the application.

A run's arrays are copied into memory that both processes share, a message of 40 bytes wakes the worker, and another
one wakes the caller when the results lie there.

What that adds to the median run, measured on two shared x86-64 cores (`benchmarks/isolation.py`): 40 us for a few
bytes, 60 us for an input of 150 KB, 110 us for one of 1.2 MB; results as large as that cost the same again. A new
worker answers its first request after 0.37 s.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from converter.artifact import Signature
from edge_runtime.engine import wire
from edge_runtime.engine.base import Loss, SessionSpec
from edge_runtime.engine.child import Child
from edge_runtime.engine.exchanges import Exchanges
from edge_runtime.engine.origin import Origin
from edge_runtime.engine.shared import Arena, sealed
from edge_runtime.errors import EngineFailed, EngineLost
from edge_runtime.types import Arrays

_log = logging.getLogger(__name__)

START_LIMIT_S = 60.0
"""Until a worker has loaded its modules: 0.3 s on a desktop processor, some seconds from a slow SD card."""

_END_LIMIT_S = 2.0
"""A killed process ends at once unless a driver holds it in the kernel; then it is left behind."""

_Cause = Literal["crashed", "stuck", "vanished"]


class WorkerProcess:
    """The one process that uses a device, with the sessions of all versions there. Thread-safe.

    One call at a time is served. When a run takes too long the process is killed, and with it every session: each
    raises EngineLost at its next run. Then it is closed, and another one takes its place.

    It belongs to the process that started it. A process forked from that one is refused whatever it asks, and closes
    nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        start_limit_s: float = START_LIMIT_S,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        """Starts the process, and returns before it is ready.

        Args:
            name: What logs and errors call it: the device string.
            clock: Monotonic seconds.
            start_limit_s: Seconds from now in which it must be ready; the first `open` waits for that.
            on_death: Called once if the process ends otherwise than by a `close` while it was well: by itself, by
                `end`, or killed because a run took too long. In the thread that watches it, which holds no lock;
                `close` may be called from there, and does not wait for it elsewhere. A process that ends at once may
                do so before this returns.

        Raises:
            EngineFailed: no process can be started.
        """
        self._name = name
        self._clock = clock
        self._start_limit_s = start_limit_s
        self._on_death = on_death
        self._origin = Origin()
        self._ready_by_s = clock() + start_limit_s
        self._ready = False
        self._lock = threading.Lock()
        self._in_step = True
        self._loss: Loss | None = None
        self._closed = False
        self._ends_well = False
        self._sequence = 0
        self._numbers = itertools.count(1)
        self._to_close: list[int] = []
        self._exchanges: dict[int, Exchanges] = {}
        try:
            self._begin()
        except (OSError, MemoryError) as error:
            said = getattr(error, "strerror", None) or error or "memory is short"
            raise EngineFailed(f"{name}: no worker can be started: {said}") from error

    def _begin(self) -> None:
        """Makes what both processes share, and starts the other one; leaves nothing behind if that fails."""
        with contextlib.ExitStack() as made:
            self._inbox = made.enter_context(contextlib.closing(Arena.make("edge-inbox")))
            self._outbox = made.enter_context(contextlib.closing(Arena.make("edge-outbox")))
            self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.enter_context(self._socket)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            with other:
                descriptors = (other.fileno(), self._inbox.descriptor, self._outbox.descriptor)
                arguments = [*map(str, descriptors), str(os.getpid())]
                self._child = Child(self._name, "edge_runtime.engine.worker", arguments, descriptors, self._ended)
            made.pop_all()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "alive" if self.alive else "lost" if self._origin.is_here else "inherited"
        return f"<WorkerProcess {self._name}, process {self.pid}, {state}>"

    @property
    def alive(self) -> bool:
        """Whether it can be used here: it was neither closed nor given up, and its process has not ended."""
        return self._loss is None and self._child.alive and self._origin.is_here

    @property
    def loss(self) -> Loss | None:
        """See `Worker`."""
        if self._loss is None and not self._child.alive:
            self._note_end("")
        return self._loss

    @property
    def pid(self) -> int:
        """The process id; also after its end."""
        return self._child.pid

    def open(self, spec: SessionSpec, content: bytes, limit_s: float | None = None) -> ProcessSession:
        """Opens a session in the process.

        Args:
            spec: What to open.
            content: The file, verified. It goes over as sealed memory, which nobody can change any more.
            limit_s: Seconds after which a delegate that hangs while it is opened is given up, with the process;
                None for no limit. Counts from when the process is ready and its turn has come.

        Raises:
            EngineFailed: the delegate, its device or the file is not to be had.
            EngineLost: the process has ended, or was stuck and is killed.
            PackageRefused: the file's tensors are not what the manifest says.
        """
        self._origin.check(spec.subject)
        with self._lock:
            self._check(spec.subject)
            self._await_ready(spec.subject)
            table = wire.encode(spec)
            self._inbox.reserve(len(table))
            self._inbox.write(0, table)
            question = self._question(wire.OPEN, next(self._numbers), table_bytes=len(table))
            answer = self._ask(question, spec.subject, None, limit_s, sealed(content))
            opened = wire.decode(self._table(answer), wire.Opened)
            self._exchanges[question.session] = Exchanges()
        return ProcessSession(self, question.session, spec, opened.tensors)

    def run(self, number: int, subject: str, signature: str, inputs: Arrays, *, limit_s: float | None) -> Arrays:
        """Runs a session's signature, for the session.

        Args:
            number: The session's.
            subject: What errors call it.
            signature: See `Session.run`.
            inputs: Likewise.
            limit_s: Likewise; counts from when the run's turn has come.
        """
        self._origin.check(subject)
        try:
            with self._lock:
                self._check(subject)
                if (exchanges := self._exchanges.get(number)) is None:  # Closed while it waited for its turn.
                    raise EngineLost(f"{subject}: the session was closed", "vanished")
                try:
                    exchange, contents = exchanges.find(signature, inputs)
                    at, length = exchange.put(self._inbox, inputs, contents)
                except (TypeError, ValueError) as error:
                    raise EngineFailed(f"{subject}, signature {signature!r}: {error}") from error
                question = self._question(wire.RUN, number, exchange.number, at, length)
                answer = self._ask(question, subject, signature, limit_s)
                try:
                    return exchange.take(self._outbox, answer)
                except (TypeError, ValueError, msgspec.MsgspecError) as error:
                    self._give_up(f"{self._process} has sent results that can't be read: {error}", "crashed")
                    raise self._lost(subject) from error
        finally:
            if self._to_close:
                self._close_sessions()

    def forget(self, number: int) -> None:
        """Closes a session: now, or when the call that is being served has ended. Does not wait for that."""
        if not self._origin.is_here:
            return
        self._to_close.append(number)
        self._close_sessions()

    def end(self, reason: str, cause: _Cause) -> None:
        """See `Worker`. In a forked process: does nothing."""
        if self._origin.is_here:
            self._give_up(f"{self._process} was ended: {reason}", cause)

    def close(self) -> None:
        """Kills and reaps the process; runs that go on raise EngineLost. Never takes long. Again: does nothing.

        In a forked process: does nothing, since the worker is the parent's.
        """
        if not self._origin.is_here:
            return
        self._ends_well = self._ends_well or self.alive
        self._closed = True
        self._give_up(f"{self._process} was closed", "vanished")
        if not self._child.wait(_END_LIMIT_S):
            _log.error("%s can't be killed, and is left behind", self._process)
        # Whoever is inside has been woken: the connection is shut.
        elif self._lock.acquire(timeout=_END_LIMIT_S):
            try:
                self._free()
            finally:
                self._lock.release()

    @property
    def _process(self) -> str:
        return f"worker process {self.pid} of {self._name}"

    def _question(
        self, kind: int, session: int, exchange: int = 0, table_at: int = 0, table_bytes: int = 0
    ) -> wire.Header:
        self._sequence += 1
        return wire.Header(kind, self._sequence, session, exchange, table_at, table_bytes, self._inbox.size_bytes)

    def _ask(
        self, question: wire.Header, subject: str, signature: str | None, limit_s: float | None, descriptor: int = -1
    ) -> wire.Header:
        """Sends a question, and a descriptor that is closed then, and waits for its answer.

        An exception in this thread meanwhile, such as KeyboardInterrupt, loses the worker: its answer would be taken
        for that to a later question.
        """
        self._in_step = False
        try:
            answer = self._exchange(question, subject, signature, limit_s, descriptor)
        except BaseException:
            self._give_up(f"{self._process} was given up: a call to it was interrupted", "crashed")
            raise
        self._in_step = True
        if answer.kind == wire.FAILED:
            raise wire.error_of(wire.decode(self._table(answer), wire.Fault))
        return answer

    def _exchange(
        self, question: wire.Header, subject: str, signature: str | None, limit_s: float | None, descriptor: int
    ) -> wire.Header:
        content: bytes | None = b""
        with contextlib.suppress(OSError):  # It has ended: as if nothing had come back.
            self._send(question, descriptor)
            content = self._receive(limit_s)
        if content is None:
            doing = "its opening" if signature is None else f"signature {signature!r}"
            self._give_up(f"{self._process} was killed: {subject}, {doing} took more than {limit_s:g} s", "stuck")
            raise self._lost(subject)
        if not content:
            doing = "while it was opened" if signature is None else f"in signature {signature!r}"
            self._note_end(f" ({subject}, {doing})")
            raise self._lost(subject)
        answer = wire.unpack(content)
        if answer.sequence != question.sequence:
            self._give_up(f"{self._process} has answered another question", "crashed")
            raise self._lost(subject)
        return answer

    def _send(self, question: wire.Header, descriptor: int = -1) -> None:
        try:
            self._socket.send(wire.pack(question), socket.MSG_NOSIGNAL)
            if descriptor >= 0:
                socket.send_fds(self._socket, [b"\0"], [descriptor], socket.MSG_NOSIGNAL)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _receive(self, limit_s: float | None) -> bytes | None:
        """A message; empty if the worker has ended, None if nothing came in time."""
        if not self._poll.poll(None if limit_s is None else math.ceil(limit_s * 1000)):
            return None
        content = self._socket.recv(wire.HEADER_BYTES, socket.MSG_DONTWAIT)
        return content if len(content) == wire.HEADER_BYTES else b""

    def _table(self, answer: wire.Header) -> bytes:
        self._outbox.reach(answer.arena_bytes)
        return self._outbox.read(answer.table_at, answer.table_bytes)

    def _await_ready(self, subject: str) -> None:
        if self._ready:
            return
        content = self._receive(max(0.0, self._ready_by_s - self._clock()))
        if content is None:
            self._give_up(f"{self._process} was killed: it was not ready within {self._start_limit_s:g} s", "stuck")
        elif not content:
            self._note_end("")
        if self._loss is not None:
            raise self._lost(subject)
        self._ready = True

    def _check(self, subject: str) -> None:
        """Raises EngineLost if nothing can be asked of it."""
        if self._loss is None and not self._in_step:
            self._give_up(f"{self._process} was given up: a call to it was interrupted", "crashed")
        if self._loss is None and not self._child.alive:
            self._note_end("")
        if self._loss is not None:
            raise self._lost(subject)

    def _lost(self, subject: str) -> EngineLost:
        assert self._loss is not None
        text, cause = self._loss
        return EngineLost(text if subject in text else f"{subject}: {text}", cause)

    def _note_end(self, doing: str) -> None:
        """Says of a process that has ended how it did."""
        self._child.wait(_END_LIMIT_S)
        self._give_up(f"{self._process} {self._child.ending(doing)}", "crashed")

    def _give_up(self, text: str, cause: _Cause) -> None:
        """From now on it is lost; the first reason stays."""
        if self._loss is None:
            self._loss = (text, cause)
        self._child.kill()
        self._hang_up()

    def _close_sessions(self) -> None:
        # Who has the lock looks again when it has let go of it: so nothing is left in the list.
        while self._to_close and self._lock.acquire(blocking=False):
            try:
                while self._to_close:
                    number = self._to_close.pop()
                    if exchanges := self._exchanges.pop(number, None):
                        exchanges.let_go()
                    question = self._question(wire.CLOSE, number)
                    with contextlib.suppress(OSError):  # It has ended, or been closed: so have its sessions.
                        self._send(question)
            finally:
                self._lock.release()

    def _ended(self) -> Callable[[], None] | None:
        """Called in the child's thread; what it returns is called last."""
        self._hang_up()
        return None if self._ends_well else self._on_death

    def _hang_up(self) -> None:
        """Wakes who waits for an answer."""
        with contextlib.suppress(OSError):  # It is shut already.
            self._socket.shutdown(socket.SHUT_RDWR)

    def _free(self) -> None:
        for exchanges in self._exchanges.values():
            exchanges.let_go()
        self._exchanges.clear()
        self._socket.close()
        self._inbox.close()
        self._outbox.close()


class ProcessSession:
    """See `Session`; made by `WorkerProcess.open`. Thread-safe: callers of one worker take turns.

    Attributes:
        slots: 1.
        tensors: The file's own tensors in its order, as a signature named "", where the specification has none; else
            None.
        workers: The process.
    """

    slots = 1

    def __init__(self, worker: WorkerProcess, number: int, spec: SessionSpec, tensors: Signature | None) -> None:
        self.tensors = tensors
        self.workers = (worker,)
        self._worker = worker
        self._number = number
        self._subject = spec.subject
        self._closed = False

    def __repr__(self) -> str:
        return f"<ProcessSession {'closed' if self._closed else self._subject}, in {self._worker!r}>"

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """See `Session`.

        Past the limit the worker is killed, and all of its sessions are lost. The limit counts from when no other
        session of the worker runs.
        """
        if self._closed:
            raise EngineLost(f"{self._subject}: the session was closed", "vanished")
        return self._worker.run(self._number, self._subject, signature, inputs, limit_s=limit_s)

    def close(self) -> None:
        """See `Session`. The worker goes on."""
        if not self._closed:
            self._closed = True
            self._worker.forget(self._number)
