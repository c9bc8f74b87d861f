"""HTTP/2 by hand, for clients as no library would be: frames go as they are asked for, and nothing is waited for.

What comes is told apart by frames alone; headers are not unpacked. RFC 9113 has the numbers, RFC 7541 those of headers.
"""

import contextlib
import enum
import socket
import struct
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Kind(enum.IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM = ACK = 1
END_HEADERS = 4

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
CANCEL = 8


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(**values):
    """By the names above, in lower case."""
    numbers = {name: globals()[name.upper()] for name in values}
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack("!HI", numbers[one], values[one]) for one in values))


def integer(value, prefix_bits, first=0):
    most = 2**prefix_bits - 1
    if value < most:
        return bytes([first | value])
    made = [first | most]
    value -= most
    while value >= 128:
        made.append(value % 128 + 128)
        value //= 128
    return bytes([*made, value])


def header(name, value, *, kept=False):
    """One header, of which the other side may keep (name, value) in its table."""
    text = b"".join(integer(len(part), 7) + part for part in (name, value))
    return (b"\x40" if kept else b"\x00") + text


def call_headers(path, *more):
    """Of a gRPC call without a deadline."""
    usual = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return b"".join(header(*one) for one in (*usual, *more))


def message(data, *, length=None, packed=False):
    """As gRPC frames it; a length that is not its own says that more will come."""
    return struct.pack("!BI", packed, len(data) if length is None else length) + data


class RawHttp2:
    """A connection.

    Args:
        port: On loopback.
        greet: Whether HTTP/2 begins; by its preface and these settings.
        timeout_s: Of each operation of the socket.
    """

    def __init__(self, port, *, greet=True, timeout_s=20.0, receive_bytes=None, **values):
        self._timeout_s = timeout_s
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", port))
        self._read = b""
        self.closed = False
        if greet:
            self.socket.sendall(PREFACE + settings(**values))

    def send(self, *frames):
        """False where the server has closed the connection."""
        if not self.closed:
            try:
                self.socket.sendall(b"".join(frames))
            except TimeoutError:
                return True
            except OSError:
                self.closed = True
        return not self.closed

    def frames(self, *, wait_s=0.0):
        """What has come, and comes within a time of nothing else."""
        pieces = [self._read]
        self.socket.settimeout(max(wait_s, 1e-3))
        with contextlib.suppress(TimeoutError):
            try:
                while data := self.socket.recv(2**20):
                    pieces.append(data)
                self.closed = True
            except ConnectionError:
                self.closed = True
        self.socket.settimeout(self._timeout_s)
        found, at, data = [], 0, b"".join(pieces)
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, stream = struct.unpack_from("!BBI", data, at + 3)
            found.append(Frame(kind, flags, stream & 2**31 - 1, data[at + 9 : end]))
            at = end
        self._read = data[at:]
        return found

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
