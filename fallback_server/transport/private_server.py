"""gRPC behind the port: over a UNIX socket that nobody reaches but this server's other processes and native front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from fallback_server.transport import client_bounds
from fallback_server.transport.native.private_folder import PrivateFolder
from fallback_server.transport.unix_socket import SocketUnavailable

_log = logging.getLogger(__name__)

LOOK_S = 10.0
"""Between two looks whether the socket is still where it is looked for."""

_METADATA_BYTES = 2**24

_SIZES = ("grpc.max_receive_message_length", "grpc.max_send_message_length")
"""What the operator says of messages, which what is passed on as it came meets nowhere else."""


def private_arguments(arguments: Sequence[tuple[str, int | str]]) -> tuple[tuple[str, int | str], ...]:
    """What gRPC is told behind the port, of what the operator says.

    What bounds one connection of a client does not go along (streams, pings, age): what all clients of a process send
    comes over one, and would wait there for each other. Metadata have met their bound before.
    """
    return (
        *((key, value) for key, value in arguments if key in _SIZES),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        *client_bounds.NONE,
    )


class PrivateServer:
    """Listens, and goes on doing so where its folder is removed by others, as what cleans folders up does.

    Connections outlast their socket's folder, but nobody could make a new one. Lives in the event loop that makes it.

    Args:
        make: Makes a server that has the handlers, and listens nowhere yet.

    Attributes:
        path: Its folder.

    Raises:
        SocketUnavailable: there is no place for the folder.
    """

    def __init__(self, make: Callable[[], grpc.aio.Server]) -> None:
        self._make = make
        self._folder = PrivateFolder()
        self._servers: list[grpc.aio.Server] = []  # The last listens, the one before keeps its connections.
        self._keeping: asyncio.Task[None] | None = None
        self._told = False

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def socket(self) -> Path:
        """Where it listens. It stays the same."""
        return self._folder.socket

    async def start(self) -> None:
        """Listens.

        Raises:
            SocketUnavailable: it can't.
        """
        await self._listen()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def look(self) -> None:
        """Listens anew where the socket is gone."""
        if self._folder.stands():
            return
        try:
            self._folder.renew()
            await self._listen()
        except SocketUnavailable as error:
            if not self._told:
                _log.error("%s is gone, and what is passed on to it may fail: %s", self.socket, error)
            self._told = True
            return
        self._told = False
        _log.warning("%s was removed, and is there again: have what cleans that folder up leave it alone", self.socket)

    async def stop(self, grace_s: float) -> None:
        """Waits for what is in flight, at most the grace; connections end."""
        self._let_be()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))

    def close(self) -> None:
        """Removes the socket. Closing again does nothing."""
        self._let_be()
        self._folder.close()

    def _let_be(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    async def _listen(self) -> None:
        while len(self._servers) > 1:
            # Whoever was connected before the removal before has connected anew since. A server that stops removes the
            # socket at its path, whoever listens there: so that is before another one does.
            await self._servers.pop(0).stop(None)
        server = self._make()
        try:
            server.add_insecure_port(f"unix:{self.socket}")
        except RuntimeError as error:
            raise SocketUnavailable(f"can't listen on unix:{self.socket}: {error}") from error
        self._servers.append(server)
        await server.start()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(OSError):  # It is looked at again.
                await self.look()
