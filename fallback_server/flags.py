"""The server's flags: one table, and the grammar in which TensorFlow Serving's operators write them. Pure."""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fallback_server.flag_table import FLAGS, REFUSED, Flag, Group, Kind, Value
from fallback_server.local_paths import uri_fault

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_HELP_COLUMN = 4
_HELP_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a command line says.

    Attributes:
        values: Flag name -> value, of the flags that are given.
        arguments: What is no flag, in order.
        faults: What is wrong with it, a line each; the flags at fault are not in `values`.
    """

    values: Mapping[str, Value]
    arguments: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


class Settings:
    """The value of every flag: what is given, else its default. Immutable.

    Args:
        given: Flag name -> value; later mappings win.
        flags: The table of the flags.
    """

    def __init__(self, *given: Mapping[str, Value], flags: Mapping[str, Flag] = FLAGS) -> None:
        self._flags = flags
        self._given = {name: value for values in given for name, value in values.items()}

    def given(self, name: str) -> bool:
        """Whether somebody has set it."""
        return name in self._given

    def integer(self, name: str) -> int:
        """The value of a flag of whole numbers."""
        value = self._value(name)
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """The value of a flag of numbers."""
        value = self._value(name)
        assert isinstance(value, (int, float))
        return float(value)

    def switch(self, name: str) -> bool:
        """The value of a boolean flag."""
        return self._value(name) is True

    def text(self, name: str) -> str:
        """The value of a flag of text; empty where there is none."""
        value = self._value(name)
        return "" if value is None else str(value)

    def path(self, name: str) -> Path | None:
        """The value of a flag that names a file or folder."""
        text = self.text(name)
        return Path(text) if text else None

    def texts(self, name: str) -> tuple[str, ...]:
        """The parts of a flag that is a list."""
        return tuple(part.strip() for part in self.text(name).split(",") if part.strip())

    def _value(self, name: str) -> Value:
        return self._given[name] if name in self._given else self._flags[name].default

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in sorted(self._given.items()))})"


@dataclass(slots=True)
class _Reader:
    """Goes through a command line once."""

    flags: Mapping[str, Flag]
    values: dict[str, Value] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def read(self, argv: Sequence[str]) -> None:
        words = list(argv)
        while words:
            word = words.pop(0)
            if word in ("-h", "--help"):
                self.values["help"] = True
            elif not word.startswith("--"):
                self.arguments.append(word)
            else:
                self._flag(word, words)

    def _flag(self, word: str, words: list[str]) -> None:
        written, equals, text = word[2:].partition("=")
        name = written.replace("-", "_")
        flag = self.flags.get(name)
        if flag is None:
            self._other(written, name, negated=not equals)
            return
        value: str | None = text if equals else None
        if value is None and flag.kind is not Kind.BOOL:
            if not words or words[0].startswith("--"):
                self.faults.append(f"--{name} needs a value: --{name}={flag.shape}")
                return
            value = words.pop(0)
        self._take(flag, "true" if value is None else value)

    def _take(self, flag: Flag, text: str) -> None:
        try:
            self.values[flag.name] = parse_value(flag, text)
        except ValueError as error:
            self.faults.append(str(error))

    def _other(self, written: str, name: str, *, negated: bool) -> None:
        """A word that is no flag's name: a boolean turned off, or a fault."""
        off = self.flags.get(re.sub(r"^no_?", "", name)) if name.startswith("no") else None
        if off is None or off.kind is not Kind.BOOL:
            self.faults.append(unknown(name, self.flags))
        elif not negated:
            self.faults.append(f"--{written} takes no value; write --{off.name}=false")
        else:
            self._take(off, "false")


def parse(argv: Iterable[str], *, flags: Mapping[str, Flag] = FLAGS) -> Parsed:
    """Reads a command line: `--flag=value`, `--flag value`, `--switch`, `--switch=false`, `--noswitch`, `--no-switch`.

    Names may be written with underscores or hyphens. A flag that is given twice has its last value, as in TensorFlow
    Serving. Nothing is raised: all faults are in the result.
    """
    reader = _Reader(flags)
    reader.read(list(argv))
    return Parsed(reader.values, tuple(reader.arguments), tuple(reader.faults))


def parse_value(flag: Flag, text: str) -> Value:
    """A flag's value out of its text.

    Raises:
        ValueError: it is none; the text says flag, what is expected, and what was given.
    """
    value: Value = text
    if flag.kind is Kind.BOOL:
        found = _BOOLEANS.get(text.lower())
        if found is None:
            raise ValueError(f"--{flag.name} must be true or false, got {text!r}")
        value = found
    elif flag.kind is Kind.INT:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):
            raise ValueError(f"--{flag.name} must be a whole number, got {text!r}")
        value = int(text)
    elif flag.kind is Kind.FLOAT:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"--{flag.name} must be a number, got {text!r}") from None
    return check_value(flag, value)


def check_value(flag: Flag, value: Any) -> Value:
    """A flag's value as a file gives it: of the right type, and one that is allowed.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, list) and flag.kind is Kind.LIST and all(isinstance(item, (int, str)) for item in value):
        value = ",".join(map(str, value))
    if flag.kind is Kind.FLOAT and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not flag.kind.type:
        raise ValueError(f"--{flag.name} must be {flag.kind.value}, got {value!r}")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"--{flag.name} must be a number, got nan")
    if flag.kind is Kind.PATH and (fault := uri_fault(str(value))):
        raise ValueError(f"--{flag.name}: {fault}")
    if flag.choices and value not in flag.choices:
        raise ValueError(f"--{flag.name} must be one of {', '.join(flag.choices)}, got {value!r}")
    if flag.only is not None and value is not flag.only[0]:
        raise ValueError(f"--{flag.name}={str(value).lower()} is not what this server can do: {flag.only[1]}")
    assert isinstance(value, (bool, int, float, str))
    return value


def unknown(name: str, flags: Iterable[str] = FLAGS) -> str:
    """Why a name is refused: TensorFlow Serving has it and we don't, or nobody does; then the nearest one is told."""
    if name in REFUSED:
        return f"--{name} is TensorFlow Serving's, and not one that this server has: {REFUSED[name]}"
    nearest = difflib.get_close_matches(name, flags, n=1, cutoff=0.7)
    return f"--{name} is no flag" + (f"; did you mean --{nearest[0]}?" if nearest else "; --help lists them")


def help_text(program: str) -> str:
    """All flags by group, with their defaults; those that TensorFlow Serving has too are marked."""
    lines = [
        f"usage: {program} [FLAGS]                          serves",
        f"       {program} check [FILE.toml] [FLAGS]        validates, and serves nothing",
        f"       {program} status HOST:PORT [MODEL...]      shows what a server serves",
        f"       {program} reload HOST:PORT                 has it read its configuration again",
        f"       {program} label HOST:PORT MODEL LABEL=VERSION",
        f"       {program} split HOST:PORT MODEL VERSION=WEIGHT...",
        f"       {program} rollback HOST:PORT MODEL [--label=LABEL | --undo]",
        f"       {program} pki init|issue|revoke|list       certificates of an own authority",
        f"       {program} token add|list|remove            tokens of clients without a certificate",
        "",
        "Serves SavedModels over TensorFlow Serving's API, and announces itself by mDNS.",
        "Exit code: 0 stopped by a signal, or done; 1 a server that was asked refuses, or can't be reached; 2 a flag,",
        "a file, a directory or the address is at fault.",
        "Names may be written with underscores or hyphens; * marks flags that TensorFlow Serving has too.",
    ]
    for group in Group:
        lines += ["", f"{group.value}:"]
        for flag in FLAGS.values():
            if flag.group is group:
                lines += _help_of(flag)
    return "\n".join(lines)


def _help_of(flag: Flag) -> list[str]:
    mark = "*" if flag.serving else " "
    shape = "" if flag.kind is Kind.BOOL else f"={flag.shape}"
    default = "" if flag.default in (None, "") else f" (default: {_shown(flag.default)})"
    indent = " " * _HELP_COLUMN * 2
    text = textwrap.wrap(flag.help + default, _HELP_WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [f"  {mark} --{flag.name}{shape}", *text]


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
