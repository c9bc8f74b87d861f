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

_MOST_PARTS = 2**20

Buffer = Any
"""A bytearray or an array, which mypy takes for no buffer."""


class _Pickler(pickle.Pickler):
    """Strings travel as one text and their lengths: pickle holds Python's lock for as long as it makes objects."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is np.ndarray and value.dtype == object:
            return _array, (*_joined(value.reshape(-1).tolist()), value.shape)
        if type(value) is Examples:
            return _examples, (*_joined(list(value.each)), value.context)
        return NotImplemented


def send(sock: socket.socket, value: object) -> None:
    """Sends a value; its `PickleBuffer`s and arrays as they lie.

    Raises:
        OSError: the other side is gone.
    """
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [head.getbuffer(), *(buffer.raw() for buffer in buffers)]
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


def _joined(strings: list[bytes]) -> tuple[pickle.PickleBuffer, Array]:
    return pickle.PickleBuffer(b"".join(strings)), np.fromiter(map(len, strings), np.int64, len(strings))


def _cut(text: Buffer, lengths: Array) -> list[bytes]:
    """In Python's own steps, between which other threads get their turn."""
    view = memoryview(text)
    strings, begin = [], 0
    for length in lengths.tolist():
        strings.append(bytes(view[begin : begin + length]))
        begin += length
    return strings


def _array(text: Buffer, lengths: Array, shape: tuple[int, ...]) -> Array:
    array = np.empty(len(lengths), object)
    array[:] = _cut(text, lengths)
    return array.reshape(shape)


def _examples(text: Buffer, lengths: Array, context: bytes) -> Examples:
    return Examples(_cut(text, lengths), context)
