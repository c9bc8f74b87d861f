"""A client of gRPC streams that costs next to nothing: HTTP/2's frames, written to a socket.

grpcio's own takes as much of a machine for each message as the server does. This one knows just enough to benchmark a
server on loopback: requests are bytes that were made before, of answers only their number is read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD = 9
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65535


class Failed(Exception):
    """The server ended a stream before it was answered, or the connection."""


class RawStreams:
    """Streams of one method over one connection, each of which sends its next message when the last is answered.

    Args:
        port: On loopback.
        path: `/service/method`.
    """

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._next = 1
        self._headers = b"\x83\x86" + b"".join(
            literal(name, value)
            for name, value in (
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
            )
        )
        settings = struct.pack(">HIHI", 4, _LARGEST_WINDOW, 3, 0)
        window = _LARGEST_WINDOW - _FIRST_WINDOW
        self._socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, u32(window)))

    def run(self, messages: Sequence[bytes], count: int) -> None:
        """Has so many streams send all messages, side by side; each is half-closed with its last.

        Raises:
            Failed: one was not answered.
        """
        framed = [b"\0" + u32(len(message)) + message for message in messages]
        first, self._next = self._next, self._next + 2 * count
        sent = dict.fromkeys(range(first, self._next, 2), 1)
        begin = frame(_HEADERS, _END_HEADERS, 0, self._headers)
        out = [on(stream, begin) + _message(stream, framed, 0) for stream in sent]
        while sent:
            self._socket.sendall(b"".join(out))
            out = [reply for came in self._frames() if (reply := _reply(came, sent, framed))]
        self._socket.sendall(b"".join(out))

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _frames(self) -> list[tuple[int, int, int, bytes]]:
        """What has come: at least one whole frame. An answer is one frame, as gRPC's servers write small ones."""
        frames: list[tuple[int, int, int, bytes]] = []
        while not frames:
            data = self._socket.recv(2**18)
            if not data:
                raise Failed("the server has closed the connection")
            self._buffer += data
            begin, buffer = 0, self._buffer
            while begin + _HEAD <= len(buffer):
                high, low, kind, flags, stream = struct.unpack_from(">HBBBI", buffer, begin)
                end = begin + _HEAD + (high << 8 | low)
                if end > len(buffer):
                    break
                frames.append((kind, flags, stream, buffer[begin + _HEAD : end]))
                begin = end
            self._buffer = buffer[begin:]
        return frames


def _reply(came: tuple[int, int, int, bytes], sent: dict[int, int], framed: Sequence[bytes]) -> bytes:
    """What is sent when a frame has come; nothing for most that are no answer.

    Args:
        came: Its kind, flags, stream and body.
        sent: Of each stream that is not over, how many messages were sent.
        framed: The messages of each stream.

    Raises:
        Failed: it ends what was not answered.
    """
    kind, flags, stream, body = came
    if kind == _DATA and stream in sent and body:
        number = sent[stream]
        sent[stream] = number + 1
        return _message(stream, framed, number) if number < len(framed) else b""
    if kind == _GOAWAY:
        raise Failed(f"the server ends the connection: {body!r}")
    if kind in (_SETTINGS, _PING) and not flags & _ACK:
        return frame(kind, _ACK, 0, body if kind == _PING else b"")
    ended = kind == _RESET or (kind == _HEADERS and flags & _END_STREAM)
    if ended and sent.pop(stream, len(framed) + 1) <= len(framed):
        raise Failed(f"stream {stream} was ended: {body!r}")
    return b""


def _message(stream: int, framed: Sequence[bytes], number: int) -> bytes:
    return frame(_DATA, _END_STREAM if number == len(framed) - 1 else 0, stream, framed[number])


def on(stream: int, made: bytes) -> bytes:
    """A frame for another stream."""
    return made[: _HEAD - 4] + u32(stream) + made[_HEAD:]


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """A frame of HTTP/2."""
    size = len(body)
    return struct.pack(">HBBBI", size >> 8, size & 255, kind, flags, stream) + body


def u32(number: int) -> bytes:
    """Four bytes, the highest first."""
    return struct.pack(">I", number)


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is in no table; names and values of up to 126 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
