"""A client of gRPC calls that come by a schedule, whatever becomes of those before: HTTP/2's frames, on sockets.

It is a process of its own, and a session of its own where the machine shares out its cores by sessions. So it takes
less of the server's machine than any other client would, some 30 us a call, and waits for no core behind the server, as
a client elsewhere does not. grpcio's own takes as much for a call as a server does to refuse it.

Every call has a deadline, sends it along, and is given up with it, as gRPC's clients do.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.raw_streams import Failed, frame, literal, on, u32  # noqa: E402

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD = 9
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65535
_LARGEST_FRAME = 16384
_CANCEL = 8
_CONNECTIONS = 8
_WAIT_S = 0.5

DEADLINE_EXCEEDED = 4
RESOURCE_EXHAUSTED = 8

LARGEST_MESSAGE = 60_000
"""Of a request, in bytes: what fits into the window that a stream begins with."""

# What Huffman's code of HPACK (RFC 7541, appendix B) has for the letters of a status.
_HUFFMAN = {
    "0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011", "6": "011100", "7": "011101",
    "8": "011110", "9": "011111", "-": "010110", "a": "00011", "c": "00100", "g": "100110", "p": "101011",
    "r": "101100", "s": "01000", "t": "01001", "u": "101101",
}  # fmt: skip


def _forms(text: str) -> tuple[bytes, bytes]:
    """A string as headers have it: plainly, and in Huffman's code."""
    bits = "".join(_HUFFMAN[one] for one in text)
    bits += "1" * (-len(bits) % 8)
    short = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return bytes([len(text)]) + text.encode(), bytes([0x80 | len(short)]) + short


_NAMES = _forms("grpc-status")
_CODES = {form: code for code in range(17) for form in _forms(str(code))}


def status_of(block: bytes) -> int:
    """The code of gRPC in a block of headers that was written without a table.

    Raises:
        Failed: there is none.
    """
    for name in _NAMES:
        at = block.find(name)
        if at >= 0:
            begin = at + len(name)
            code = _CODES.get(block[begin : begin + 1 + (block[begin] & 0x7F)])
            if code is not None:
                return code
    raise Failed(f"headers without a status: {block!r}")


class _Connection:
    """A connection, with what is to be sent when there is room."""

    def __init__(self, port: int, path: str, deadline_ms: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = b"\x83\x86" + b"".join(
            literal(name, value)
            for name, value in (
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"grpc-timeout", f"{deadline_ms}m".encode()),
            )
        )
        self._head = frame(_HEADERS, _END_HEADERS, 0, headers)
        # No table of headers, so that each status comes written out.
        settings = struct.pack(">HIHIHI", 1, 0, 3, 0, 4, _LARGEST_WINDOW)
        window = _LARGEST_WINDOW - _FIRST_WINDOW
        self.socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, u32(window)))
        self.socket.setblocking(False)
        self._ahead: deque[tuple[bytes, int]] = deque()
        self._window = _FIRST_WINDOW
        self._next = 1
        self._buffer = b""

    def call(self, framed: bytes) -> int:
        """Sends a call; its stream."""
        stream, self._next = self._next, self._next + 2
        parts = [framed[begin : begin + _LARGEST_FRAME] for begin in range(0, len(framed), _LARGEST_FRAME)]
        last = len(parts) - 1
        data = (frame(_DATA, _END_STREAM if i == last else 0, stream, part) for i, part in enumerate(parts))
        self._send(on(stream, self._head) + b"".join(data), len(framed))
        return stream

    def cancel(self, stream: int) -> None:
        """Gives a call up."""
        self._send(frame(_RESET, 0, stream, u32(_CANCEL)), 0)

    def ended(self) -> Iterator[tuple[int, int]]:
        """Streams that have ended, with gRPC's code, as far as has come.

        Raises:
            Failed: the connection has ended.
        """
        for kind, flags, stream, body in self._frames():
            if kind == _HEADERS and flags & _END_STREAM:
                yield stream, status_of(body)
            elif kind == _RESET:
                yield stream, 1
            elif kind == _WINDOW and stream == 0:
                self._window += struct.unpack(">I", body)[0]
                self.flush()
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._send(frame(kind, _ACK, 0, body if kind == _PING else b""), 0)
            elif kind == _GOAWAY:
                raise Failed(f"the server ends the connection: {body!r}")

    def flush(self) -> None:
        """Sends what there is room for."""
        with contextlib.suppress(BlockingIOError):
            while self._ahead and self._ahead[0][1] <= self._window:
                data, counted = self._ahead[0]
                sent = self.socket.send(data)
                self._window -= counted
                if sent < len(data):
                    self._ahead[0] = data[sent:], 0
                else:
                    self._ahead.popleft()

    @property
    def full(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._ahead)

    def _send(self, data: bytes, counted: int) -> None:
        self._ahead.append((data, counted))
        self.flush()

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self.socket.recv(2**20)
        if not data:
            raise Failed("the server has closed the connection")
        buffer, begin = self._buffer + data, 0
        while begin + _HEAD <= len(buffer):
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", buffer, begin)
            end = begin + _HEAD + (high << 8 | low)
            if end > len(buffer):
                break
            yield kind, flags, stream, buffer[begin + _HEAD : end]
            begin = end
        self._buffer = buffer[begin:]


@dataclass(frozen=True)
class Calls:
    """What became of calls, in the order in which they were due; instants are monotonic seconds.

    Attributes:
        due_s: When each was to be sent.
        sent_s: When it was.
        took_ms: From then to the answer, the refusal, or until it was given up.
        status: gRPC's code; 4 also where it was given up.
        client_us: Processor time that the client took for a call.
    """

    due_s: np.ndarray
    sent_s: np.ndarray
    took_ms: np.ndarray
    status: np.ndarray
    client_us: float

    def due(self, from_s: float, until_s: float) -> Self:
        """Those that were due in that time."""
        kept = (self.due_s >= from_s) & (self.due_s < until_s)
        return type(self)(self.due_s[kept], self.sent_s[kept], self.took_ms[kept], self.status[kept], self.client_us)

    @property
    def lag_ms(self) -> np.ndarray:
        """By how much each was sent late: the client's own fault, or its machine's."""
        return (self.sent_s - self.due_s) * 1e3


class Load:
    """Calls that are under way, in a process of their own.

    Args:
        port: Of a server on loopback.
        path: `/service/method`.
        message: The request, of at most `LARGEST_MESSAGE` bytes.
        phases: Calls a second and seconds, one after the other.
        deadline_ms: That each has.
        began_s: The monotonic instant of the first.
    """

    def __init__(
        self,
        port: int,
        path: str,
        message: bytes,
        *,
        phases: Sequence[tuple[float, float]],
        deadline_ms: int,
        began_s: float,
    ) -> None:
        assert len(message) <= LARGEST_MESSAGE
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "message").write_bytes(message)
        said = {"port": port, "path": path, "phases": list(phases), "deadline_ms": deadline_ms, "began_s": began_s}
        (folder / "load.json").write_text(json.dumps(said))
        self._process = subprocess.Popen([sys.executable, __file__, str(folder)], start_new_session=True)

    def result(self) -> Calls:
        """Waits until all calls have ended.

        Raises:
            RuntimeError: the client failed.
        """
        with self._folder:
            if self._process.wait():
                raise RuntimeError(f"the client ended with {self._process.returncode}")
            with np.load(Path(self._folder.name) / "calls.npz") as found:
                return Calls(
                    found["due_s"], found["sent_s"], found["took_ms"], found["status"], float(found["client_us"])
                )


def _run(load: dict[str, Any], message: bytes) -> dict[str, np.ndarray]:
    """Sends all, and waits until each has ended."""
    deadline_s = load["deadline_ms"] / 1e3
    connections = [_Connection(load["port"], load["path"], load["deadline_ms"]) for _ in range(_CONNECTIONS)]
    by_socket = {one.socket: index for index, one in enumerate(connections)}
    framed = b"\0" + u32(len(message)) + message
    due_s = due(load["began_s"], load["phases"])
    sent_s, took_ms, status = (np.zeros(len(due_s)) for _ in range(3))
    under_way: dict[tuple[int, int], int] = {}
    lives: deque[tuple[float, tuple[int, int]]] = deque()
    count, schedule = 0, due_s.tolist()
    while count < len(schedule) or under_way:
        now_s = time.monotonic()
        while count < len(schedule) and schedule[count] <= now_s:
            index = count % _CONNECTIONS
            sent_s[count] = now_s
            key = index, connections[index].call(framed)
            under_way[key] = count
            lives.append((now_s + deadline_s, key))
            count += 1
            now_s = time.monotonic()
        while lives and (lives[0][0] <= now_s or lives[0][1] not in under_way):
            _, key = lives.popleft()
            number = under_way.pop(key, None)
            if number is not None:
                connections[key[0]].cancel(key[1])
                took_ms[number], status[number] = (now_s - sent_s[number]) * 1e3, DEADLINE_EXCEEDED
        ahead_s = [now_s + _WAIT_S, *schedule[count : count + 1], *(each for each, _ in itertools.islice(lives, 1))]
        full = [one.socket for one in connections if one.full]
        came, room, _ = select.select(list(by_socket), full, [], max(0.0, min(ahead_s) - time.monotonic()))
        for each in room:
            connections[by_socket[each]].flush()
        for each in came:
            index = by_socket[each]
            now_s = time.monotonic()
            for stream, code in connections[index].ended():
                number = under_way.pop((index, stream), None)
                if number is not None:
                    took_ms[number], status[number] = (now_s - sent_s[number]) * 1e3, code
    return {"due_s": due_s, "sent_s": sent_s, "took_ms": took_ms, "status": status}


def due(began_s: float, phases: Sequence[tuple[float, float]]) -> np.ndarray:
    """The instants of calls at even rates, one phase of a rate and seconds after the other."""
    parts, at_s = [], began_s
    for rate_hz, seconds in phases:
        parts.append(at_s + np.arange(int(rate_hz * seconds)) / rate_hz)
        at_s += seconds
    return np.concatenate(parts)


def main() -> None:
    """Reads a load in a folder, and writes there what became of it."""
    folder = Path(sys.argv[1])
    before_s = time.process_time()
    found = _run(json.loads((folder / "load.json").read_text()), (folder / "message").read_bytes())
    client_us = (time.process_time() - before_s) * 1e6 / max(len(found["due_s"]), 1)
    np.savez(folder / "calls.npz", client_us=client_us, **found)


if __name__ == "__main__":
    main()
