"""Which connections may stay: how long each may take, and which one goes where there are too many.

A connection waits for its client in one of three ways, and holds nothing up but its own place:

HEAD    new, or part of a request's head has come, or the rest of a body whose request has been answered
IDLE    its last request was answered, and nothing has come since
BODY    a request is under way, and part of its body is still to come

or it waits for the server (BUSY). Those that wait for their clients are kept in the order in which they began to, so
that the oldest of each kind is the first.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fallback_server.transport.rest.backend import BODY_STEP_BYTES
from fallback_server.transport.rest.refusals import HttpRefused, refusal
from fallback_server.transport.rest.rest_guard import showing

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

_SPARE = 64
"""Connections beyond the bound that are still told that there are too many; what comes beyond them is closed."""

_BODY_PAUSE_S = 5.0
"""Where there are too many connections, a body of which nothing has come for so long is given up for a new one before
all others; and one of which no `BODY_STEP_BYTES` have come, after those that have asked nothing."""

_STALL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long each may do nothing.

    Attributes:
        connections: At most, but for a few that are only told so.
        head_s: From the connection, or the first byte of a request, to the end of the request's head.
        idle_s: From an answer to the next request.
        stall_s: How long a client may take nothing of what is sent to it, and how long it has for the next
            `BODY_STEP_BYTES` of a body.
    """

    connections: int = 4096
    head_s: float = 20.0
    idle_s: float = 75.0
    stall_s: float = 60.0


class Phase(enum.Enum):
    """What a connection waits for."""

    HEAD = enum.auto()
    IDLE = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()


class Connections(ServerState):
    """All of a server's connections. Lives in the event loop.

    Args:
        limits: Which may stay.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.limits = limits
        self._waiting: Mapping[Phase, dict[Connection, float]] = {
            phase: {} for phase in (Phase.HEAD, Phase.IDLE, Phase.BODY)
        }
        self._heard: dict[Connection, float] = {}  # Those in BODY, by when anything came: it began, or a byte.
        self._looked_s = 0.0

    def made(self, connection: Connection, now_s: float) -> None:
        """A connection has come: it gets a place, if need be another's."""
        if len(self.connections) > self.limits.connections and not self.make_room(now_s):
            connection.refuse()
            if len(self.connections) > self.limits.connections + _SPARE:
                self.drop(connection)
                return
        self.moved(connection, Phase.BUSY, Phase.HEAD, now_s)

    def moved(self, connection: Connection, before: Phase, phase: Phase, now_s: float) -> None:
        """A connection has come into another phase, or a step further with its body."""
        if before in self._waiting:
            self._waiting[before].pop(connection, None)
        if phase in self._waiting:
            self._waiting[phase][connection] = now_s
        self._heard.pop(connection, None)
        if phase is Phase.BODY:
            self._heard[connection] = now_s

    def heard(self, connection: Connection, now_s: float) -> None:
        """Something has come of a connection's body."""
        if self._heard.pop(connection, None) is not None:
            self._heard[connection] = now_s

    def lost(self, connection: Connection, phase: Phase) -> None:
        """A connection is gone."""
        if phase in self._waiting:
            self._waiting[phase].pop(connection, None)
        self._heard.pop(connection, None)

    def make_room(self, now_s: float) -> bool:
        """Closes one that waits for its client, the oldest; first of bodies that have stalled.

        Then of those that have asked nothing yet: were these the first, halves of bodies that fill all places would
        have whoever comes closed by whoever comes next.

        Returns:
            False where there is none.
        """
        silent = next(iter(self._heard), None)
        if silent is not None and now_s - self._heard[silent] > _BODY_PAUSE_S:
            self.drop(silent)
            return True
        for phase, waiting in self._waiting.items():
            oldest = next(iter(waiting), None)
            if oldest is not None and (phase is not Phase.BODY or now_s - waiting[oldest] > _BODY_PAUSE_S):
                self.drop(oldest)
                return True
        return False

    def expecting(self, since_s: float) -> bool:
        """Whether a connection that waits for a request has begun to after an instant."""
        return any(
            since_s < next(reversed(self._waiting[phase].values()), since_s) for phase in (Phase.HEAD, Phase.IDLE)
        )

    def drop(self, connection: Connection) -> None:
        """Closes a connection at once. It counts no more, though its socket goes with the event loop's next turn."""
        self.lost(connection, connection.phase)
        self.connections.discard(connection)
        connection.transport.abort()

    def sweep(self, now_s: float) -> None:
        """Closes those whose time is over."""
        for phase, bound_s in ((Phase.HEAD, self.limits.head_s), (Phase.IDLE, self.limits.idle_s)):
            waiting = self._waiting[phase]
            while waiting and now_s - waiting[oldest := next(iter(waiting))] > bound_s:
                self.drop(oldest)
        if now_s - self._looked_s < _STALL_EVERY_S:
            return
        self._looked_s = now_s
        for connection in list(self.connections):
            if isinstance(connection, Connection) and connection.stalled_s(now_s) > self.limits.stall_s:
                self.drop(connection)


class Connection(H11Protocol):
    """uvicorn's connection, which tells `Connections` what it waits for. Refusals are JSON, as all others are."""

    server_state: Connections

    phase = Phase.HEAD
    _made = False
    _early = b""
    _step_bytes = 0
    _unsent_bytes = 0
    _unsent_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """As asyncio calls it."""
        super().connection_made(transport)
        self._made = True
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (der := tls.getpeercert(binary_form=True)):
            self.app = showing(self.app, der)
        self.server_state.made(self, self.loop.time())
        if early := self._early:
            self._early = b""
            self.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        if not self._made:
            return  # Of a handshake that came to nothing.
        self.server_state.lost(self, self.phase)
        self.phase = Phase.BUSY
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        if not self._made:  # With the end of TLS' handshake: asyncio tells of that in its next turn.
            self._early += data
            return
        super().data_received(data)
        self._step_bytes += len(data)
        self._look()
        if self.phase is Phase.BODY:
            self.server_state.heard(self, self.loop.time())

    def on_response_complete(self) -> None:
        """As the cycle of a request calls it."""
        super().on_response_complete()
        self._look()

    def refuse(self) -> None:
        """Whatever is asked here is answered with 503."""
        self.app = _crowded

    def stalled_s(self, now_s: float) -> float:
        """For how long the client has taken nothing of what waits for it."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent_bytes, now_s
        return now_s - self._unsent_since_s

    def send_400_response(self, msg: str) -> None:
        """What has come is no HTTP. A request whose body it was is over."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        answer = refusal(HttpRefused(400, msg, {"connection": "close"}))
        head = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look(self) -> None:
        before, phase = self.phase, self._phase()
        stays = phase is before and (phase is not Phase.BODY or self._step_bytes < BODY_STEP_BYTES)
        if stays or self.transport.is_closing():
            return
        self.phase, self._step_bytes = phase, 0
        self.server_state.moved(self, before, phase, self.loop.time())

    def _phase(self) -> Phase:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None:
            return Phase.HEAD
        if not cycle.response_complete:
            return Phase.BODY if cycle.more_body else Phase.BUSY
        rest, _ = self.conn.trailing_data
        return Phase.HEAD if rest or self.conn.their_state is not h11.IDLE else Phase.IDLE


def sound(app: ASGIApp) -> ASGIApp:
    """The application, asked only what every server on the way reads alike: RFC 9112, section 6.1.

    A body with two lengths could hide a second request from what stands before this server.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            names = {name for name, _ in scope["headers"]}
            if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
                text = (
                    "Transfer-Encoding beside Content-Length, or in HTTP/1.0, is refused: which one counts is unclear"
                )
                await refusal(HttpRefused(400, text, {"connection": "close"}))(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    error = HttpRefused(503, "the server has as many connections as it takes, and all are in use")
    error.headers = {"connection": "close", "retry-after": "1"}
    await refusal(error)(scope, receive, send)
