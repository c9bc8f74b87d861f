"""What an application and its worker processes say to each other.

A message is a header of fixed size over a socket pair that keeps messages apart (`SOCK_SEQPACKET`). What is longer than
a header lies in the sender's arena (see `shared`), and the header says where: the *table*, one of the structures below
in MessagePack. A run with shapes that were seen before has no table in either direction.

| kind | from | table | means |
|---|---|---|---|
| READY | worker | - | it has loaded what it needs |
| OPEN | application | `SessionSpec` | open a session; a second message carries the file's descriptor |
| OPENED | worker | `Opened` | it is open |
| RUN | application | `Call` or none | run on arrays in the arena, laid out as in the table or in an earlier one |
| RAN | worker | `Layout` or none | the results are in the arena, laid out as in the table, or as last time |
| FAILED | worker | `Fault` | what was asked for failed |
| CLOSE | application | - | let go of a session; nothing is answered |
"""

from __future__ import annotations

import struct
import traceback
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import msgspec

from converter.artifact import Signature
from edge_runtime.engine.shared import Layout
from edge_runtime.errors import (
    EdgeRuntimeError,
    EngineFailed,
    EngineLost,
    InvalidConfig,
    InvalidInput,
    PackageRefused,
)

READY, OPEN, OPENED, RUN, RAN, FAILED, CLOSE = range(1, 8)

_HEADER = struct.Struct("<IIIIQQQ")

HEADER_BYTES = _HEADER.size

MAX_TEXT = 4000
"""Characters of an error's text; LiteRT's longest, a list of all operators that it lacks, has some hundred."""

T = TypeVar("T")


class Header(NamedTuple):
    """The part of a message that is always there.

    Attributes:
        kind: One of the above.
        sequence: Of the question; an answer has that of what it answers.
        session: Which session.
        exchange: Which of the session's; see `exchanges`.
        table_at: Where the table begins, in bytes from the beginning of the sender's arena.
        table_bytes: Its length; 0 for none.
        arena_bytes: The size of the sender's arena.
    """

    kind: int
    sequence: int
    session: int = 0
    exchange: int = 0
    table_at: int = 0
    table_bytes: int = 0
    arena_bytes: int = 0


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A run whose inputs' shapes are new.

    Attributes:
        signature: Its name.
        inputs: Where they lie in the application's arena.
        keep: Whether runs to come may refer to it by the exchange's number.
    """

    signature: str
    inputs: Layout
    keep: bool


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """A session that is open.

    Attributes:
        tensors: The file's own, where the specification has no signatures.
    """

    tensors: Signature | None = None


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error that is to be raised on the other side.

    Attributes:
        name: The class's.
        text: What it says.
        cause: Of an EngineLost.
    """

    name: str
    text: str
    cause: Literal["crashed", "stuck", "vanished", ""] = ""


_NAMED: dict[str, Callable[[str], EdgeRuntimeError]] = {
    one.__name__: one for one in (EngineFailed, PackageRefused, InvalidConfig, InvalidInput)
}


def pack(header: Header) -> bytes:
    """The header's bytes."""
    return _HEADER.pack(*header)


def unpack(content: bytes) -> Header:
    """The header out of its bytes.

    Raises:
        struct.error: they are too few or too many.
    """
    return Header._make(_HEADER.unpack(content))


def encode(table: msgspec.Struct) -> bytes:
    """A table's bytes."""
    return msgspec.msgpack.encode(table)


def decode(content: bytes | memoryview, kind: type[T]) -> T:
    """A table out of its bytes.

    Raises:
        msgspec.MsgspecError: they are no such table.
    """
    return msgspec.msgpack.decode(content, type=kind)


def fault_of(error: Exception) -> Fault:
    """What the other side is told of an error.

    An error that is none of this package's is an EngineFailed there, whose text has the error's class and its line.
    """
    text = str(error)
    if isinstance(error, EngineLost):
        return Fault("EngineLost", text[:MAX_TEXT], error.cause)
    for kind in type(error).__mro__:
        if kind.__name__ in _NAMED:
            return Fault(kind.__name__, text[:MAX_TEXT])
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        where = f" ({frame.f_globals.get('__name__')}, line {line})"
    return Fault("EngineFailed", f"{type(error).__name__}: {text[:MAX_TEXT]}{where}")


def error_of(fault: Fault) -> EdgeRuntimeError:
    """The error that a fault stands for; an EngineFailed for one that has no name here."""
    if fault.name == "EngineLost":
        return EngineLost(fault.text, fault.cause or "crashed")
    return _NAMED.get(fault.name, EngineFailed)(fault.text)
