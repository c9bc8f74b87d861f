"""Files that keep state between runs: how they are told, and how a request is kept from the state of others."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from edge_runtime.engine.base import Session
from edge_runtime.errors import EngineFailed
from edge_runtime.types import Arrays

_CALL_ONCE = 129
_ASSIGN_VARIABLE = 144
"""Operator codes of the TFLite schema, as are the numbers of the fields below."""

MAX_TABLES = 250_000
"""That are looked at: large language models have some ten thousand operators and tensors. A file may say that all of
its graphs are the same one, and so have many more tables than bytes."""


def is_stateful(content: bytes) -> bool:
    """Whether a run of a TFLite file may depend on the runs before it.

    That is where a run assigns to a variable, or where a tensor is one (as of fused recurrent operators). Variables
    that are only read, and given their values once by CALL_ONCE, are no state.

    Args:
        content: The file. One that is none has no state: LiteRT will refuse it. One with more than `MAX_TABLES` is
            taken to have some.
    """
    left = iter(range(MAX_TABLES))
    try:
        return _assigns(content, left) or _has_variable_tensor(content, left)
    except (struct.error, IndexError):
        return False
    except _TooManyError:
        return True


class _TooManyError(Exception):
    """All tables that may be looked at were."""


def _assigns(content: bytes, left: Iterator[int]) -> bool:
    codes = [_code(content, code) for code in _tables(content, _model(content), 1, left)]
    if _ASSIGN_VARIABLE not in codes:
        return False
    assigning, initial = set(), set()
    for number, graph in enumerate(_graphs(content, left)):
        for operator in _tables(content, graph, 3, left):
            code = codes[_number(content, operator, 0)]
            if code == _ASSIGN_VARIABLE:
                assigning.add(number)
            elif code == _CALL_ONCE:
                options = _field(content, operator, 4)
                if options is not None:
                    initial.add(_number(content, options + _u32(content, options), 0))
    return bool(assigning - initial)


def _has_variable_tensor(content: bytes, left: Iterator[int]) -> bool:
    return any(
        (at := _field(content, tensor, 5)) is not None and content[at] != 0
        for graph in _graphs(content, left)
        for tensor in _tables(content, graph, 0, left)
    )


def _model(content: bytes) -> int:
    return _u32(content, 0)


def _graphs(content: bytes, left: Iterator[int]) -> Iterator[int]:
    return _tables(content, _model(content), 2, left)


def _code(content: bytes, code: int) -> int:
    """An operator's code. Those above 127 are in the newer of its two fields."""
    return _number(content, code, 3)


def _u32(content: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", content, at)[0]
    return value


def _number(content: bytes, table: int, slot: int) -> int:
    """An int32 field; 0 where it is left out."""
    at = _field(content, table, slot)
    return 0 if at is None else _u32(content, at)


def _field(content: bytes, table: int, slot: int) -> int | None:
    """Where a flatbuffer table's field lies; None where it has its default."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    entry = 4 + 2 * slot
    if vtable < 0 or entry >= struct.unpack_from("<H", content, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", content, vtable + entry)[0]
    return table + offset if offset else None


def _tables(content: bytes, table: int, slot: int, left: Iterator[int]) -> Iterator[int]:
    """The tables of a field that is a vector of them.

    Raises:
        _TooManyError: none is left of those that may be looked at.
    """
    at = _field(content, table, slot)
    if at is None:
        return
    vector = at + _u32(content, at)
    for index in range(_u32(content, vector)):
        if next(left, None) is None:
            raise _TooManyError
        entry = vector + 4 + 4 * index
        yield entry + _u32(content, entry)


class FreshSession:
    """A session whose every run begins with the state of a file that has just been loaded. See `Session`.

    LiteRT can't run a file's initialisation again (`reset_all_variables` leaves resource variables as they are, and so
    does planning anew), so the session is replaced: 0.4 ms for a wake word's file.

    Attributes:
        slots: 1.
    """

    slots = 1

    def __init__(self, open_session: Callable[[], Session]) -> None:
        """Opens the first one.

        Args:
            open_session: Makes a session of the file, in this process.

        Raises:
            EngineFailed, PackageRefused: see `open_session`.
        """
        self._open = open_session
        self._session: Session | None = open_session()
        self._used = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<FreshSession {self._session!r}>"

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """See `Session`."""
        session = self._fresh()
        self._used = True
        return session.run(signature, inputs, limit_s)

    def close(self) -> None:
        """See `Session`."""
        self._closed = True
        self._drop()

    def _fresh(self) -> Session:
        if self._closed:
            raise EngineFailed("the session has been closed")
        if self._used:
            self._drop()
        if self._session is None:
            self._session, self._used = self._open(), False
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
