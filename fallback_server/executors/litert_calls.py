"""LiteRT interpreters that are ready for one shape each, and the pools that hold them.

An interpreter is planned for the shapes of its inputs: another shape costs a new plan, in which weights are packed
anew. So each shape has interpreters of its own, one for each run that goes on at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fallback_server.executors.base import Array

Shape = tuple[int, ...]
Call = Callable[[Mapping[str, Array]], dict[str, Array]]


def planned(
    interpreter: Any,
    *,
    graph: int,
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    shapes: Mapping[str, Shape],
) -> Call:
    """A graph of an interpreter, planned for its inputs' shapes. One thread at a time; the outputs are copies.

    It calls the interpreter's inner object, as LiteRT's own SignatureRunner does, which alone reaches graphs beyond
    the first; what is public would plan at each call. Functions, and one for the common case: a small model runs in
    some microseconds, and looking up attributes takes a good part of one.

    Args:
        interpreter: Its owner.
        graph: The subgraph's number.
        inputs: Name -> tensor's index.
        outputs: Name -> tensor's index.
        shapes: Name -> the shape that the input is to have.
    """
    inner = interpreter._interpreter  # noqa: SLF001  see above
    for name, shape in shapes.items():
        if tuple(inner.TensorSize(inputs[name], graph)) != shape:
            inner.ResizeInputTensor(inputs[name], np.array(shape, np.int32), False, graph)
    inner.AllocateTensors(graph)
    set_tensor, get_tensor, invoke = inner.SetTensor, inner.GetTensor, inner.Invoke
    given, found = tuple(inputs.items()), tuple(outputs.items())
    if len(given) == 1 and len(found) == 1:
        (name, index), (output, at) = given[0], found[0]

        def single(arrays: Mapping[str, Array]) -> dict[str, Array]:
            set_tensor(index, arrays[name], graph)
            invoke(graph)
            return {output: get_tensor(at, graph)}

        return single

    def several(arrays: Mapping[str, Array]) -> dict[str, Array]:
        for name, index in given:
            set_tensor(index, arrays[name], graph)
        invoke(graph)
        return {name: get_tensor(index, graph) for name, index in found}

    return several


class CallPool:
    """The calls of one shape: whoever runs takes one, and gives it back. Made when they are needed, up to a bound.

    Threads: any. In the common case, a call being idle, nothing is locked: appending to a list and popping from it are
    single steps in Python.

    Args:
        make: Plans another call.
        limit: How many there are at most; further runs wait for one.
    """

    __slots__ = ("_changed", "_idle", "_limit", "_made", "_make", "_waiting")

    def __init__(self, make: Callable[[], Call], *, limit: int) -> None:
        self._make = make
        self._limit = limit
        self._idle: list[Call] = []
        self._made = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a call. One that fails is not used again: it may be left half way."""
        try:
            call = self._idle.pop()
        except IndexError:
            call = self._taken()
        try:
            outputs = call(inputs)
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise
        self._idle.append(call)
        if self._waiting:
            with self._changed:
                self._changed.notify()
        return outputs

    def fill(self) -> None:
        """Makes all calls that there may be: no run plans any then."""
        while True:
            with self._changed:
                if self._made >= self._limit:
                    return
                self._made += 1
            self._idle.append(self._newly_made())

    def _taken(self) -> Call:
        with self._changed:
            # Counted before it is looked: whoever gives one back after the look sees that somebody waits.
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        try:
                            return self._idle.pop()
                        except IndexError:
                            continue  # Another thread took it, which locks nothing.
                    if self._made < self._limit:
                        self._made += 1
                        break
                    self._changed.wait()
            finally:
                self._waiting -= 1
        return self._newly_made()

    def _newly_made(self) -> Call:
        """What is counted already."""
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise
