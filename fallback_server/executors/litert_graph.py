"""What a TFLite file is made of: its graphs, tensors and signatures, read from the flatbuffer without LiteRT.

Nothing of a file is believed. LiteRT follows its offsets wherever they lead, and what lies behind the file is other
memory of the process: so every table, vector and text that LiteRT will read is held against the file's length here, and
so is what the constants hold. How much is read is bounded: a file that was made to be read for ever is refused.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

MAX_ENTRIES = 1_000_000
"""Operators, tensors, their sizes and references together: large language models have some hundred thousand."""

NONE = -1
"""In place of an input that an operator does without."""

Content = bytes | mmap.mmap

RESHAPE = 22
CALL_ONCE = 129
_SQUEEZE = 43
_CALLED = MappingProxyType({31: (0,), 118: (0, 1), 119: (0, 1), CALL_ONCE: (0,)})
"""Operators that run other graphs (CALL, IF, WHILE, CALL_ONCE), and which of their options' fields say which."""

_STRING = 5
_ITEM_BYTES = MappingProxyType(
    {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 8: 8, 9: 1, 10: 8, 11: 16, 12: 8, 15: 4, 16: 2}
)
"""Type -> its size, where it is a whole number of bytes, and known here."""

_FILE_CODES, _FILE_GRAPHS, _FILE_TEXT, _FILE_BUFFERS, _FILE_METADATA, _FILE_SIGNATURES = 1, 2, 3, 4, 6, 7
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS, _GRAPH_NAME = 0, 1, 2, 3, 4
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION, _TENSOR_VARIABLE = 0, 1, 2, 3, 4, 5
_TENSOR_SPARSITY, _TENSOR_OPEN_SHAPE, _TENSOR_VARIANTS, _TENSOR_EXTERNAL = 6, 7, 9, 10
_QUANTIZATION_SCALES, _QUANTIZATION_DETAILS = 2, 5
_QUANTIZATION_WIDTHS = (4, 4, 4, 8)
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS, _OPERATOR_BETWEEN = 0, 1, 2, 4, 8
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_KEY, _SIGNATURE_GRAPH = 0, 1, 2, 4
"""Numbers of the fields in the schema (tensorflow/compiler/mlir/lite/schema/schema.fbs)."""


class Unreadable(ValueError):
    """The bytes are no such flatbuffer, or one that is too large to be looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """One operator of a graph.

    Attributes:
        code: Its number among the built-in ones.
        inputs: The tensors that it reads; `NONE` where it does without one.
        outputs: The tensors that it writes; `NONE` where it does without one.
        calls: The graphs that it runs, as far as they are known here.
    """

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Subgraph:
    """One graph of a file.

    Attributes:
        types: The numbers of its tensors' types.
        constants: Tensors whose values are in the file.
        variables: Tensors that keep their values from run to run.
        inputs: The tensors that are given to it.
        operators: In the order in which they run.
        outputs: The tensors that it gives.
        empty: Tensors that have no values since they have no elements.
        sparse: Tensors of which the file holds only what is not 0.
        shapes: The tensors' sizes, as far as they are told: LiteRT believes those of constants and inputs alone.
        special: Tensors that are more than an array: in blocks with scales of their own, by channels though they are
            no constants, or of unknown kinds.
    """

    types: tuple[int, ...]
    constants: frozenset[int]
    variables: frozenset[int]
    inputs: tuple[int, ...]
    operators: tuple[Operator, ...]
    outputs: tuple[int, ...] = ()
    empty: frozenset[int] = frozenset()
    sparse: frozenset[int] = frozenset()
    shapes: tuple[tuple[int, ...], ...] = ()
    special: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A signature of a file.

    Attributes:
        name: What it is called by.
        graph: The number of its graph.
        inputs: Names, and the tensors that they stand for.
        outputs: The same.
    """

    name: bytes
    graph: int
    inputs: tuple[tuple[bytes, int], ...]
    outputs: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Graphs:
    """All of a file.

    Attributes:
        subgraphs: The main one first.
        signatures: As the file has them.
    """

    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[Entry, ...] = ()


def read_graphs(content: Content) -> Graphs:
    """What a TFLite file is made of.

    Raises:
        Unreadable: it is none.
    """
    try:
        return _Reader(content).graphs()
    except (struct.error, IndexError) as error:
        raise Unreadable(f"it is no TFLite file: {error}") from error


def graphs_of_file(fd: int) -> Graphs:
    """What an open file is made of; see `read_graphs`.

    Raises:
        Unreadable: it is none.
        OSError: it can't be read.
    """
    try:
        content = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except ValueError as error:
        raise Unreadable(str(error)) from error  # It is empty.
    with content:
        return read_graphs(content)


class _Reader:
    """Walks the flatbuffer."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._left = MAX_ENTRIES
        self._fields: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._buffers: list[tuple[int, int] | None] = []

    def graphs(self) -> Graphs:
        model = self._table(self._u32(0))
        self._text(model, _FILE_TEXT)
        codes = [self._code(code) for code in self._tables(model, _FILE_CODES)]
        self._buffers = [self._buffer(buffer) for buffer in self._tables(model, _FILE_BUFFERS)]
        for note in self._tables(model, _FILE_METADATA):
            self._text(note, 0)
            if self._number(note, 1) >= len(self._buffers):
                raise Unreadable("it is no TFLite file: its metadata lie nowhere")
        return Graphs(
            subgraphs=tuple(self._subgraph(graph, codes) for graph in self._tables(model, _FILE_GRAPHS)),
            signatures=tuple(map(self._signature, self._tables(model, _FILE_SIGNATURES))),
        )

    def _subgraph(self, graph: int, codes: Sequence[int]) -> Subgraph:
        self._text(graph, _GRAPH_NAME)
        types: list[int] = []
        shapes: list[tuple[int, ...]] = []
        sets: dict[str, set[int]] = {kind: set() for kind in ("constants", "variables", "empty", "sparse", "special")}
        for number, tensor in enumerate(self._tables(graph, _GRAPH_TENSORS)):
            types.append(self._byte(tensor, _TENSOR_TYPE))
            shapes.append(self._numbers(tensor, _TENSOR_SHAPE))
            for kind in self._kinds(tensor, types[-1], shapes[-1], number):
                sets[kind].add(number)
        return Subgraph(
            types=tuple(types),
            shapes=tuple(shapes),
            **{kind: frozenset(numbers) for kind, numbers in sets.items()},
            inputs=self._numbers(graph, _GRAPH_INPUTS),
            outputs=self._numbers(graph, _GRAPH_OUTPUTS),
            operators=tuple(self._operator(each, codes) for each in self._tables(graph, _GRAPH_OPERATORS)),
        )

    def _kinds(self, tensor: int, kind: int, shape: Sequence[int], number: int) -> Iterator[str]:
        """The sets of a `Subgraph` that a tensor belongs to."""
        self._text(tensor, _TENSOR_NAME)
        self._numbers(tensor, _TENSOR_OPEN_SHAPE)
        buffer = self._number(tensor, _TENSOR_BUFFER)
        values = self._buffers[buffer] if buffer else None  # The first one stands for none.
        sparse = self._field(tensor, _TENSOR_SPARSITY) is not None
        if sparse:
            yield "sparse"
        if self._byte(tensor, _TENSOR_VARIABLE):
            yield "variables"
        elif values is not None:
            yield "constants"
            if not sparse:
                self._hold(values, shape, kind, number)
        elif 0 in shape:
            yield "empty"
        scales, more = self._quantization(tensor)
        by_channels = scales > 1 and values is None
        if more or by_channels or self._count(tensor, _TENSOR_VARIANTS) or self._number(tensor, _TENSOR_EXTERNAL):
            yield "special"

    def _quantization(self, tensor: int) -> tuple[int, bool]:
        """How many scales a tensor has, and whether it has more than these and zero points."""
        at = self._field(tensor, _TENSOR_QUANTIZATION)
        if at is None:
            return 0, False
        table = self._table(self._target(at))
        counts = [self._count(table, slot, width=width) for slot, width in enumerate(_QUANTIZATION_WIDTHS)]
        return counts[_QUANTIZATION_SCALES], self._field(table, _QUANTIZATION_DETAILS) is not None

    def _hold(self, values: tuple[int, int], shape: Sequence[int], kind: int, number: int) -> None:
        """Holds a constant's bytes against what its shape needs."""
        begin, have = values
        if kind == _STRING:
            self._hold_strings(begin, have, shape, number)
        elif kind in _ITEM_BYTES and (have != math.prod(shape) * _ITEM_BYTES[kind] or min(shape, default=0) < 0):
            raise Unreadable(f"its constant {number} of the sizes {list(shape)} has {have} bytes")

    def _hold_strings(self, begin: int, have: int, shape: Sequence[int], number: int) -> None:
        """As LiteRT has them: how many, where each begins and the last ends, and their bytes."""
        count = self._u32(begin) if have >= 4 else -1
        ends = 4 * (count + 2)
        if count < math.prod(shape) or have < ends:
            raise Unreadable(f"its constant {number} has fewer strings than its sizes {list(shape)} say")
        self._spend(count)
        places = struct.unpack_from(f"<{count + 1}I", self._content, begin + 4)
        if places[-1] > have or any(one > next_one for one, next_one in itertools.pairwise(places)):
            raise Unreadable(f"its constant {number} has strings that lie elsewhere")

    def _buffer(self, buffer: int) -> tuple[int, int] | None:
        """Where constants' bytes begin, and how many they are; None where there are none."""
        at = self._field(buffer, _BUFFER_DATA)
        if at is not None:
            return self._vector(at, 1)
        begin, size = self._long(buffer, _BUFFER_OFFSET), self._long(buffer, _BUFFER_SIZE)
        if begin <= 1:
            return None
        self._within(begin, size)
        return begin, size

    def _operator(self, operator: int, codes: Sequence[int]) -> Operator:
        code = codes[self._number(operator, _OPERATOR_CODE)]
        at = self._field(operator, _OPERATOR_OPTIONS)
        options = None if at is None else self._table(self._target(at))
        self._numbers(operator, _OPERATOR_BETWEEN)
        if options is not None and code in (RESHAPE, _SQUEEZE):
            self._numbers(options, 0)
        return Operator(
            code=code,
            inputs=self._numbers(operator, _OPERATOR_INPUTS),
            outputs=self._numbers(operator, _OPERATOR_OUTPUTS),
            calls=() if options is None else tuple(self._number(options, slot) for slot in _CALLED.get(code, ())),
        )

    def _signature(self, signature: int) -> Entry:
        return Entry(
            name=self._text(signature, _SIGNATURE_KEY),
            graph=self._number(signature, _SIGNATURE_GRAPH),
            inputs=tuple(self._named(signature, _SIGNATURE_INPUTS)),
            outputs=tuple(self._named(signature, _SIGNATURE_OUTPUTS)),
        )

    def _named(self, signature: int, slot: int) -> Iterator[tuple[bytes, int]]:
        for entry in self._tables(signature, slot):
            yield self._text(entry, 0), self._number(entry, 1)

    def _code(self, code: int) -> int:
        """As LiteRT has it: the larger of an old field of one byte, signed, and a new one."""
        self._text(code, 1)
        old = self._byte(code, 0)
        return max(old - 256 if old > 127 else old, self._number(code, 3))

    def _tables(self, table: int, slot: int) -> Iterator[int]:
        """The tables of a field that is a vector of them."""
        at = self._field(table, slot)
        if at is None:
            return
        begin, count = self._vector(at, 4)
        self._spend(count)
        for place in range(begin, begin + 4 * count, 4):
            yield self._table(self._target(place))

    def _numbers(self, table: int, slot: int) -> tuple[int, ...]:
        """A field that is a vector of int32."""
        at = self._field(table, slot)
        if at is None:
            return ()
        begin, count = self._vector(at, 4)
        self._spend(count)
        return struct.unpack_from(f"<{count}i", self._content, begin)

    def _count(self, table: int, slot: int, *, width: int = 4) -> int:
        """How many a field has that is a vector; 0 where it is left out."""
        at = self._field(table, slot)
        return 0 if at is None else self._vector(at, width)[1]

    def _text(self, table: int, slot: int) -> bytes:
        """A field that is a text; empty where it is left out. LiteRT reads up to the 0 that ends it."""
        at = self._field(table, slot)
        if at is None:
            return b""
        begin, count = self._vector(at, 1)
        if self._content[begin + count] != 0:
            raise Unreadable("it is no TFLite file: a text has no end")
        return bytes(self._content[begin : begin + count])

    def _vector(self, at: int, width: int) -> tuple[int, int]:
        """Where a vector's entries begin, and how many they are."""
        vector = self._target(at)
        count = self._u32(vector)
        self._within(vector + 4, count * width)
        return vector + 4, count

    def _within(self, begin: int, size: int) -> None:
        if begin + size > len(self._content):
            raise Unreadable(f"it ends before its byte {begin + size}, which it refers to")

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

    def _long(self, table: int, slot: int) -> int:
        """A field of eight bytes, not negative; 0 where it is left out."""
        at = self._field(table, slot)
        return 0 if at is None else int(struct.unpack_from("<Q", self._content, at)[0])

    def _byte(self, table: int, slot: int) -> int:
        at = self._field(table, slot)
        return 0 if at is None else self._content[at]

    def _u32(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self._content, at)[0]
        return value

    def _field(self, table: int, slot: int) -> int | None:
        """Where a table's field lies; None where it has its default."""
        _, offsets = self._fields[self._described(table)]
        return table + offsets[slot] if slot < len(offsets) and offsets[slot] else None

    def _table(self, table: int) -> int:
        """A table that lies in the file with all of its fields, and so does its description."""
        described = self._described(table)
        if described < 0:  # Python would count from the end.
            raise Unreadable("it is no TFLite file: a table's description lies before its begin")
        if described not in self._fields:
            size, extent = struct.unpack_from("<HH", self._content, described)
            self._within(described, size)
            offsets = struct.unpack_from(f"<{max(size - 4, 0) // 2}H", self._content, described + 4)
            self._spend(len(offsets))
            if any(offset >= extent for offset in offsets if offset):
                raise Unreadable("it is no TFLite file: a table has fields beyond its end")
            self._fields[described] = extent, offsets
        self._within(table, self._fields[described][0])
        return table

    def _described(self, table: int) -> int:
        """Where it is said which fields a table has."""
        return table - int(struct.unpack_from("<i", self._content, table)[0])
