"""Turns what a call shows into a principal, and refuses what that may not do. Knows no transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from fallback_server.access.attempts import Attempts, Reason
from fallback_server.access.certificates import Certificate
from fallback_server.access.revocations import Trust
from fallback_server.access.rules import (
    EVERYBODY,
    EVERYTHING,
    MAX_NAME_CHARS,
    AccessRules,
    Grants,
    Kind,
    Principal,
    Scope,
    allows_all,
    allows_any,
    sight,
)
from fallback_server.access.tokens import digest_of
from fallback_server.core.errors import PermissionDenied, ServerError, Unauthenticated
from fallback_server.core.printable import quoted

MAX_DECISIONS = 8192
"""That need not be made anew."""

_HINT = "show a token (authorization: Bearer TOKEN) or a client certificate that allows it"


_ADMIN_HINT = (
    "; commands on the server's machine find its token as its user, or by --token_file "
    "(--allow_remote_control lets everybody)"
)


class Shown(NamedTuple):
    """What a call shows of who makes it.

    Attributes:
        token: A bearer's; None for none.
        certificate: Of the connection; None for none.
        peer: Where it comes from, as the transport says: `ipv4:10.0.0.7:51234`.
    """

    token: str | None = None
    certificate: Certificate | None = None
    peer: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    """All that decides. Replaced whole."""

    rules: AccessRules
    trust: Trust
    number: int = 0
    principals: dict[tuple[Kind, str], Principal] = field(default_factory=dict)
    decisions: dict[tuple[Kind, str, Scope, str], bool] = field(default_factory=dict)
    sights: dict[tuple[Kind, str], tuple[object, ...]] = field(default_factory=dict)


class Guard:
    """Any thread may call any method, and none blocks.

    Args:
        rules: Who may do what.
        trust: Which certificates count.
        attempts: Is told of what is refused.
        wall: Seconds since 1970: certificates end by that.

    Attributes:
        attempts: See above.
        local: The digest of the operator's token on this machine; empty for none.
    """

    def __init__(
        self,
        rules: AccessRules,
        *,
        trust: Trust | None = None,
        attempts: Attempts | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.attempts = Attempts() if attempts is None else attempts
        self.local = ""
        self._wall = wall
        self._state = _State(rules, Trust() if trust is None else trust)

    @property
    def rules(self) -> AccessRules:
        """Those that hold."""
        return self._state.rules

    @property
    def trust(self) -> Trust:
        """Which certificates count."""
        return self._state.trust

    @property
    def number(self) -> int:
        """How often something else has come into force."""
        return self._state.number

    def take(self, rules: AccessRules, trust: Trust) -> None:
        """From now on these hold, for whatever comes and for what streams ask next."""
        self._state = _State(rules, trust, self._state.number + 1)

    def admit(self, shown: Shown, scope: Scope, models: Iterable[str], what: str = "") -> None:
        """Refuses what a caller may not do.

        Args:
            shown: By the call.
            scope: What it is to do.
            models: With which models.
            what: As the caller named it, for messages.

        Raises:
            Unauthenticated: nothing was shown that is known, and everybody may not.
            PermissionDenied: the caller is known, and may not.
        """
        state = self._state
        principal, lack = self._identified(state, shown)
        for model in models:
            if not self._allowed(state, principal, scope, model):
                # A name that is empty is nobody's; whoever may do it with any model is told what is wrong with it.
                if not model and allows_any(principal, scope):
                    continue
                raise self._refusal(shown, principal, lack, scope, f"{_doing(scope, what)} model {quoted(model)}")

    def admit_any(self, shown: Shown, scope: Scope, what: str) -> None:
        """Refuses what concerns no model in particular, to whoever may do such with none. Raises as `admit`."""
        principal, lack = self._identified(self._state, shown)
        if not allows_any(principal, scope):
            raise self._refusal(shown, principal, lack, scope, f"{_doing(scope, what)} any model")

    def may_any(self, shown: Shown, scopes: Iterable[Scope]) -> bool:
        """Whether there is, for each of the scopes, a model with which a caller may do such; refuses nobody."""
        principal, _ = self._identified(self._state, shown)
        return all(allows_any(principal, scope) for scope in scopes)

    def admit_all(self, shown: Shown, scope: Scope, what: str) -> None:
        """Refuses what concerns all models, to whoever may not do such with every one. Raises as `admit`."""
        state = self._state
        principal, lack = self._identified(state, shown)
        if not allows_all(state.rules, principal, scope):
            raise self._refusal(shown, principal, lack, scope, f"{_doing(scope, what)} all models")

    def seen_by(self, shown: Shown) -> Callable[[str], bool]:
        """Tells of models' names whether a caller may see them.

        Raises:
            Unauthenticated: the caller's certificate is worth nothing any more.
        """
        state = self._state
        principal, _ = self._identified(state, shown)
        return lambda model: self._allowed(state, principal, Scope.STATUS, model)

    def sight(self, shown: Shown) -> tuple[object, ...]:
        """What a caller sees of models, as a key: equal ones see the same. Raises as `seen_by`."""
        state = self._state
        principal, _ = self._identified(state, shown)
        key = principal.kind, principal.name
        found = state.sights.get(key)
        if found is None:
            if len(state.sights) >= MAX_DECISIONS:
                state.sights.clear()
            # Of other rules it is another key, whatever is in it.
            found = state.sights[key] = (state.number, *sight(state.rules, principal))
        return found

    def is_stranger(self, shown: Shown) -> bool:
        """Whether a caller shows nothing that counts, where others may."""
        state = self._state
        if not (state.rules.tokens or state.rules.certificates):
            return False
        try:
            principal, _ = self._identified(state, shown)
        except ServerError:
            return True
        return principal.kind is Kind.ANONYMOUS

    def who(self, shown: Shown) -> str:
        """Who calls, for the log: the address, and by what it is known."""
        principal, _ = self._identified(self._state, shown)
        return shown.peer if principal.kind is Kind.ANONYMOUS else f"{principal}, {shown.peer}"

    def _identified(self, state: _State, shown: Shown) -> tuple[Principal, Reason]:
        """Who calls; and why it is nobody in particular, where it is nobody."""
        lack = Reason.NOTHING_SHOWN
        if shown.certificate is not None:
            self._check_certificate(state, shown.certificate, shown)
        if shown.token is not None:
            digest = digest_of(shown.token)
            if self.local and digest == self.local:
                return _OPERATOR, lack
            found = self._known(state, Kind.TOKEN, digest, state.rules.bearer)
            if found is not None:
                return found, Reason.NOT_ALLOWED
            lack = Reason.UNKNOWN_TOKEN
        if shown.certificate is not None and shown.certificate.name:
            found = self._known(state, Kind.CERTIFICATE, shown.certificate.name, state.rules.certified)
            assert found is not None
            return found, Reason.NOT_ALLOWED
        return state.rules.nobody(), lack

    def _check_certificate(self, state: _State, certificate: Certificate, shown: Shown) -> None:
        lack = state.trust.lack(certificate, self._wall())
        if lack is None:
            return
        reason, why = lack
        text = f"certificate {quoted(certificate.name)}, number {certificate.serial}, {why}"
        self.attempts.note(reason, _place(shown.peer), text)
        raise Unauthenticated(text)

    @staticmethod
    def _known(state: _State, kind: Kind, key: str, find: Callable[[str], Principal | None]) -> Principal | None:
        found = state.principals.get((kind, key))
        if found is None and (found := find(key)) is not None:
            if len(state.principals) >= MAX_DECISIONS:
                state.principals.clear()
            state.principals[kind, key] = found
        return found

    @staticmethod
    def _allowed(state: _State, principal: Principal, scope: Scope, model: str) -> bool:
        key = principal.kind, principal.name, scope, model
        known = state.decisions.get(key)
        if known is None:
            known = state.rules.allows(principal, scope, model)
            if len(model) <= MAX_NAME_CHARS:
                if len(state.decisions) >= MAX_DECISIONS:
                    state.decisions.clear()
                state.decisions[key] = known
        return known

    def _refusal(self, shown: Shown, principal: Principal, lack: Reason, scope: Scope, what: str) -> ServerError:
        error: ServerError
        hint = _HINT + (_ADMIN_HINT if scope is Scope.ADMIN else "")
        if principal.kind is not Kind.ANONYMOUS:
            reason, error = Reason.NOT_ALLOWED, PermissionDenied(f"{principal} may not {what}")
        elif lack is Reason.UNKNOWN_TOKEN:
            reason, error = lack, Unauthenticated(f"the token that was shown is not known here; to {what}, {hint}")
        else:
            reason, error = lack, Unauthenticated(f"{principal} may not {what}: {hint}")
        self.attempts.note(reason, _place(shown.peer), str(error))
        return error


_OPERATOR = Principal(name="", kind=Kind.LOCAL, grants=Grants(predict=EVERYTHING, status=EVERYTHING, admin=EVERYTHING))


def rules_without_file(*, certified: bool, control: bool) -> AccessRules:
    """The rules where no file gives any.

    Args:
        certified: Whether callers must show a certificate; then that is what lets them in, and every valid one does.
        control: Whether callers who show nothing may change what is served.
    """
    if certified:
        return with_control(AccessRules(certificates={"*": EVERYBODY}), control=control)
    return with_control(AccessRules(anonymous=EVERYBODY), control=control)


def with_control(rules: AccessRules, *, control: bool) -> AccessRules:
    """The rules, and that everybody may change what is served, where that was said."""
    if not control:
        return rules
    return AccessRules(
        anonymous=rules.anonymous.with_(Grants(admin=EVERYTHING)),
        tokens=rules.tokens,
        certificates=rules.certificates,
        only=rules.only,
    )


def _doing(scope: Scope, what: str) -> str:
    verb = {Scope.PREDICT: "run", Scope.STATUS: "see", Scope.ADMIN: "change"}[scope]
    return f"{verb}{f' ({what})' if what else ''}"


def _place(peer: str) -> str:
    """Where a call comes from, without the port."""
    return peer.rpartition(":")[0] or peer
