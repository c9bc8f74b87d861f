"""Which connections may stay: how long each may take, and which one goes where there are too many.

A connection waits for its client in one of four ways, and holds nothing up but its own place:

HEAD    new, or part of a request's head has come, or the rest of a body whose request has been answered
IDLE    its last request was answered, and nothing has come since
BODY    a request is under way, and part of its body is still to come
TAKE    an answer waits to be taken, or the connection's end

or it waits for the server (BUSY). Those that wait for their clients are kept in the order in which they began to, or
came a step further with a body or an answer, so that who has waited longest is the first of each kind.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, cast

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fallback_server.transport.rest.backend import BODY_STEP_BYTES
from fallback_server.transport.rest.refusals import HttpRefused, refusal
from fallback_server.transport.rest.rest_guard import showing
from fallback_server.transport.rest.taking import TAKING, Taking

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

_SPARE = 64
"""Connections beyond the bound that are still told that there are too many; what comes beyond them is closed."""

_STEP_PAUSE_S = 5.0
"""Where there are too many connections, one whose body or answer has come no step further for so long is closed for a
new one before all others."""

_NEWCOMER_S = 1.0
"""So long who has just come is left in peace, as long as those are few, half of the places or `_SPARE`: else who comes
would close who came before, where all other places are in use."""

_UNSENT_BYTES = 2**16
"""More than this of answers waits for the client to take it; asyncio's transports hold as much before they say so."""

_STALL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long each may do nothing.

    Attributes:
        connections: At most, but for a few that are only told so.
        head_s: From the connection, or the first byte of a request, to the end of the request's head.
        idle_s: From an answer to the next request.
        stall_s: How long a client has for the next step of a body, `BODY_STEP_BYTES` or more, or of taking an answer.
        answers_bytes: The most that is held of answers whose clients have not taken them; one answer may be larger.
    """

    connections: int = 4096
    head_s: float = 20.0
    idle_s: float = 75.0
    stall_s: float = 60.0
    answers_bytes: int = 2**31


class Phase(enum.Enum):
    """What a connection waits for."""

    HEAD = enum.auto()
    IDLE = enum.auto()
    BODY = enum.auto()
    TAKE = enum.auto()
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
            phase: {} for phase in Phase if phase is not Phase.BUSY
        }
        self._held: dict[Connection, int] = {}  # What those in TAKE have not taken, in bytes.
        self._held_bytes = 0
        self._looked_s = 0.0
        self._few = min(_SPARE, limits.connections // 2)

    def made(self, connection: Connection, now_s: float) -> None:
        """A connection has come: it gets a place, if need be another's."""
        if len(self.connections) > self.limits.connections and not self.make_room(now_s):
            connection.refuse()
            if len(self.connections) > self.limits.connections + _SPARE:
                self.drop(connection)
                return
        self.moved(connection, Phase.BUSY, Phase.HEAD, now_s)

    def moved(self, connection: Connection, before: Phase, phase: Phase, now_s: float) -> None:
        """A connection has come into another phase, or a step further with its body or its answer."""
        if before in self._waiting:
            self._waiting[before].pop(connection, None)
        if phase in self._waiting:
            self._waiting[phase][connection] = now_s

    def holds(self, connection: Connection, size_bytes: int) -> None:
        """So many bytes of a connection's answers are held for its client.

        Where that is too much with all others', those are closed that have waited longest for their clients.
        """
        self._let_go(connection)
        if not size_bytes:
            return
        self._held[connection] = size_bytes
        self._held_bytes += size_bytes
        if self._held_bytes > self.limits.answers_bytes:
            for other in list(self._waiting[Phase.TAKE]):
                if other is not connection and self._held_bytes > self.limits.answers_bytes:
                    self.drop(other)

    def lost(self, connection: Connection, phase: Phase) -> None:
        """A connection is gone."""
        if phase in self._waiting:
            self._waiting[phase].pop(connection, None)
        self._let_go(connection)

    def make_room(self, now_s: float) -> bool:
        """Closes one that waits for its client: the one that has waited longest for a step of a body or an answer.

        Where all go on, then one that asks nothing: of those that have asked nothing yet, and those that were answered,
        the longest of whom there are more. So neither can be many enough to have the others closed.

        Returns:
            False where there is none.
        """
        stalled = [next(iter(self._waiting[phase].items()), None) for phase in (Phase.BODY, Phase.TAKE)]
        stalled_s, connection = min(
            ((since_s, one) for one, since_s in filter(None, stalled)), key=itemgetter(0), default=(now_s, None)
        )
        if connection is not None and now_s - stalled_s > _STEP_PAUSE_S:
            self.drop(connection)
            return True
        asking = sorted((Phase.HEAD, Phase.IDLE), key=lambda phase: len(self._waiting[phase]), reverse=True)
        for phase in asking:
            waiting = self._waiting[phase]
            oldest = next(iter(waiting), None)
            if oldest is None:
                continue
            if phase is Phase.HEAD and len(waiting) <= self._few and now_s - waiting[oldest] <= _NEWCOMER_S:
                continue
            self.drop(oldest)
            return True
        return False

    def _let_go(self, connection: Connection) -> None:
        self._held_bytes -= self._held.pop(connection, 0)

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
        if now_s - self._looked_s >= _STALL_EVERY_S:
            self._looked_s = now_s
            for connection in list(self._waiting[Phase.TAKE]):
                connection.look()
        for phase, bound_s in (
            (Phase.HEAD, self.limits.head_s),
            (Phase.IDLE, self.limits.idle_s),
            (Phase.TAKE, self.limits.stall_s),
        ):
            waiting = self._waiting[phase]
            while waiting and now_s - waiting[oldest := next(iter(waiting))] > bound_s:
                self.drop(oldest)


class Connection(H11Protocol):
    """uvicorn's connection, which tells `Connections` what it waits for. Refusals are JSON, as all others are.

    Attributes:
        phase: What it waits for.
        below: What TLS is spoken over; None for plain text.
    """

    server_state: Connections

    phase = Phase.HEAD
    below: asyncio.Transport | None = None
    _made = False
    _early = b""
    _step_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """As asyncio calls it."""
        super().connection_made(transport)
        self._made = True
        self._taking = Taking(self.look)
        self.app_state = {**self.app_state, TAKING: self._taking}
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
        self._taking.gone = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        if not self._made:  # With the end of TLS' handshake: asyncio tells of that in its next turn.
            self._early += data
            return
        super().data_received(data)
        self._step_bytes += len(data)
        self.look()

    def on_response_complete(self) -> None:
        """As the cycle of a request calls it."""
        super().on_response_complete()
        self.look()

    def pause_writing(self) -> None:
        """As asyncio calls it."""
        super().pause_writing()
        self.look()

    def resume_writing(self) -> None:
        """As asyncio calls it."""
        super().resume_writing()
        self.look()

    def refuse(self) -> None:
        """Whatever is asked here is answered with 503."""
        self.app = _crowded

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

    def look(self) -> None:
        """Tells `Connections` what is waited for now, where that is something else, or there was a step."""
        if self not in self.connections:
            return  # Closed to make room; what comes of it counts no more.
        unsent_bytes = self._unsent_bytes()
        before, phase = self.phase, self._phase(unsent_bytes)
        if Phase.TAKE in {before, phase}:
            held_bytes = self._taking.answer_bytes + unsent_bytes if phase is Phase.TAKE else 0
            self.server_state.holds(self, held_bytes)
        if phase is before:
            body = phase is Phase.BODY and self._step_bytes >= BODY_STEP_BYTES
            if not body and not (phase is Phase.TAKE and self._taking.stepped(unsent_bytes)):
                return
        elif phase is Phase.TAKE:
            self._taking.begin(unsent_bytes)
        self.phase, self._step_bytes = phase, 0
        self.server_state.moved(self, before, phase, self.loop.time())

    def _unsent_bytes(self) -> int:
        if self.below is None:
            return self.transport.get_write_buffer_size()
        # TLS that is being closed can't say any more what it holds.
        own_bytes = 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()
        return own_bytes + self.below.get_write_buffer_size()

    def _phase(self, unsent_bytes: int) -> Phase:
        if self._taking.answer_bytes or unsent_bytes > _UNSENT_BYTES or self.flow.write_paused:
            return Phase.TAKE
        if self.transport.is_closing():
            return Phase.TAKE
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
