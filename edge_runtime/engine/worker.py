"""A worker process: holds the sessions of one device and runs them for the application, whose side is `process`.

    python -P -m edge_runtime.engine.worker SOCKET INBOX OUTBOX PARENT

with the descriptors of a socket and of two arenas, and the application's process id.

Measured on x86-64: 0.33 s until it is ready, and 44 MB with LiteRT loaded, of which the application's side of this
package, which is imported as well, has 1.5 MB and no time that could be told.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field

from edge_runtime.engine import wire
from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.file_tensors import file_tensors
from edge_runtime.engine.shared import Arena, Lane, fill, given, lay_out
from edge_runtime.errors import EngineFailed
from edge_runtime.types import Arrays

_PR_SET_PDEATHSIG = 1
_LINE_BUFFERED = 1  # _IOLBF


@dataclass
class _Exchange:
    """Runs with the same shapes: where their inputs lie in the inbox, and where the results went last time.

    Attributes:
        signature: The signature's name.
        inputs: In the inbox.
        results: In the outbox; None before the first run.
        shapes: Names, shapes and dtypes of the last results; None if the next ones must be laid out anew.
    """

    signature: str
    inputs: Lane
    results: Lane | None = None
    shapes: object = None


@dataclass(frozen=True)
class _Held:
    """A session, and the exchanges that its runs may refer to, by number."""

    session: Session
    exchanges: dict[int, _Exchange] = field(default_factory=dict)


class Worker:
    """Answers one message after the other."""

    def __init__(self, connection: socket.socket, inbox: Arena, outbox: Arena) -> None:
        self._connection = connection
        self._inbox = inbox
        self._outbox = outbox
        self._sessions: dict[int, _Held] = {}

    def serve(self) -> None:
        """Until the application closes the connection."""
        self._connection.send(wire.pack(wire.Header(wire.READY, 0)))
        while content := self._connection.recv(wire.HEADER_BYTES):
            question = wire.unpack(content)
            try:
                answer = self._answer(question)
            except Exception as error:  # noqa: BLE001  whatever it is, it is raised where the call was made
                answer = self._with_table(question, wire.FAILED, wire.encode(wire.fault_of(error)))
            if answer is not None:
                self._connection.send(wire.pack(answer))

    def _answer(self, question: wire.Header) -> wire.Header | None:
        self._inbox.reach(question.arena_bytes)
        if question.kind == wire.RUN:
            return self._run(question)
        if question.kind == wire.OPEN:
            return self._open(question)
        if question.kind == wire.CLOSE:
            if held := self._sessions.pop(question.session, None):
                held.session.close()
            return None
        raise EngineFailed(f"a worker was asked for {question.kind}, which it does not know")

    def _open(self, question: wire.Header) -> wire.Header:
        _, descriptors, _, _ = socket.recv_fds(self._connection, 1, 1)
        content = _content(descriptors[0])
        spec = wire.decode(self._inbox.read(question.table_at, question.table_bytes), SessionSpec)
        tensors = None if spec.signatures else file_tensors(content, spec.subject)
        self._sessions[question.session] = _Held(open_session(spec, content))
        return self._with_table(question, wire.OPENED, wire.encode(wire.Opened(tensors)))

    def _run(self, question: wire.Header) -> wire.Header:
        held = self._sessions[question.session]
        if question.table_bytes:
            call = wire.decode(self._inbox.read(question.table_at, question.table_bytes), wire.Call)
            exchange = _Exchange(call.signature, Lane(call.inputs))
            if call.keep:
                held.exchanges[question.exchange] = exchange
        else:
            exchange = held.exchanges[question.exchange]
        arrays = given(exchange.inputs.layout, exchange.inputs.views(self._inbox))
        return self._hand_over(question, exchange, held.session.run(exchange.signature, arrays))

    def _hand_over(self, question: wire.Header, exchange: _Exchange, results: Arrays) -> wire.Header:
        shapes = [(name, array.shape, array.dtype) for name, array in results.items()]
        if exchange.results is None or exchange.shapes != shapes:
            layout, contents = lay_out(results)
            table = wire.encode(layout)
            self._outbox.reserve(layout.end + len(table))
            exchange.results, exchange.shapes = Lane(layout), shapes if layout.fixed else None
            fill(exchange.results.views(self._outbox), results, contents)
            self._outbox.write(layout.end, table)
            return self._header(question, wire.RAN, table_at=layout.end, table_bytes=len(table))
        fill(exchange.results.views(self._outbox), results)
        return self._header(question, wire.RAN)

    def _with_table(self, question: wire.Header, kind: int, table: bytes) -> wire.Header:
        self._outbox.reserve(len(table))
        self._outbox.write(0, table)
        return self._header(question, kind, table_bytes=len(table))

    def _header(self, question: wire.Header, kind: int, *, table_at: int = 0, table_bytes: int = 0) -> wire.Header:
        return wire.Header(
            kind, question.sequence, question.session, question.exchange, table_at, table_bytes, self._outbox.size_bytes
        )


def _content(descriptor: int) -> bytes:
    """The file: one copy, since LiteRT takes nothing but bytes; the shared one goes with its last descriptor."""
    with open(descriptor, "rb", buffering=0) as file:
        return file.read()


def _keep_out_of_the_way(parent: int) -> None:
    """Ends with the application and not before it, and leaves nothing behind."""
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before the kernel was asked to tell.
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the application, and reach all of its terminal or of its service.
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a library prints before it crashes would be lost in a buffer.
    library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _LINE_BUFFERED, 0)
    sys.stdout = sys.stderr  # Which never waits for more than a line, and goes to the same place.


def main(arguments: list[str]) -> int:
    """Serves until the application is gone or has closed the connection."""
    connection, inbox, outbox, parent = map(int, arguments)
    _keep_out_of_the_way(parent)
    Worker(socket.socket(fileno=connection), Arena(inbox), Arena(outbox)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
