"""Who may do what. Pure: rules go in as they are, and never change; a file of them is read in `file.py`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_NAME_CHARS = 128
"""Of a token, a certificate, a model or a pattern in the rules."""

EVERYTHING = ("*",)
"""The patterns that every name matches."""


class Scope(enum.Enum):
    """What may be allowed; the value is its key in the file."""

    __hash__ = object.__hash__  # Each is one object; Enum's own hashes the name anew, at each look into a table.

    PREDICT = "predict"
    STATUS = "status"
    ADMIN = "admin"


class Kind(enum.Enum):
    """By what a caller is known."""

    __hash__ = object.__hash__  # As above.

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105  a kind, and no secret
    LOCAL = "local"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grants:
    """Names of models by what may be done with them: patterns, in which a star stands for any characters.

    Attributes:
        predict: Models that may be run.
        status: Models that may be seen.
        admin: Models that may be changed.
    """

    predict: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()

    def patterns(self, scope: Scope) -> tuple[str, ...]:
        """Those of a scope."""
        if scope is Scope.PREDICT:  # No table: this is asked for at each call, and hashing a scope takes longer.
            return self.predict
        return self.status if scope is Scope.STATUS else self.admin

    def with_(self, other: Grants) -> Grants:
        """What either allows."""
        return Grants(
            predict=_joined(self.predict, other.predict),
            status=_joined(self.status, other.status),
            admin=_joined(self.admin, other.admin),
        )


NOTHING = Grants()
EVERYBODY = Grants(predict=EVERYTHING, status=EVERYTHING)
"""What callers may do where nobody is told apart, as with TensorFlow Serving."""


def key_of(kind: Kind, name: str) -> str:
    """By which somebody is known where tokens and certificates stand side by side: `token:NAME`."""
    return f"{kind.value}:{name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        name: As the rules have it; empty for whoever shows nothing.
        kind: By what that is known.
        grants: What the rules allow it.
    """

    name: str
    kind: Kind
    grants: Grants

    @property
    def key(self) -> str:
        """Under which models' own rules know it."""
        return key_of(self.kind, self.name)

    def __str__(self) -> str:
        if self.kind is Kind.ANONYMOUS:
            return "a caller who shows nothing"
        return "the operator of this machine" if self.kind is Kind.LOCAL else f"{self.kind.value} {self.name!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One that the rules know.

    Attributes:
        name: Whose.
        grants: What it allows.
    """

    name: str
    grants: Grants = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessRules:
    """All rules.

    Attributes:
        anonymous: What callers may do who show nothing; whoever shows something may do that too.
        tokens: By the SHA-256 of each, in hex.
        certificates: By patterns of the names in clients' certificates; of several that match all hold.
        only: By model: those who may do anything with it, as `key_of` has them. Others may not, whatever else is said.
    """

    anonymous: Grants = NOTHING
    tokens: Mapping[str, Token] = field(default_factory=dict)
    certificates: Mapping[str, Grants] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether everybody may run and see every model, so that nobody need be asked who calls."""
        return not self.only and all("*" in self.anonymous.patterns(scope) for scope in (Scope.PREDICT, Scope.STATUS))

    def nobody(self) -> Principal:
        """Whoever shows nothing."""
        return Principal(name="", kind=Kind.ANONYMOUS, grants=self.anonymous)

    def bearer(self, digest: str) -> Principal | None:
        """Whose token has that SHA-256, in hex; None where the rules know none."""
        token = self.tokens.get(digest)
        if token is None:
            return None
        return Principal(name=token.name, kind=Kind.TOKEN, grants=token.grants.with_(self.anonymous))

    def certified(self, name: str) -> Principal:
        """Who shows a certificate of that name, which was verified."""
        grants = self.anonymous
        for pattern, more in self.certificates.items():
            if matches(pattern, name):
                grants = grants.with_(more)
        return Principal(name=name, kind=Kind.CERTIFICATE, grants=grants)

    def allows(self, principal: Principal, scope: Scope, model: str) -> bool:
        """Whether somebody may do something with a model."""
        if principal.kind is Kind.LOCAL:
            return True
        only = self.only.get(model)
        if only is not None and (principal.kind is Kind.ANONYMOUS or principal.key not in only):
            return False
        return any(matches(pattern, model) for pattern in principal.grants.patterns(scope))


def sight(rules: AccessRules, principal: Principal) -> tuple[object, ...]:
    """What a caller sees of models, as a key: whose keys are equal, see the same. A fleet has few of them."""
    if principal.kind is Kind.LOCAL:
        return (Kind.LOCAL,)
    named = principal.kind is not Kind.ANONYMOUS
    let_in = (model for model, only in rules.only.items() if named and principal.key in only)
    return (principal.grants.status, frozenset(let_in))


def allows_all(rules: AccessRules, principal: Principal, scope: Scope) -> bool:
    """Whether somebody may do what concerns every model: also those that have rules of their own."""
    if principal.kind is Kind.LOCAL:
        return True
    return "*" in principal.grants.patterns(scope) and all(rules.allows(principal, scope, each) for each in rules.only)


def allows_any(principal: Principal, scope: Scope) -> bool:
    """Whether there are models at all with which somebody may do something."""
    return principal.kind is Kind.LOCAL or bool(principal.grants.patterns(scope))


def matches(pattern: str, name: str) -> bool:
    """Whether a name is as a pattern says, in which a star stands for any characters, or none.

    In a time that grows with the product of both lengths at most: names come from callers.
    """
    first, *others = pattern.split("*")
    if not others:
        return pattern == name
    *middle, last = others
    begin, end = len(first), len(name) - len(last)
    if end < begin or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        found = name.find(part, begin, end)
        if found < 0:
            return False
        begin = found + len(part)
    return True


def _joined(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))
