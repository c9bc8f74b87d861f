"""The socket between the first process and a worker: messages whole, descriptors beside them.

A packet is one byte and a message; a message that is too large for a packet is in a memfd, which comes first among the
descriptors. The byte says which.
"""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from fallback_server.workers.messages import (
    Begin,
    Drain,
    Drained,
    Drop,
    End,
    Figures,
    Host,
    Hosted,
    Listening,
    Message,
    View,
)

AnyMessage = Begin | Host | Drop | View | Drain | End | Listening | Hosted | Figures | Drained

PACKET_BYTES = 2**16
"""Sockets take three times as much by default."""

MAX_BYTES = 2**28
"""Of one message: the routes of 10,000 models take some 10 MB."""

MAX_FDS = 2

_INLINE, _BESIDE = b"\0", b"\1"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


class ChannelClosed(Exception):
    """The other side is gone, takes nothing, or says what can't be."""


class Received(NamedTuple):
    """A message, and what came with it: the receiver's to close."""

    message: AnyMessage
    fds: list[int]


class Channel:
    """One end. Any thread may send, one receives.

    Args:
        sock: Of packets; this one's to close. With a timeout, an end that takes nothing for so long is as one that is
            gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends a message.

        Args:
            message: What.
            fds: What goes with it; the caller's to close.

        Raises:
            ChannelClosed: nobody takes it.
        """
        content = _encoder.encode(message)
        try:
            if len(content) < PACKET_BYTES:
                self._send(_INLINE + content, fds)
                return
            memory = os.memfd_create("message", os.MFD_CLOEXEC)
            with os.fdopen(memory, "wb", buffering=0) as file:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                self._send(_BESIDE, [memory, *fds])
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> Received:
        """Waits for the next message.

        Raises:
            ChannelClosed: there is none any more.
        """
        room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            packet, ancillary, flags, _ = self._sock.recvmsg(PACKET_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        found = list(fds)
        try:
            _check_whole(packet, flags)
            content = packet[1:] if packet[:1] == _INLINE else _content(found.pop(0))
            return Received(_decoder.decode(content), found)
        except (ChannelClosed, OSError, IndexError, msgspec.MsgspecError) as error:
            for fd in found:
                os.close(fd)
            if isinstance(error, ChannelClosed):
                raise
            raise ChannelClosed(f"what came can't be read: {error}") from error

    def hurry(self, timeout_s: float) -> None:
        """From now on an end that takes nothing, or says nothing, for so long is as one that is gone."""
        self._sock.settimeout(timeout_s)

    def close(self) -> None:
        """Ends it."""
        self._sock.close()

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        with self._lock:
            if fds:
                socket.send_fds(self._sock, [packet], list(fds))
            else:
                self._sock.send(packet)


def _check_whole(packet: bytes, flags: int) -> None:
    if not packet:
        raise ChannelClosed("the other side has ended")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ChannelClosed("a packet was cut")


def _content(memory: int) -> bytes:
    with os.fdopen(memory, "rb", buffering=0) as file:
        size = os.fstat(memory).st_size
        if size > MAX_BYTES:
            raise ChannelClosed(f"a message of {size} bytes")
        return os.pread(file.fileno(), size, 0)
