"""What the server, the nursery and the workers say to each other: msgpack messages, and tensors beside them.

Sockets are of packets (`SOCK_SEQPACKET`), so that each message is sent and received whole, and an end of file is the
other side's end. A message and its tensors are laid out as one frame:

    prefix (uint32 bytes of the message, uint32 whether in a memfd, uint64 bytes of the whole) | message | tensors

A frame of at most `INLINE_BYTES` is the packet itself. A larger one is written into a memfd that can't be resized any
more; the packet then holds the prefix alone, and the memfd comes with it. So the kernel's pages are filled once by the
sender and mapped by the receiver, who keeps them as long as any of the arrays lives, and no longer.

Each tensor begins at a multiple of `ALIGNMENT` in the frame: TensorFlow takes such memory as it is, and copies other.
Strings are their lengths (uint32 each) and then their bytes.
"""

from __future__ import annotations

import array
import fcntl
import math
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from fallback_server.executors.base import Array, JoinedInputs
from fallback_server.executors.worker.messages import AnyMessage, Message, Ran, Run, Tensor
from fallback_server.protocol.tensors import MAX_ELEMENTS, MAX_RANK, numpy_dtype, wire_dtype

INLINE_BYTES = 2**16
"""Up to here a copy through the socket is cheaper than pages of one's own."""

ALIGNMENT = 64
"""EIGEN_MAX_ALIGN_BYTES, as TensorFlow is built."""

MAX_FRAME_BYTES = 2**36
"""No machine sends more; a larger number is a fault."""

MAX_MESSAGE_BYTES = 2**28
"""Signatures of thousands of tensors take a few MiB."""

MAX_FDS = 4
"""As many as any message brings."""

_PREFIX = struct.Struct("<IIQ")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_LENGTH = np.dtype("<u4")


class WireError(Exception):
    """The other side said what it can't have meant: a fault of this program."""


class Closed(Exception):
    """The other side is gone."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


class Frame:
    """What was received.

    Attributes:
        message: What was said.
        fds: The descriptors that came with it; the receiver's to close.
        memory: The whole frame, which the tensors are views of.
    """

    __slots__ = ("fds", "memory", "message")

    def __init__(self, message: AnyMessage, memory: memoryview | None, fds: list[int]) -> None:
        self.message = message
        self.memory = memory
        self.fds = fds

    def tensors(self, heads: Iterable[Tensor]) -> dict[str, Array]:
        """The tensors by name: read-only views of the frame's memory, or objects where they are strings.

        Raises:
            WireError: one reaches beyond the frame, or its bytes do not fit its shape.
        """
        assert self.memory is not None
        return {head.name: _tensor(head, self.memory) for head in heads}


class Layout:
    """Lays tensors out: what is written where, and how long it all is."""

    def __init__(self) -> None:
        self.heads: list[Tensor] = []
        self.chunks: list[tuple[int, Any]] = []
        self.end = 0

    def add(self, name: str, value: Array) -> None:
        """Places one tensor behind those before. Copies nothing that is contiguous."""
        begin = _aligned(self.end)
        size = self._strings(begin, value) if value.dtype.kind in "OSU" else self._numbers(begin, value)
        self.heads.append(Tensor(name, wire_dtype(value.dtype), value.shape, begin, size))
        self.end = begin + size

    def add_rows(self, name: str, parts: Sequence[Array]) -> None:
        """Places a tensor of numbers that is given in pieces along the first dimension."""
        begin = end = _aligned(self.end)
        for part in parts:
            end += self._numbers(end, part)
        first = parts[0]
        shape = (sum(map(len, parts)), *first.shape[1:])
        self.heads.append(Tensor(name, wire_dtype(first.dtype), shape, begin, end - begin))
        self.end = end

    def _numbers(self, begin: int, value: Array) -> int:
        # In the machine's byte order; what is so already is not copied.
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        if value.nbytes:
            # As bytes: a memoryview knows no bfloat16. A scalar has no axis that could be viewed otherwise.
            self.chunks.append((begin, value.reshape(-1).view(np.uint8).data))
        return value.nbytes

    def _strings(self, begin: int, value: Array) -> int:
        items = [item if isinstance(item, bytes) else str(item).encode() for item in value.reshape(-1).tolist()]
        lengths = np.fromiter(map(len, items), _LENGTH, len(items))
        content = b"".join(items)
        if items:
            self.chunks.append((begin, lengths.view(np.uint8).data))
        if content:
            self.chunks.append((begin + lengths.nbytes, content))
        return lengths.nbytes + len(content)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Sends a message without tensors.

    Raises:
        Closed: nobody is there.
    """
    _send(sock, _encoder.encode(message), [], 0, fds)


def send_run(sock: socket.socket, signature: str, tensors: Mapping[str, Array]) -> None:
    """Sends a `Run`."""
    layout = _laid_out(tensors)
    _send(sock, _encoder.encode(Run(signature, tuple(layout.heads))), layout.chunks, layout.end)


def send_ran(sock: socket.socket, tensors: Mapping[str, Array]) -> None:
    """Sends a `Ran`."""
    layout = _laid_out(tensors)
    _send(sock, _encoder.encode(Ran(tuple(layout.heads))), layout.chunks, layout.end)


class Receiver:
    """Receives the frames of one socket, one after the other, into one buffer. One thread.

    Args:
        sock: Of packets.
        wait: Whether `receive` waits until there is something.
    """

    def __init__(self, sock: socket.socket, *, wait: bool = True) -> None:
        self._sock = sock
        self._flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        self._buffer = bytearray(INLINE_BYTES)
        self._fds = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)

    def receive(self) -> Frame:
        """Waits for the next frame. A small one is copied out of the buffer, a large one is mapped.

        Raises:
            Closed: the other side is gone.
            WireError: a frame that can't be.
            BlockingIOError: nothing is there, and the socket does not wait.
        """
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into([self._buffer], self._fds, self._flags)
        except (ConnectionError, OSError) as error:
            if isinstance(error, BlockingIOError):
                raise
            raise Closed from error
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not size:
            raise Closed
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or size < _PREFIX.size:
            raise WireError(f"a packet of {size} bytes with flags {flags:#x}")
        return _frame(memoryview(self._buffer)[:size], list(fds))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _laid_out(tensors: Mapping[str, Array]) -> Layout:
    layout = Layout()
    if isinstance(tensors, JoinedInputs):
        for name in tensors:
            parts = tensors.arrays(name)
            if parts[0].dtype.kind in "OSU" or sum(part.nbytes for part in parts) <= INLINE_BYTES:
                layout.add(name, tensors[name])
            else:
                layout.add_rows(name, parts)
        return layout
    for name, value in tensors.items():
        layout.add(name, value)
    return layout


def _send(sock: socket.socket, head: bytes, chunks: list[tuple[int, Any]], size: int, fds: Sequence[int] = ()) -> None:
    begin = _aligned(_PREFIX.size + len(head))
    whole = begin + size if chunks or size else _PREFIX.size + len(head)
    prefix = _PREFIX.pack(len(head), int(whole > INLINE_BYTES), whole)
    try:
        if whole <= INLINE_BYTES:
            socket.send_fds(sock, _inline(prefix, head, chunks, begin, whole), fds) if fds else sock.sendmsg(
                _inline(prefix, head, chunks, begin, whole)
            )
            return
        memory = _written(prefix, head, chunks, begin, whole)
        try:
            socket.send_fds(sock, [prefix], [memory, *fds])
        finally:
            os.close(memory)
    except (BrokenPipeError, ConnectionError) as error:
        raise Closed from error


def _inline(prefix: bytes, head: bytes, chunks: list[tuple[int, Any]], begin: int, whole: int) -> list[Any]:
    """The frame in pieces, with the gaps between them filled."""
    pieces: list[Any] = [prefix, head]
    at = _PREFIX.size + len(head)
    for offset, chunk in chunks:
        if gap := begin + offset - at:
            pieces.append(bytes(gap))
        pieces.append(chunk)
        at = begin + offset + len(chunk)
    if gap := whole - at:
        pieces.append(bytes(gap))
    # The system takes 1024 pieces at most.
    return pieces if len(pieces) < 1000 else [b"".join(pieces)]


def _written(prefix: bytes, head: bytes, chunks: list[tuple[int, Any]], begin: int, whole: int) -> int:
    """A memfd that holds the frame. Written, not mapped: no page is faulted in one by one."""
    memory = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, whole)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        for offset, chunk in ((0, prefix), (_PREFIX.size, head), *((begin + at, chunk) for at, chunk in chunks)):
            _write(memory, memoryview(chunk), offset)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _write(memory: int, chunk: memoryview, offset: int) -> None:
    while chunk:
        written = os.pwrite(memory, chunk, offset)
        chunk, offset = chunk[written:], offset + written


def _frame(packet: memoryview, fds: list[int]) -> Frame:
    head_bytes, spilled, whole = _PREFIX.unpack_from(packet)
    if spilled:
        if not fds or whole > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {whole} bytes with {len(fds)} descriptors")
        with os.fdopen(fds.pop(0), "rb", buffering=0) as file:
            memory = _mapped(file.fileno(), whole)
    else:
        if whole != len(packet):
            raise WireError(f"a frame of {whole} bytes in a packet of {len(packet)}")
        memory = memoryview(bytes(packet))
    if head_bytes > min(whole - _PREFIX.size, MAX_MESSAGE_BYTES):
        raise WireError(f"a message of {head_bytes} bytes in a frame of {whole}")
    try:
        message = _decoder.decode(memory[_PREFIX.size : _PREFIX.size + head_bytes])
    except msgspec.MsgspecError as error:
        raise WireError(f"a message that can't be read: {error}") from error
    return Frame(message, memory[_aligned(_PREFIX.size + head_bytes) :], fds)


def _mapped(memory: int, whole: int) -> memoryview:
    """Maps a frame; the mapping lives as long as any view of it."""
    if os.fstat(memory).st_size != whole or fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise WireError(f"a memfd that is not {whole} bytes, or may shrink")
    return memoryview(mmap.mmap(memory, whole, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))


def _tensor(head: Tensor, memory: memoryview) -> Array:
    if head.offset < 0 or head.size_bytes < 0 or head.offset + head.size_bytes > len(memory):
        raise WireError(f"tensor {head.name!r} reaches to {head.offset + head.size_bytes} of {len(memory)} bytes")
    if len(head.shape) > MAX_RANK or any(size < 0 for size in head.shape):
        raise WireError(f"tensor {head.name!r} has the shape {head.shape}")
    count = math.prod(head.shape)
    dtype = numpy_dtype(head.dtype)
    content = memory[head.offset : head.offset + head.size_bytes]
    if dtype.kind == "O":
        return _strings(head, content, count)
    if count * dtype.itemsize != head.size_bytes:
        raise WireError(f"tensor {head.name!r}: {head.size_bytes} bytes for {dtype} of {head.shape}")
    return np.frombuffer(content, np.uint8).view(dtype).reshape(head.shape)


def _strings(head: Tensor, content: memoryview, count: int) -> Array:
    if count > MAX_ELEMENTS or count * _LENGTH.itemsize > len(content):
        raise WireError(f"tensor {head.name!r}: {count} strings in {len(content)} bytes")
    at = count * _LENGTH.itemsize
    lengths = np.frombuffer(content[:at], _LENGTH).tolist()
    if at + sum(lengths) != len(content):
        raise WireError(f"tensor {head.name!r}: strings of {sum(lengths)} bytes in {len(content) - at}")
    values = np.empty(count, object)
    for index, length in enumerate(lengths):
        values[index] = bytes(content[at : at + length])
        at += length
    return values.reshape(head.shape)
