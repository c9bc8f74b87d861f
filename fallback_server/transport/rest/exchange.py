"""One HTTP request while it is answered: its path's parts, its body, and the response."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fallback_server.access.rules import Scope as AccessScope
from fallback_server.core.errors import InvalidInput, ServerError, ServerStopping
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, PredictReply, Verb
from fallback_server.predict_call import PRIORITIES
from fallback_server.protocol.methods import PREPROCESSING_METADATA
from fallback_server.transport.rest.backend import BODY_STEP_BYTES, GROWTH, LARGE_BYTES, Backend
from fallback_server.transport.rest.refusals import JSON, HttpRefused, counted_as
from fallback_server.transport.rest.taking import TAKING, Taking
from fallback_server.transport.rest.unpacking import Unpacker, encoding_of
from fallback_server.transport.targets import natural_number

PRIORITY_HEADER = "x-priority"
"""As over gRPC: `high` is run before others of its model's signature, `low` after them."""

CLIENT_HEADER = "x-client-id"
"""Requests with one value of it go to one version, where a model's traffic is split."""

ENTRYPOINT = "REST"
"""As metrics tell it."""

_CHUNK_BYTES = 2**20

_LINGER_S = 2.0
"""How long the rest of a refused body is taken in and dropped: a client that still sends would not read the answer."""


class Answer(Response):
    """A response whose large body is sent in pieces, none of them a copy of the whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        if len(self.body) <= _CHUNK_BYTES:
            await super().__call__(scope, receive, send)
            return
        taking: Taking = scope["state"][TAKING]
        body = memoryview(self.body)
        with taking.sending(len(body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, len(body), _CHUNK_BYTES):
                if taking.gone:
                    return
                piece = body[begin : begin + _CHUNK_BYTES]
                more = begin + len(piece) < len(body)
                await send({"type": "http.response.body", "body": bytes(piece), "more_body": more})
                taking.handed(len(piece))


class Exchange:
    """A request and what answers it.

    Attributes:
        request: As it came.
        params: The parts of the path that are no fixed text, decoded.
        deadline_s: The instant, of the data plane's clock, at which nobody waits any more; None for ever, and while
            the body comes, as how long that takes is the client's network's affair.
        read_for: The version that the request is read for, once there is one.
    """

    def __init__(
        self,
        request: Request,
        params: Mapping[str, str],
        backend: Backend,
        *,
        timeout_s: float | None,
        verb: Verb | None = None,
    ) -> None:
        self.request = request
        self.params = params
        self.deadline_s: float | None = None
        self.read_for: ServableId | None = None
        self._verb = verb
        self._timeout_s = timeout_s
        self._bound: asyncio.Timeout | None = None
        self._backend = backend
        self._handed_over = False
        self._held_bytes = 0
        self._max_bytes = backend.max_body_bytes

    @property
    def who(self) -> str:
        """Who calls, for the log: `http:10.0.0.7:51234`, and by what that is known."""
        return self._backend.guard.who(self.request, self._peer)

    @property
    def _peer(self) -> str:
        client = self.request.client
        return self._address if client is None else f"{self._address}:{client.port}"

    @property
    def _address(self) -> str:
        client = self.request.client
        return "http" if client is None else f"http:{client.host}"

    async def admit(self, scope: AccessScope, *, whole: bool) -> None:
        """Refuses the request where its caller may not ask that, before its body is read.

        Args:
            scope: What it is to do, with the path's model where there is one.
            whole: Whether with all models, where there is none.

        Raises:
            ServerError: see `Guard.admit`.
        """
        try:
            self._backend.guard.admit(self.request, self._peer, scope, self.params, whole=whole)
        except ServerError:
            await drop(self.request)
            raise

    def seen(self) -> Callable[[str], bool]:
        """Tells of models' names whether the caller may see them."""
        return self._backend.guard.seen_by(self.request, self._peer)

    @property
    def client_key(self) -> bytes:
        """Who asks. Without the header it is of this request alone, so that asking twice means one version."""
        header = self.request.headers.get(CLIENT_HEADER)
        return secrets.token_bytes(8) if not header else header.encode("latin-1")

    def begin(self, bound: asyncio.Timeout) -> None:
        """The time for the answer runs from now on; a body that is waited for starts it anew when it is there.

        Args:
            bound: What ends the answering when the time is over.
        """
        self._bound = bound
        self._restart()

    def target(self) -> ModelTarget:
        """Which version the path names.

        Raises:
            InvalidInput: the version is no int64.
        """
        version = self.params.get("version")
        number = None if version is None else natural_number(version)
        if version is not None and number is None:
            raise InvalidInput(f"Failed to convert version: {version} to numeric.")
        return ModelTarget(name=self.params["model"], version=number, label=self.params.get("label"))

    async def body(self, max_bytes: int | None = None) -> bytearray:
        """The request's body, unpacked where it came compressed. What is unpacked is what is counted and bounded.

        Args:
            max_bytes: The most, where that is less than for any body.

        Raises:
            HttpRefused: too large, in an encoding that is unknown, or too slow to come.
            QueueFull: too much is held of all requests together.
            InvalidInput: it can't be unpacked.
        """
        encoding = encoding_of(self.request.headers.getlist("content-encoding"))
        unpacker = None if encoding is None else Unpacker(encoding)
        length = self.request.headers.get("content-length", "")
        self._max_bytes = min(self._max_bytes, max_bytes or self._max_bytes)
        if length.isdecimal() and int(length) > self._max_bytes:
            raise too_large(int(length), self._max_bytes)
        body = bytearray()
        async for chunk in self._arriving():
            if unpacker is None:
                self._add(body, chunk)
            else:
                await self._unpack(body, unpacker, chunk)
        if unpacker is not None:
            unpacker.end()
        self._restart()
        return body

    async def _arriving(self) -> AsyncIterator[bytes]:
        """The body's pieces. What is done with one between them is not the client's time.

        Raises:
            HttpRefused: for `stall_s` neither a step came nor the end. A step is `BODY_STEP_BYTES`, and as much
                unpacked; of a body that holds much more it is a part of that.
            ServerStopping: the server waits for no bodies any more.
        """
        if self._bound is not None:
            self._bound.reschedule(None)
        clock = asyncio.get_running_loop().time
        stream = self.request.stream()
        left_s, step_bytes, came_bytes, held_bytes = self._backend.stall_s, 0, 0, 0
        needed_bytes = BODY_STEP_BYTES
        while True:
            began_s = clock()
            try:
                async with asyncio.timeout(left_s) as bound:
                    with self._backend.waiting_for_body(bound):
                        chunk = await anext(stream, None)
            except TimeoutError as error:
                if self._backend.no_bodies:
                    await drop(self.request)
                    raise ServerStopping("the server is stopping") from error
                raise _too_slow(came_bytes, needed_bytes, self._backend.stall_s) from error
            if chunk is None:
                return
            left_s -= clock() - began_s
            step_bytes += len(chunk)
            came_bytes += len(chunk)
            yield chunk
            if step_bytes >= BODY_STEP_BYTES and self._held_bytes - held_bytes >= needed_bytes:
                left_s, step_bytes, held_bytes = self._backend.stall_s, 0, self._held_bytes
                needed_bytes = max(BODY_STEP_BYTES, held_bytes // GROWTH)

    def _restart(self) -> None:
        if self._timeout_s is None:
            return
        self.deadline_s = self._backend.dataplane.clock() + self._timeout_s
        if self._bound is not None:
            self._bound.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    async def _unpack(self, body: bytearray, unpacker: Unpacker, chunk: bytes) -> None:
        """A piece at once; where there is more, the rest beside the event loop."""
        unpacker.feed(chunk)
        size_bytes = LARGE_BYTES
        while unpacker.pending:
            work_bytes = max(size_bytes, len(chunk))
            self._add(body, await self._backend.work(work_bytes, unpacker.read, size_bytes))
            size_bytes = _CHUNK_BYTES

    def _add(self, body: bytearray, chunk: bytes) -> None:
        bound = self._max_bytes
        if len(body) + len(chunk) > bound:
            raise too_large(len(body) + len(chunk), bound)
        self._backend.held.hold(self._address, len(chunk))
        self._held_bytes += len(chunk)
        body += chunk

    async def predict(self, call: PredictCall) -> PredictReply:
        """See `Backend.predict`."""
        self._handed_over = True
        call.preprocessing = self.request.headers.get(PREPROCESSING_METADATA, "")
        call.priority = call.priority or PRIORITIES.get(self.request.headers.get(PRIORITY_HEADER, ""), 0)
        return await self._backend.predict(call, self.request)

    def refused(self, error: Exception) -> None:
        """The request is answered with an error. It is counted, unless the data plane has had it, and so counted it."""
        if self._verb is None or self._handed_over:
            return
        call = PredictCall(target=ModelTarget(name=self.params["model"]), verb=self._verb, entrypoint=ENTRYPOINT)
        self._backend.dataplane.refused(call, counted_as(error), self.read_for)

    def close(self) -> None:
        """The body is no longer held."""
        self._backend.held.let_go(self._address, self._held_bytes)
        self._held_bytes = 0


async def drop(request: Request) -> None:
    """Takes in what is left of a refused request's body, for a moment."""
    if "expect" in request.headers:
        return  # This client waits to be told, and has sent nothing.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (await request.receive()).get("more_body", False):
                pass


def json_answer(body: bytes, status: int = 200) -> Response:
    """A response of JSON text."""
    return Answer(body, status, media_type=JSON)


def too_large(size_bytes: int, bound: int) -> HttpRefused:
    """The refusal of a body that is, or will be, larger than allowed. The rest of it is not read."""
    return HttpRefused(
        413, f"the request's body has {size_bytes} bytes or more, at most {bound} are allowed", {"connection": "close"}
    )


def _too_slow(came_bytes: int, needed_bytes: int, stall_s: float) -> HttpRefused:
    text = (
        f"the request's body stalled after {came_bytes} bytes: "
        f"neither {needed_bytes} more nor its end came within {stall_s:g} s"
    )
    return HttpRefused(408, text, {"connection": "close"})
