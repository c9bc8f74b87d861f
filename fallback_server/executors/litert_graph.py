"""What a TFLite file is made of: its operators and tensors, read from the flatbuffer without LiteRT.

Nothing of a file is believed: every offset is held against its length, and how much is read of it is bounded, so that a
file that was made to be read for ever is refused. What LiteRT itself would make of such a file is for its trial to
show.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_ENTRIES = 200_000
"""Operators, tensors and their references together: large language models have some ten thousand."""

NONE = -1
"""In place of an input that an operator does without."""

Content = bytes | mmap.mmap

_CALL_ONCE = 129

_FILE_CODES, _FILE_GRAPHS, _FILE_BUFFERS = 1, 2, 4
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OPERATORS = 0, 1, 3
_TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_VARIABLE = 1, 2, 5
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS = 0, 1, 2, 4
"""Numbers of the fields in the schema (tensorflow/compiler/mlir/lite/schema/schema.fbs)."""


class Unreadable(ValueError):
    """The bytes are no such flatbuffer, or one that is too large to be looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """One operator of a graph.

    Attributes:
        code: Its number among the built-in ones.
        inputs: The tensors that it reads; `NONE` where it does without one.
        outputs: The tensors that it writes.
        begins: The graph that it runs once, before the first run; None where it is of another kind.
    """

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    begins: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subgraph:
    """One graph of a file.

    Attributes:
        types: The numbers of its tensors' types.
        constants: Tensors whose values are in the file.
        variables: Tensors that keep their values from run to run.
        inputs: The tensors that are given to it.
        operators: In the order in which they run.
    """

    types: tuple[int, ...]
    constants: frozenset[int]
    variables: frozenset[int]
    inputs: tuple[int, ...]
    operators: tuple[Operator, ...]


def read_subgraphs(content: Content) -> tuple[Subgraph, ...]:
    """The graphs of a TFLite file, the main one first.

    Raises:
        Unreadable: it is none.
    """
    reader = _Reader(content)
    try:
        return tuple(reader.subgraphs())
    except (struct.error, IndexError) as error:
        raise Unreadable(f"it is no TFLite file: {error}") from error


def subgraphs_of(fd: int) -> tuple[Subgraph, ...]:
    """The graphs of an open file; see `read_subgraphs`.

    Raises:
        Unreadable: it is none.
        OSError: it can't be read.
    """
    try:
        content = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except ValueError as error:
        raise Unreadable(str(error)) from error  # It is empty.
    with content:
        return read_subgraphs(content)


class _Reader:
    """Walks the flatbuffer."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._left = MAX_ENTRIES

    def subgraphs(self) -> Iterator[Subgraph]:
        model = self._u32(0)
        codes = [self._code(code) for code in self._tables(model, _FILE_CODES)]
        full = [self._count(buffer, 0) > 0 for buffer in self._tables(model, _FILE_BUFFERS)]
        for graph in self._tables(model, _FILE_GRAPHS):
            yield self._subgraph(graph, codes, full)

    def _subgraph(self, graph: int, codes: Sequence[int], full: Sequence[bool]) -> Subgraph:
        types: list[int] = []
        constants: set[int] = set()
        variables: set[int] = set()
        for number, tensor in enumerate(self._tables(graph, _GRAPH_TENSORS)):
            types.append(self._byte(tensor, _TENSOR_TYPE))
            if self._byte(tensor, _TENSOR_VARIABLE):
                variables.add(number)
            elif full[self._number(tensor, _TENSOR_BUFFER)]:
                constants.add(number)
        return Subgraph(
            types=tuple(types),
            constants=frozenset(constants),
            variables=frozenset(variables),
            inputs=self._numbers(graph, _GRAPH_INPUTS),
            operators=tuple(self._operator(each, codes) for each in self._tables(graph, _GRAPH_OPERATORS)),
        )

    def _operator(self, operator: int, codes: Sequence[int]) -> Operator:
        code = codes[self._number(operator, _OPERATOR_CODE)]
        options = self._field(operator, _OPERATOR_OPTIONS) if code == _CALL_ONCE else None
        return Operator(
            code=code,
            inputs=self._numbers(operator, _OPERATOR_INPUTS),
            outputs=self._numbers(operator, _OPERATOR_OUTPUTS),
            begins=None if options is None else self._number(self._target(options), 0),
        )

    def _code(self, code: int) -> int:
        """As LiteRT has it: the larger of an old field of one byte, signed, and a new one."""
        old = self._byte(code, 0)
        return max(old - 256 if old > 127 else old, self._number(code, 3))

    def _tables(self, table: int, slot: int) -> Iterator[int]:
        """The tables of a field that is a vector of them."""
        at = self._field(table, slot)
        if at is None:
            return
        vector = self._target(at)
        count = self._u32(vector)
        self._spend(count)
        for index in range(count):
            yield self._target(vector + 4 + 4 * index)

    def _numbers(self, table: int, slot: int) -> tuple[int, ...]:
        """A field that is a vector of int32."""
        count = self._count(table, slot)
        if not count:
            return ()
        self._spend(count)
        at = self._field(table, slot)
        assert at is not None
        return struct.unpack_from(f"<{count}i", self._content, self._target(at) + 4)

    def _count(self, table: int, slot: int) -> int:
        """How many a field has that is a vector; 0 where it is left out."""
        at = self._field(table, slot)
        return 0 if at is None else self._u32(self._target(at))

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise Unreadable(f"it has more than {MAX_ENTRIES} operators, tensors and references to them")

    def _target(self, at: int) -> int:
        return at + self._u32(at)

    def _number(self, table: int, slot: int) -> int:
        """A field of four bytes, not negative; 0 where it is left out."""
        at = self._field(table, slot)
        return 0 if at is None else self._u32(at)

    def _byte(self, table: int, slot: int) -> int:
        at = self._field(table, slot)
        return 0 if at is None else self._content[at]

    def _u32(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self._content, at)[0]
        return value

    def _field(self, table: int, slot: int) -> int | None:
        """Where a table's field lies; None where it has its default."""
        vtable = table - int(struct.unpack_from("<i", self._content, table)[0])
        entry = 4 + 2 * slot
        if vtable < 0:  # Python would count from the end.
            raise Unreadable("it is no TFLite file: a table's description lies before its begin")
        if entry >= struct.unpack_from("<H", self._content, vtable)[0]:
            return None
        offset: int = struct.unpack_from("<H", self._content, vtable + entry)[0]
        return table + offset if offset else None
