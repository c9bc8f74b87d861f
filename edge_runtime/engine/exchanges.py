"""The application's side of a worker's arenas: what lies where, remembered for shapes that come again."""

from __future__ import annotations

from edge_runtime.engine import wire
from edge_runtime.engine.shared import Arena, Lane, Layout, fill, lay_out, taken
from edge_runtime.types import Arrays

MAX_EXCHANGES = 16
"""Combinations of shapes that both sides remember of a session; more begin anew. A batch size is one."""


class Exchange:
    """Runs with the same shapes: where their inputs lie in the inbox, and their results in the outbox.

    Attributes:
        number: What both sides call it; 0 for one that is used once, since it has strings.
        signature: The signature's name.
    """

    def __init__(self, number: int, signature: str, inputs: Layout) -> None:
        self.number = number
        self.signature = signature
        self._inputs = Lane(inputs)
        self._results: Lane | None = None
        self._known = False  # Whether the worker remembers it.

    def put(self, inbox: Arena, inputs: Arrays, contents: list[bytes | None] | None) -> tuple[int, int]:
        """Copies the inputs into the inbox; returns where the table lies that the worker needs, and its length or 0.

        Raises:
            ValueError: they are more than an arena may have.
        """
        at, length = 0, 0
        if not self._known:
            layout = self._inputs.layout
            table = wire.encode(wire.Call(self.signature, layout, keep=self.number > 0))
            at, length = layout.end, len(table)
            inbox.reserve(at + length)
            inbox.write(at, table)
        fill(self._inputs.views(inbox), inputs, contents)
        return at, length

    def take(self, outbox: Arena, answer: wire.Header) -> Arrays:
        """Copies the results out of the outbox.

        Raises:
            ValueError, TypeError, msgspec.MsgspecError: the worker's answer is none.
        """
        outbox.reach(answer.arena_bytes)
        if answer.table_bytes:
            self._results = Lane(wire.decode(outbox.read(answer.table_at, answer.table_bytes), Layout))
        if self._results is None:
            raise ValueError("results without a layout")
        views = self._results.views(outbox)
        self._known = self.number > 0
        return taken(self._results.layout, views)

    def let_go(self) -> None:
        """Drops the views of both arenas."""
        self._inputs.let_go()
        if self._results is not None:
            self._results.let_go()


class Exchanges:
    """The exchanges of one session. One caller at a time."""

    def __init__(self) -> None:
        self._known: dict[object, Exchange] = {}
        self._passing: Exchange | None = None

    def find(self, signature: str, inputs: Arrays) -> tuple[Exchange, list[bytes | None] | None]:
        """The exchange for these inputs, and the bytes of those that are strings; None where there are none.

        Raises:
            TypeError: an input is neither of numbers nor of strings.
        """
        key = (signature, tuple([(name, array.shape, array.dtype) for name, array in inputs.items()]))
        one = self._known.get(key)
        if one is not None:
            return one, None
        layout, contents = lay_out(inputs)
        if not layout.fixed:
            self._passing = Exchange(0, signature, layout)
            return self._passing, contents
        if len(self._known) >= MAX_EXCHANGES:
            self._known.clear()
        one = self._known[key] = Exchange(len(self._known) + 1, signature, layout)
        return one, None

    def let_go(self) -> None:
        """Drops all views of the arenas, also of exchanges that the traceback of an error still holds."""
        for one in (*self._known.values(), *filter(None, (self._passing,))):
            one.let_go()
