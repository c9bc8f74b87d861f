"""One HTTP request while it is answered: its path's parts, its body, and the response."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fallback_server.core.errors import InvalidInput
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.transport.rest.backend import Backend
from fallback_server.transport.rest.refusals import JSON, HttpRefused

CLIENT_HEADER = "x-client-id"
"""Requests with one value of it go to one version, where a model's traffic is split."""

_MAX_VERSION = 2**63 - 1
_CHUNK_BYTES = 2**20


class Answer(Response):
    """A response whose large body is sent in pieces, none of them a copy of the whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        if len(self.body) <= _CHUNK_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for begin in range(0, len(body), _CHUNK_BYTES):
            piece = body[begin : begin + _CHUNK_BYTES]
            await send(
                {"type": "http.response.body", "body": bytes(piece), "more_body": begin + len(piece) < len(body)}
            )


class Exchange:
    """A request and what answers it.

    Attributes:
        request: As it came.
        params: The parts of the path that are no fixed text, decoded.
        deadline_s: The instant, of the data plane's clock, at which nobody waits any more.
    """

    def __init__(
        self, request: Request, params: Mapping[str, str], backend: Backend, *, deadline_s: float | None
    ) -> None:
        self.request = request
        self.params = params
        self.deadline_s = deadline_s
        self._backend = backend
        self._held_bytes = 0

    @property
    def client_key(self) -> bytes:
        """Who asks. Without the header it is of this request alone, so that asking twice means one version."""
        header = self.request.headers.get(CLIENT_HEADER)
        return secrets.token_bytes(8) if not header else header.encode("latin-1")

    def target(self) -> ModelTarget:
        """Which version the path names.

        Raises:
            InvalidInput: the version is no int64.
        """
        version = self.params.get("version")
        if version is not None and int(version) > _MAX_VERSION:
            raise InvalidInput(f"Failed to convert version: {version} to numeric.")
        return ModelTarget(
            name=self.params["model"],
            version=None if version is None else int(version),
            label=self.params.get("label"),
        )

    async def body(self) -> bytearray:
        """The request's body, unpacked where it came compressed.

        Raises:
            HttpRefused: too large, or in an encoding that is unknown.
            QueueFull: too much is held of all requests together.
            InvalidInput: it can't be unpacked.
        """
        bound = self._backend.max_body_bytes
        encoding = self.request.headers.get("content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise HttpRefused(415, f"Content-Encoding {encoding} is not one of gzip, deflate, identity")
        length = self.request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > bound:
            raise too_large(int(length), bound)
        body = bytearray()
        async for chunk in self.request.stream():
            if len(body) + len(chunk) > bound:
                raise too_large(len(body) + len(chunk), bound)
            self._backend.hold(len(chunk))
            self._held_bytes += len(chunk)
            body += chunk
        if encoding == "identity":
            return body
        return await self._backend.work(len(body), _unpacked, body, bound)

    async def predict(self, call: PredictCall) -> PredictReply:
        """See `Backend.predict`."""
        return await self._backend.predict(call, self.request)

    def close(self) -> None:
        """The body is no longer held."""
        self._backend.let_go(self._held_bytes)
        self._held_bytes = 0


def json_answer(body: bytes, status: int = 200) -> Response:
    """A response of JSON text."""
    return Answer(body, status, media_type=JSON)


def too_large(size_bytes: int, bound: int) -> HttpRefused:
    """The refusal of a body that is, or will be, larger than allowed. The rest of it is not read."""
    return HttpRefused(
        413, f"the request's body has {size_bytes} bytes or more, at most {bound} are allowed", {"connection": "close"}
    )


def _unpacked(body: bytearray, bound: int) -> bytearray:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # the header says whether it is gzip or zlib
    try:
        data = unpacker.decompress(body, bound + 1)
    except zlib.error as error:
        raise InvalidInput(f"the request's body can't be unpacked: {error}") from error
    if len(data) > bound:
        raise too_large(len(data), bound)
    if not unpacker.eof:
        raise InvalidInput("the request's body can't be unpacked: it ends too early")
    return bytearray(data)
