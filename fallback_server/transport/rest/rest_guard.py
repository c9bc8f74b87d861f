"""The guard as REST asks it: before a request's body is read, by its route and what its head shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from fallback_server.access.certificates import CertificateReader
from fallback_server.access.guard import Guard, Shown
from fallback_server.access.rules import Scope
from fallback_server.access.tokens import bearer_of
from fallback_server.transport.model_facts import all_seen

CERTIFICATE = "fallback_server.certificate"
"""In a request's scope: what its connection has shown, DER."""


class RestGuard:
    """Any thread may call any method.

    Args:
        guard: Knows who may do what.
        inference: Whether those are asked who they are that run models, or see them; others always are.
    """

    def __init__(self, guard: Guard, *, inference: bool = True) -> None:
        self._guard = guard
        self._inference = inference
        self._reader = CertificateReader()

    def admit(self, request: Request, peer: str, scope: Scope, params: Mapping[str, str], *, whole: bool) -> None:
        """Refuses what a caller may not do.

        Args:
            request: As it came.
            peer: Of whom.
            scope: What it is to do.
            params: The parts of the path: `model` where one is named.
            whole: Whether it concerns all models.

        Raises:
            ServerError: see `Guard.admit`.
        """
        if not self._inference and scope is not Scope.ADMIN:
            return
        shown, what = self._shown(request, peer), f"{request.method} {request.url.path}"
        if "model" in params:
            self._guard.admit(shown, scope, [params["model"]])
        elif whole:
            self._guard.admit_all(shown, scope, what)
        else:
            self._guard.admit_any(shown, scope, what)

    def seen_by(self, request: Request, peer: str) -> Callable[[str], bool]:
        """Tells of models' names whether a caller may see them."""
        return self._guard.seen_by(self._shown(request, peer)) if self._inference else all_seen

    def who(self, request: Request, peer: str) -> str:
        """Who calls, for the log."""
        return self._guard.who(self._shown(request, peer))

    def _shown(self, request: Request, peer: str) -> Shown:
        header, der = request.headers.get("authorization"), request.scope.get(CERTIFICATE)
        return Shown(
            token=None if header is None else bearer_of(header),
            certificate=None if der is None else self._reader.read(der),
            peer=peer,
        )


def showing(app: ASGIApp, der: bytes) -> ASGIApp:
    """The application, which is told of each request what its connection has shown."""

    async def shown(scope: AsgiScope, receive: Receive, send: Send) -> None:
        scope[CERTIFICATE] = der
        await app(scope, receive, send)

    return shown
