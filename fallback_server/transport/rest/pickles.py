"""Values between the server and the processes that read JSON for it: over a stream socket, arrays as their bytes."""

from __future__ import annotations

import io
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from fallback_server.classification import Examples
from fallback_server.executors.base import Array

FORKED, FULL = b"+", b"-"
"""The first byte that comes from a process which is asked to read: whether there is a fork to do it."""

NO_ROOM = struct.pack("<q", 0)
"""What comes instead of an answer: its reading takes more memory than it may."""

LIMIT = struct.Struct("<q")
"""What it is sent then: how many bytes of memory it may have."""

STRING_BYTES = 64
"""What a string takes over its length where it is received (CPython, 64 bits): its object, of 33 bytes and up to the
next 16, and two pointers. Its length and its part of the text, which come beside it, are counted as they are."""

_MOST_PARTS = 2**20
_CUT_AT_ONCE = 2**16

Buffer = Any
"""A bytearray or an array, which mypy takes for no buffer."""


class _Pickler(pickle.Pickler):
    """Strings travel as one text and their lengths: pickle holds Python's lock for as long as it makes objects.

    Attributes:
        cost_bytes: What the strings take where they are received, beside what is sent.
    """

    cost_bytes = 0

    def reducer_override(self, value: object) -> Any:
        if type(value) is np.ndarray and value.dtype == object:
            return _array, (*self._joined(value.reshape(-1).tolist()), value.shape)
        if type(value) is Examples:
            return _examples, (*self._joined(list(value.each)), value.context)
        return NotImplemented

    def _joined(self, strings: list[bytes]) -> tuple[pickle.PickleBuffer, Array]:
        text = b"".join(strings)
        self.cost_bytes += len(text) + STRING_BYTES * len(strings)
        return pickle.PickleBuffer(text), np.fromiter(map(len, strings), np.int64, len(strings))


def send(sock: socket.socket, value: object, *, max_bytes: int | None = None) -> None:
    """Sends a value; its `PickleBuffer`s and arrays as they lie.

    Args:
        sock: Where `receive` takes it.
        value: The value.
        max_bytes: The most that it may take where it is received: what is sent, and for each string its length and
            `STRING_BYTES`.

    Raises:
        OSError: the other side is gone.
        MemoryError: it would take more than it may; nothing was sent.
    """
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = _Pickler(head, protocol=5, buffer_callback=buffers.append)
    pickler.dump(value)
    parts = [head.getbuffer(), *(buffer.raw() for buffer in buffers)]
    if max_bytes is not None and pickler.cost_bytes + sum(part.nbytes for part in parts) > max_bytes:
        raise MemoryError
    sock.sendall(struct.pack(f"<{len(parts) + 1}q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        sock.sendall(part)


def receive(sock: socket.socket, make: Callable[[int], Buffer]) -> Any:
    """The next value.

    Args:
        sock: Where `send` has put it, in a process of this program.
        make: Gives the room for so many bytes.

    Raises:
        EOFError: the other side is gone.
        OSError: the same.
        MemoryError: the other side had too little of it.
    """
    head = exactly(sock, bytearray(8))
    if head == NO_ROOM:
        raise MemoryError
    (count,) = struct.unpack("<q", head)
    if not 0 < count <= _MOST_PARTS:
        raise EOFError(f"{count} parts")
    sizes = struct.unpack(f"<{count}q", exactly(sock, bytearray(8 * count)))
    first, *buffers = [exactly(sock, make(size_bytes)) for size_bytes in sizes]
    return pickle.loads(first, buffers=buffers)  # noqa: S301  the other side is this program


def exactly(sock: socket.socket, room: Buffer) -> Buffer:
    """Fills the room with what comes next.

    Raises:
        EOFError: the other side is gone.
    """
    left = memoryview(room)
    while left:
        came_bytes = sock.recv_into(left)
        if not came_bytes:
            raise EOFError
        left = left[came_bytes:]
    return room


def room(size_bytes: int) -> Array:
    """So many bytes, of whatever they were: nothing is gained by zeros, which are written under Python's lock."""
    return np.empty(size_bytes, np.uint8)


def _cut(text: Buffer, lengths: Array) -> list[bytes]:
    """In Python's own steps, between which other threads get their turn."""
    view = memoryview(text)
    strings, begin = [], 0
    for first in range(0, len(lengths), _CUT_AT_ONCE):
        for length in lengths[first : first + _CUT_AT_ONCE].tolist():
            strings.append(bytes(view[begin : begin + length]))
            begin += length
    return strings


def _array(text: Buffer, lengths: Array, shape: tuple[int, ...]) -> Array:
    array = np.empty(len(lengths), object)
    array[:] = _cut(text, lengths)
    return array.reshape(shape)


def _examples(text: Buffer, lengths: Array, context: bytes) -> Examples:
    return Examples(_cut(text, lengths), context)
