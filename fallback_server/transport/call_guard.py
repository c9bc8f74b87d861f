"""The guard as gRPC's services ask it: reads what a call shows of who makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fallback_server.access.certificates import Certificate, CertificateReader
from fallback_server.access.guard import Guard, Shown, rules_without_file
from fallback_server.access.rules import Scope
from fallback_server.access.tokens import bearer_of
from fallback_server.core.errors import ServerError
from fallback_server.transport.callers import passed_by
from fallback_server.transport.rpc import Caller, peer_of
from fallback_server.transport.scopes import SCOPES

AUTHORIZATION = "authorization"

Metadata = Iterable[tuple[str, str | bytes]]

_CERTIFICATE = "x509_pem_cert"
"""gRPC's name for what a client has shown."""


class CallGuard:
    """Any thread may call any method.

    Args:
        guard: Knows who may do what.
        certificates: Whether callers may have shown certificates.
        inference: Whether those are asked who they are that run models, or see them; others always are.

    Attributes:
        guard: See above.
        certificates: See above.
        inference: See above.
    """

    def __init__(self, guard: Guard, *, certificates: bool = False, inference: bool = True) -> None:
        self.guard = guard
        self.inference = inference
        self.certificates = certificates
        self._reader = CertificateReader()

    def asks(self, path: str) -> bool:
        """Whether callers of a method are asked who they are before it is known what of."""
        return any(self.inference or scope is Scope.ADMIN for scope in SCOPES[path])

    def may_begin(self, metadata: Metadata | None, path: str) -> bool:
        """Whether a call is let in by its metadata alone; where connections have certificates, none is.

        Args:
            metadata: Of the call.
            path: Of a method that `asks`.
        """
        if self.certificates:
            return False
        return self.guard.may_any(Shown(token=_token_of(metadata)), SCOPES[path])

    def admit_method(self, caller: Caller, path: str) -> None:
        """Refuses a call of which nothing was read, to whoever may do such with no model at all. Raises as `admit`."""
        for scope in SCOPES[path]:
            self.admit_any(caller, scope, path.rpartition("/")[2])

    def admit(self, caller: Caller, scope: Scope, models: Iterable[str], what: str = "") -> None:
        """See `Guard.admit`."""
        if self.inference or scope is Scope.ADMIN:
            self.guard.admit(self.shown(caller), scope, models, what)

    def admit_any(self, caller: Caller, scope: Scope, what: str) -> None:
        """See `Guard.admit_any`."""
        if self.inference or scope is Scope.ADMIN:
            self.guard.admit_any(self.shown(caller), scope, what)

    def admit_all(self, caller: Caller, scope: Scope, what: str) -> None:
        """See `Guard.admit_all`."""
        if self.inference or scope is Scope.ADMIN:
            self.guard.admit_all(self.shown(caller), scope, what)

    def seen_by(self, caller: Caller) -> Callable[[str], bool]:
        """See `Guard.seen_by`."""
        return self.guard.seen_by(self.shown(caller)) if self.inference else _all

    def sight(self, caller: Caller) -> tuple[object, ...]:
        """See `Guard.sight`."""
        return self.guard.sight(self.shown(caller))

    def is_stranger(self, caller: Caller) -> bool:
        """See `Guard.is_stranger`."""
        return self.inference and self.guard.is_stranger(self.shown(caller))

    def who(self, caller: Caller) -> str:
        """Who calls, for the log."""
        return self.guard.who(self.shown(caller))

    def shown(self, caller: Caller) -> Shown:
        """What a call shows."""
        token = _token_of(caller.invocation_metadata())
        return Shown(token=token, certificate=self.certificate_of(caller), peer=peer_of(caller))

    def certificate_of(self, caller: Caller) -> Certificate | None:
        """The certificate of the connection that a call came over, which may be another process's."""
        if not self.certificates:
            return None
        passed = passed_by(caller.invocation_metadata())
        if passed is not None:
            return passed.certificate
        context: Callable[[], dict[str, Any]] | None = getattr(caller, "auth_context", None)
        shown = None if context is None else context().get(_CERTIFICATE)
        if not shown:
            return None
        found = self._reader.read(shown[0])
        # What TLS has taken and can't be read here is somebody's, and nobody's that any rule names.
        return Certificate(name="", serial="", until_s=float("inf")) if found is None else found


def open_guard(*, control: bool = True) -> CallGuard:
    """One that lets everybody run and see everything.

    Args:
        control: Whether everybody may change what is served as well.
    """
    return CallGuard(Guard(rules_without_file(certified=False, control=control)), inference=False)


def refusal_of(check: Callable[[], object]) -> ServerError | None:
    """Why a check refuses; None where it doesn't."""
    try:
        check()
    except ServerError as error:
        return error.with_traceback(None)
    return None


def _all(name: str) -> bool:
    del name
    return True


def _token_of(metadata: Metadata | None) -> str | None:
    return next((_token(value) for key, value in metadata or () if key == AUTHORIZATION), None)


def _token(value: str | bytes) -> str | None:
    return bearer_of(value.decode("latin-1") if isinstance(value, bytes) else value)
