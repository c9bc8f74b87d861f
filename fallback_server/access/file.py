"""Reads and edits the file of access rules: TOML, in which what is not known is refused by its name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallback_server.access.rules import (
    MAX_NAME_CHARS,
    NOTHING,
    AccessRules,
    Grants,
    Kind,
    Scope,
    Token,
    key_of,
    matches,
)
from fallback_server.config import ConfigInvalid
from fallback_server.private_files import write_private
from fallback_server.text_file import parse_toml, read_text

MAX_CHARS = 2**21
"""Of a file, which takes a second or two to read then. Ten thousand tokens take half."""

MAX_ENTRIES = 10_000
"""Of tokens, names of certificates, and rules of models, each."""

MAX_PATTERNS = 1_000
"""In one list."""

MAX_COMPARED = 1_000_000
"""Names below `only` times patterns of certificates: it takes a second or two to hold so many against each other."""

_NAMED = 20
"""Of models in a refusal."""

_PREFIX_CHARS = len(key_of(Kind.CERTIFICATE, ""))

_SCOPES = tuple(scope.value for scope in Scope)
_TABLES = ("anonymous", "tokens", "certificates", "models")
_SHA256 = re.compile("[0-9a-f]{64}")
_HEADER = re.compile(r"\s*\[")
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Named:
    """Whom a file names otherwise.

    Args:
        tokens: The names of its tokens.
        certificates: The patterns of certificates' names.
    """

    def __init__(self, tokens: Iterable[str], certificates: Iterable[str]) -> None:
        self.tokens = frozenset(tokens)
        self._certificates = frozenset(certificates)
        self._patterns = [each for each in self._certificates if "*" in each]
        self._known: dict[str, bool] = {}

    def may_be_certificate(self, token: str) -> bool:
        """Whether a certificate may have a token's name: also where it would take too long to find out."""
        found = self._known.get(token)
        if found is None:
            found = token in self._certificates or (len(self._known) + 1) * len(self._patterns) > MAX_COMPARED
            found = self._known[token] = found or any(matches(each, token) for each in self._patterns)
        return found


class _Faults:
    """Gathers what is wrong, so that one fault doesn't hide the others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[str] = []

    def add(self, where: str, text: str) -> None:
        self.lines.append(f"{self._path}: {where} {text}")


def read_access(path: Path) -> AccessRules:
    """The rules in a file.

    Raises:
        ConfigInvalid: with all that is wrong with it.
    """
    return parse_access(read_text(path), path)


def parse_access(text: str, path: Path) -> AccessRules:
    """The rules in the text of a file.

    Args:
        text: TOML.
        path: The file's, for messages.

    Raises:
        ConfigInvalid: with all that is wrong with it, or it is too long.
    """
    if len(text) > MAX_CHARS:
        raise ConfigInvalid(f"{path}: has {len(text)} characters, at most {MAX_CHARS} are read")
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    faults = _Faults(path)
    for name in document.keys() - set(_TABLES):
        faults.add(_shown(name), f"is not known; there are {', '.join(_TABLES)}")
    anonymous = document.get("anonymous", {})
    tokens = _tokens(_table(document, "tokens", faults), faults)
    certificates = {
        name: _grants(f"[certificates.{_shown(name)}]", table, faults)
        for name, table in _table(document, "certificates", faults).items()
    }
    named = _Named((token.name for token in tokens.values()), certificates)
    rules = AccessRules(
        anonymous=_grants("[anonymous]", anonymous, faults),
        tokens=tokens,
        certificates=certificates,
        only={
            name: _only(f"[models.{_shown(name)}]", table, named, faults)
            for name, table in _table(document, "models", faults).items()
        },
    )
    if faults.lines:
        raise ConfigInvalid(*faults.lines)
    return rules


def add_token(path: Path, name: str, digest: str, grants: Grants) -> None:
    """Adds a token to a file, which is made where there is none; what else it holds stays as it is.

    Raises:
        ConfigInvalid: the file is at fault, has a token of that name, or has the name below `only` by itself, where it
            means the certificate of that name and would mean the token.
        OSError: it can't be written.
    """
    if len(name) > MAX_NAME_CHARS or not _TOKEN_NAME.fullmatch(name):
        raise ConfigInvalid(
            f"a token's name must begin with a letter or digit, hold letters, digits and ._- alone, and have at most "
            f"{MAX_NAME_CHARS} characters, got {_shown(name)}"
        )
    with _editing(path) as text:
        if any(token.name == name for token in parse_access(text, path).tokens.values()):
            raise ConfigInvalid(f"{path} has a token {name} already: remove that first, or give another name")
        if models := _naming(text, name):
            raise ConfigInvalid(
                f"{path}: {name} is named below only of {models}, where it means the certificate of that name and "
                f"would mean the token: write 'certificate:{name}', 'token:{name}' or both there, or give another name"
            )
        lines = [f'[tokens."{name}"]', f'sha256 = "{digest}"']
        listed = {scope.value: json.dumps(list(grants.patterns(scope)), ensure_ascii=False) for scope in Scope}
        lines += [f"{scope} = {patterns}" for scope, patterns in listed.items() if patterns != "[]"]
        before = text if not text or text.endswith("\n") else text + "\n"
        added = "\n".join([*([before] if before else []), *lines, ""])
        if digest not in parse_access(added, path).tokens:
            raise ConfigInvalid(f"{path}: the token can't be added at its end; write it by hand: {' '.join(lines)}")
        write_private(path, added.encode(), keep=True)


def remove_token(path: Path, name: str) -> None:
    """Removes a token from a file.

    Raises:
        ConfigInvalid: the file is at fault, has no such token, names it below `only` where the name would mean a
            certificate then, or has it written in a way that only a person can undo.
        OSError: it can't be written.
    """
    with _editing(path) as text:
        before = parse_access(text, path)
        left = {digest: token for digest, token in before.tokens.items() if token.name != name}
        if len(left) == len(before.tokens):
            there = ", ".join(sorted(token.name for token in before.tokens.values())) or "none"
            raise ConfigInvalid(f"{path} has no token {_shown(name)}; there is: {there}")
        if models := _naming(text, name):
            raise ConfigInvalid(
                f"{path}: {_shown(name)} is named below only of {models}, where it would mean the certificate of that "
                f"name without the token: take it out there first, or write 'token:{name}'"
            )
        after = _without(text, name)
        try:
            same = parse_access(after, path) == replace(before, tokens=left)
        except ConfigInvalid:
            same = False
        if not same:
            raise ConfigInvalid(f"{path}: token {_shown(name)} is not written as a table: take it out by hand")
        write_private(path, after.encode(), keep=True)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[str]:
    """The file's text, which nobody else edits by the same means meanwhile; empty where there is no file."""
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield read_text(path) if path.exists() else ""
    finally:
        os.close(folder)


def _naming(text: str, name: str) -> str:
    """The models whose `only` has a name by itself, for messages; empty for none."""
    models = [model for model, table in parse_toml(text).get("models", {}).items() if name in table["only"]]
    shown = ", ".join(map(_shown, models[:_NAMED]))
    return f"{shown} and {len(models) - _NAMED} more" if len(models) > _NAMED else shown


def _without(text: str, name: str) -> str:
    """A file's text without the table of a token, its header and all lines up to the next one but comments above it."""
    header = re.compile(rf"""\s*\[\s*tokens\s*\.\s*(["']?){re.escape(name)}\1\s*\]\s*(#.*)?""")
    kept: list[str] = []
    above: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if header.fullmatch(line.rstrip("\r\n")):
            inside = True
        elif _HEADER.match(line):
            if inside:
                kept += above
            inside = False
        if not inside:
            kept.append(line)
        above = [*above, line] if inside and line.lstrip().startswith("#") else []
    if inside and kept and not kept[-1].strip():
        kept.pop()  # The line that `add_token` has left before it.
    return "".join(kept)


def _table(document: Mapping[str, Any], name: str, faults: _Faults) -> Mapping[str, Any]:
    """The tables below one, by their names, which are checked."""
    table = document.get(name, {})
    if not isinstance(table, dict):
        faults.add(f"[{name}]", f"must be tables [{name}.NAME], got {_shown(table)}")
        return {}
    if len(table) > MAX_ENTRIES:
        faults.add(f"[{name}]", f"has {len(table)} entries, at most {MAX_ENTRIES} are read")
        return {}
    for entry in table:
        if not 0 < len(entry) <= MAX_NAME_CHARS:
            faults.add(f"[{name}.{_shown(entry)}]", f"must have from 1 to {MAX_NAME_CHARS} characters in its name")
    return table


def _tokens(tables: Mapping[str, Any], faults: _Faults) -> dict[str, Token]:
    tokens: dict[str, Token] = {}
    for name, table in tables.items():
        where = f"[tokens.{_shown(name)}]"
        digest = table.get("sha256") if isinstance(table, dict) else None
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            faults.add(where, "needs sha256: 64 hexadecimal digits, in small letters; `token add` writes it")
            continue
        if digest in tokens:
            faults.add(where, f"has the same sha256 as [tokens.{_shown(tokens[digest].name)}]")
        rest = {key: value for key, value in table.items() if key != "sha256"}
        tokens[digest] = Token(name=name, grants=_grants(where, rest, faults))
    return tokens


def _grants(where: str, table: Any, faults: _Faults) -> Grants:
    if not isinstance(table, dict):
        faults.add(where, f"must be a table, got {_shown(table)}")
        return NOTHING
    for key in table.keys() - set(_SCOPES):
        faults.add(f"{where} {_shown(key)}", f"is not known; there are {', '.join(_SCOPES)}")
    return Grants(**{scope: _names(f"{where} {scope}", table[scope], faults) for scope in _SCOPES if scope in table})


def _only(where: str, table: Any, named: _Named, faults: _Faults) -> tuple[str, ...]:
    if not isinstance(table, dict) or "only" not in table:
        faults.add(where, "needs only: the names of the tokens and certificates that may use the model")
        return ()
    for key in table.keys() - {"only"}:
        faults.add(f"{where} {_shown(key)}", "is not known; there is only")
    names = _names(f"{where} only", table["only"], faults)
    # Elsewhere a star stands for anything; here it would keep nobody out, or let nobody in.
    for name in (where, *names):
        if "*" in name:
            faults.add(where, f"takes names alone, no patterns, got {_shown(name)}")
    return tuple(_who(where, name, named, faults) for name in names)


def _who(where: str, name: str, named: _Named, faults: _Faults) -> str:
    """Who is meant by a name below `only`: a token or a certificate, as it says, or as it is the one or the other."""
    for kind in (Kind.TOKEN, Kind.CERTIFICATE):
        if name.startswith(f"{kind.value}:"):
            return name
    if name not in named.tokens:
        return key_of(Kind.CERTIFICATE, name)
    if named.may_be_certificate(name):
        faults.add(
            where,
            f"names {_shown(name)}, which is a token and may be a certificate: write 'token:{name}', "
            f"'certificate:{name}' or both",
        )
    return key_of(Kind.TOKEN, name)


def _names(where: str, value: Any, faults: _Faults) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        faults.add(where, f"must be a list of texts, got {_shown(value)}")
        return ()
    if len(value) > MAX_PATTERNS:
        faults.add(where, f"has {len(value)} entries, at most {MAX_PATTERNS} are read")
    for each in value:
        if not 0 < len(each) <= MAX_NAME_CHARS + _PREFIX_CHARS * where.endswith(" only"):
            faults.add(where, f"must be names of 1 to {MAX_NAME_CHARS} characters, got {_shown(each)}")
    return tuple(value)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]+", value) else repr(value)
    return text if len(text) <= MAX_NAME_CHARS else f"{text[:MAX_NAME_CHARS]}..."
