"""The socket that listens for REST: asyncio accepts from it, also where the process has run out of descriptors."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from typing import Any

from fallback_server.transport.grpc_server import PortUnavailable

_log = logging.getLogger(__name__)

ACCEPTS = 64
"""Connections that are taken in one turn of the event loop: they have descriptors before anybody has counted them."""

_BACKLOG = 4096
_OUT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_TELL_EVERY_S = 60.0


class Listener(socket.socket):
    """A socket that is never out of descriptors: one is kept, with which to take what is then closed unanswered.

    asyncio, told that there are none, would write a traceback for each connection that waits, a thousand at a time.
    """

    _spare: int | None = None
    _told_s = float("-inf")

    def listen(self, backlog: int = 0, /) -> None:
        """Listens; asyncio's number is how many it accepts at a time, and not how many may wait."""
        del backlog
        super().listen(_BACKLOG)
        if self._spare is None:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or it could not be kept.
        """
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _OUT:
                raise
            self._turn_away()
            raise BlockingIOError(errno.EAGAIN, "the connection was closed") from error

    def close(self) -> None:
        """Listens no more."""
        super().close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _turn_away(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            super().accept()[0].close()
        except OSError as error:
            if error.errno in _OUT:
                # Somebody else was quicker, and has the spare one; asyncio would ask again at once.
                time.sleep(0.001)
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._spare = None
        if time.monotonic() - self._told_s > _TELL_EVERY_S:
            self._told_s = time.monotonic()
            _log.warning("no descriptors are left (see ulimit -n): REST connections are closed unanswered")


def listen(host: str, port: int) -> Listener:
    """A socket that listens, on IPv4 and IPv6 where the host means both.

    Raises:
        PortUnavailable: the address is taken, or none of this machine's.
    """
    flags = socket.AI_PASSIVE
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM, flags=flags)[
            0
        ]
        # With its protocol: asyncio turns Nagle's delay off only on sockets that say they are TCP's.
        listener = Listener(family, kind, proto)
    except (OSError, OverflowError) as error:
        raise PortUnavailable(f"can't listen on {host}:{port} for REST: {error}") from error
    try:
        # A restarted server need not wait for old connections; a second one is refused all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortUnavailable(f"can't listen on {host}:{port} for REST: {error}") from error
    listener.setblocking(False)
    return listener
