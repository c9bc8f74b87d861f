"""Messages that differ from one seen before in nothing but their tensors' bytes are read and written without protobuf.

The requests of one client are such, as are the answers of one version. Of each kind a template keeps what is the same
in all of them: bytes, and what was read of these. A request that has the very bytes around its tensors is read by
looking at no others, its arrays where they lie; see `protocol.layout` for why that is the whole truth about it.

The tables are bounded, for any thread, and looked up without a lock: what is in them is replaced, never changed.
Between two calls gRPC and the kernel run, and all that a call touches comes from memory, Python's code too. So whoever
looks up does that in place: each function called costs microseconds then.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from fallback_server.protocol.layout import Span, holds
from fallback_server.protocol.tensors import Array, Buffer

MAX_TEMPLATES = 64
"""Of a table."""

MAX_OF_ONE_KEY = 4
"""Requests of several clients may have one length."""

MAX_FIXED_BYTES = 4096
"""What a template keeps of messages at most. With more of them there is little to save."""

MAX_WRITTEN_BYTES = 2**16
"""Larger answers are written without a template: it copies them once more than need be."""

_LONGEST_PAUSE = 255
"""Messages that are passed over at most before one is learnt, where none of those before was of use."""

Key = TypeVar("Key", bound=Hashable)
Rest = TypeVar("Rest")


class Template:
    """What a table keeps.

    Attributes:
        used: Whether it was found since a place was last looked for.
    """

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = False


Some = TypeVar("Some", bound=Template)


class Table(Generic[Key, Some]):
    """Templates by what they are looked up by. Where there is no more room, one goes that was not used for long.

    It takes the time of several messages to learn one. So while what is learnt proves of no use, as where no two
    messages are alike, less and less is.

    Args:
        limit: How many there are at most.
        of_one_key: How many there are of one key at most.

    Attributes:
        kept: The templates by key. To be looked up in; whoever uses one says so in it.
    """

    def __init__(self, *, limit: int = MAX_TEMPLATES, of_one_key: int = 1) -> None:
        self._limit = limit
        self._of_one_key = of_one_key
        self.kept: dict[Key, tuple[Some, ...]] = {}
        self._order: list[tuple[Key, Some]] = []
        self._lock = threading.Lock()
        self._pause = 0
        self._passed = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._order)

    def wants(self) -> bool:
        """Whether a message that none was found for is to be learnt."""
        if self._passed < self._pause:
            self._passed += 1  # Of two threads that count at once one may be lost.
            return False
        self._passed = 0
        return True

    def keep(self, key: Key, learnt: Some | None) -> None:
        """Takes one in.

        Args:
            key: What it is looked up by.
            learnt: None where the message turned out to have no template.
        """
        with self._lock:
            useful = learnt is not None and self._make_room(key)
            self._pause = 0 if useful else min(2 * self._pause + 1, _LONGEST_PAUSE)
            if learnt is not None:
                self._order.append((key, learnt))
                self.kept[key] = (*self.kept.get(key, ()), learnt)

    def _make_room(self, key: Key) -> bool:
        """Has one go where there is no room; False where that one was of no use."""
        if len(self.kept.get(key, ())) >= self._of_one_key:
            return self._drop_of(key)
        return len(self._order) < self._limit or self._drop_of(None)

    def _drop_of(self, key: Key | None) -> bool:
        """The first of a key, or of all, that was not used since one was last looked for; else the first."""
        some = [entry for entry in self._order if key is None or entry[0] == key]
        idle = [entry for entry in some if not entry[1].used]
        for _, template in some:
            template.used = False
        dropped = (idle or some)[0]
        self._order = [entry for entry in self._order if entry is not dropped]
        left = tuple(template for template in self.kept[dropped[0]] if template is not dropped[1])
        if left:
            self.kept[dropped[0]] = left
        else:
            del self.kept[dropped[0]]
        return not idle


class ReadTemplate(Template, Generic[Rest]):
    """What requests of one length have in common.

    Attributes:
        rest: What was read of what they have in common.
        text: Where something lies beside the tensors that each has of its own; None where they have no such thing.
        tensor_bytes: What their arrays take.
    """

    __slots__ = ("_pieces", "_tensors", "rest", "tensor_bytes", "text")

    def __init__(
        self,
        pieces: Sequence[tuple[int, bytes]],
        tensors: Mapping[str, tuple[int, Array]],
        text: Span | None,
        rest: Rest,
    ) -> None:
        super().__init__()
        self._pieces = tuple((piece, begin) for begin, piece in pieces)
        self._tensors = tuple((name, array.shape, array.dtype, begin) for name, (begin, array) in tensors.items())
        self.text = text
        self.rest = rest
        self.tensor_bytes = sum(array.nbytes for _, array in tensors.values())

    def arrays(self, data: bytes) -> dict[str, Array] | None:
        """The tensors of a message; None for one that has other bytes around them.

        Args:
            data: The message, of the length that this was learnt of.

        Returns:
            Arrays that read the message's bytes, and are aligned only by chance.
        """
        for piece, begin in self._pieces:
            if not data.startswith(piece, begin):
                return None
        self.used = True
        return {name: np.ndarray(shape, dtype, data, begin) for name, shape, dtype, begin in self._tensors}


ReadTemplates = Table[int, ReadTemplate[Rest]]


def learn_to_read(
    data: bytes, arrays: Mapping[str, Array], spans: Mapping[str, Span], text: Span | None, rest: Rest
) -> ReadTemplate[Rest] | None:
    """The template of a message that was read in full; None where it has none.

    Args:
        data: The message.
        arrays: Its tensors, in the order in which they are given.
        spans: Where their bytes lie in it, for all of them, or for some.
        text: Where a field lies that is taken as it comes.
        rest: What else was read, without the arrays, and without that field.
    """
    if len(spans) < len(arrays):
        return None
    for name, array in arrays.items():
        # Not every byte is a bool: numpy, and some of TensorFlow's kernels, tell others from true.
        if array.dtype.kind == "b" or not holds(data, spans[name], array):
            return None
    pieces = _between(data, [*spans.values(), *([text] if text else [])])
    if pieces is None:
        return None
    tensors = {name: (spans[name].begin, array) for name, array in arrays.items()}
    return ReadTemplate([(begin, piece) for begin, piece in pieces if piece], tensors, text, rest)


class WriteTemplate(Template):
    """What answers have in common whose tensors have the same names, dtypes and shapes.

    Attributes:
        pieces: The bytes before the first gap, between each two, and after the last.
    """

    __slots__ = ("pieces",)

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__()
        self.pieces = tuple(pieces)

    def parts(self, own: Sequence[bytes]) -> list[Buffer]:
        """An answer, in pieces that follow each other.

        Args:
            own: What goes into the gaps, in their order.
        """
        self.used = True
        pieces = self.pieces
        parts: list[Buffer] = [pieces[0]]
        index = 1
        for one in own:
            parts.append(one)
            parts.append(pieces[index])
            index += 1
        return parts


WriteTemplates = Table[tuple[Hashable, ...], WriteTemplate]


def learn_to_write(
    data: bytes, arrays: Sequence[Array], spans: Sequence[Span | None], *, gap: int | None = None
) -> WriteTemplate | None:
    """The template of an answer that was written in full; None where it has none.

    Its gaps are the tensors' bytes, as they are in memory and in row-major order.

    Args:
        data: The answer.
        arrays: Its tensors, in the order in which they are written.
        spans: Where their bytes lie in it, in the same order.
        gap: Where, before all tensors, something else goes that this answer doesn't have.
    """
    if len(data) > MAX_WRITTEN_BYTES or len(spans) != len(arrays):
        return None
    there = [span for span, array in zip(spans, arrays, strict=True) if span and holds(data, span, array)]
    gaps = there if gap is None else [Span(gap, gap), *there]
    if len(there) < len(arrays) or gaps != sorted(gaps):
        return None
    pieces = _between(data, gaps)
    return None if pieces is None else WriteTemplate([piece for _, piece in pieces])


def _between(data: bytes, spans: Sequence[Span]) -> list[tuple[int, bytes]] | None:
    """What lies before, between and after these bytes, and where it begins; None where that is too much to keep."""
    if len(data) - sum(span.end - span.begin for span in spans) > MAX_FIXED_BYTES:
        return None
    pieces: list[tuple[int, bytes]] = []
    begin = 0
    for span in sorted(spans):
        pieces.append((begin, data[begin : span.begin]))
        begin = span.end
    return [*pieces, (begin, data[begin:])]
