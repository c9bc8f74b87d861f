"""A TLS handshake under way, which has a connection's place and time: else there could be as many as anybody likes."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

import uvicorn

from fallback_server.transport.rest.connections import Connection, Connections, Phase


class Opening(asyncio.Protocol):
    """A connection until TLS is spoken over it; from then on a `Connection` takes its place.

    asyncio could have the handshake done before anybody is told of the connection, and then nobody bounds how many
    there are, nor takes the place of one whose client has gone silent.

    Args:
        context: What TLS is spoken with.
        config: As uvicorn calls its protocols.
        server_state: Likewise.
        app_state: Likewise.
        _loop: Likewise.

    Attributes:
        phase: What it waits for: all of its request.
        transport: The connection, in plain text.
    """

    phase = Phase.HEAD

    def __init__(
        self,
        context: ssl.SSLContext,
        config: uvicorn.Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.transport: asyncio.Transport
        self._context = context
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._connection = Connection(config, server_state, app_state, self._loop)
        self._crowded = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        self._state.connections.add(cast("Any", self))
        self._state.made(cast("Connection", self), self._loop.time())
        self._task = self._loop.create_task(self._open())

    def refuse(self) -> None:
        """Whatever is asked here is answered with 503."""
        self._crowded = True

    def shutdown(self) -> None:
        """The server stops: who has asked nothing yet is told nothing."""
        self.transport.abort()

    async def _open(self) -> None:
        tls: asyncio.Transport | None = None
        try:
            tls = await self._loop.start_tls(
                self.transport,
                self._connection,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._state.limits.head_s,
            )
        except (OSError, asyncio.CancelledError):
            self.transport.abort()  # Whose handshake fails is nobody's caller; TLS has told it why.
        finally:
            self._state.lost(cast("Connection", self), self.phase)
            self._state.connections.discard(cast("Any", self))
        if tls is None or tls.is_closing():  # Closed meanwhile, to make room.
            return
        self._connection.below = self.transport
        self._connection.connection_made(tls)
        if self._crowded:
            self._connection.refuse()
