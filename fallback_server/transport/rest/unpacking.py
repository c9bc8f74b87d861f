"""Compressed bodies, unpacked piece by piece as they come: whoever asks for the pieces bounds what they take."""

from __future__ import annotations

import enum
import zlib

from fallback_server.core.errors import InvalidInput
from fallback_server.transport.rest.refusals import HttpRefused

_FEED_BYTES = 2**14
"""Of the input that zlib gets at a time: what is behind the end of a member is copied for the next one."""

_STEPS = 64
"""In one piece: members may be empty, and then much input gives no output."""

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB_HEADER_BYTES = 2
_DEFLATED = 8


class Encoding(enum.Enum):
    """What a body may be packed with."""

    GZIP = enum.auto()
    DEFLATE = enum.auto()


def encoding_of(headers: list[str]) -> Encoding | None:
    """What a request's Content-Encoding headers say; None for bodies as they are.

    Raises:
        HttpRefused: an encoding that is not known, or several.
    """
    names = [name.strip().lower() for header in headers for name in header.split(",")]
    names = [name for name in names if name not in {"", "identity"}]
    if not names:
        return None
    known = {"gzip": Encoding.GZIP, "x-gzip": Encoding.GZIP, "deflate": Encoding.DEFLATE}
    if len(names) > 1 or names[0] not in known:
        text = f"Content-Encoding {', '.join(names)} is not one of gzip, deflate, identity"
        raise HttpRefused(415, text, {"Accept-Encoding": "gzip, deflate, identity"})
    return known[names[0]]


class Unpacker:
    """One body. Not thread-safe, and for any thread.

    gzip may have several members (RFC 1952, 2.2). Deflate is zlib's format (RFC 9110, 8.4.1.2), and, as some clients
    send it, the bare one.

    Attributes:
        pending: Whether `read` may give more of what was fed.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.pending = False
        self._encoding = encoding
        self._stream = zlib.decompressobj(_GZIP) if encoding is Encoding.GZIP else None
        self._fed = memoryview(b"")
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Takes the next part of the body. All of the part before must have been read."""
        self._fed = memoryview(self._rest + data if self._rest else data)
        self._rest = b""
        self.pending = True

    def read(self, max_bytes: int) -> bytes:
        """The next piece of what is in the body; it may be empty.

        Raises:
            InvalidInput: it can't be unpacked.
        """
        pieces: list[bytes] = []
        room = max_bytes
        for _ in range(_STEPS):
            piece = self._step(room)
            pieces.append(piece)
            room -= len(piece)
            if not room or not self.pending:
                break
        return b"".join(pieces)

    def end(self) -> None:
        """The body has come to its end.

        Raises:
            InvalidInput: what it holds has not.
        """
        if self._stream is None or not self._stream.eof:
            raise InvalidInput("the request's body can't be unpacked: it ends too early")

    def _step(self, room: int) -> bytes:
        if self._stream is None:
            if len(self._fed) < _ZLIB_HEADER_BYTES:
                self._rest, self._fed, self.pending = bytes(self._fed), memoryview(b""), False
                return b""
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(self._fed) else -zlib.MAX_WBITS)
        if not self._rest:
            self._rest, self._fed = bytes(self._fed[:_FEED_BYTES]), self._fed[_FEED_BYTES:]
        if self._stream.eof and self._rest:
            if self._encoding is not Encoding.GZIP:
                raise InvalidInput("the request's body can't be unpacked: it goes on after its end")
            self._stream = zlib.decompressobj(_GZIP)
        try:
            piece = self._stream.decompress(self._rest, room)
        except zlib.error as error:
            raise InvalidInput(f"the request's body can't be unpacked: {error}") from error
        self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        self.pending = bool(self._rest or self._fed) or len(piece) == room
        return piece


def _has_zlib_header(data: memoryview) -> bool:
    return data[0] & 15 == _DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
