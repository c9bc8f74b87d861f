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


class GraphCall:
    """One graph of an interpreter that is planned for its inputs' shapes. One thread at a time.

    It calls the interpreter's inner object, as LiteRT's own SignatureRunner does, which alone reaches graphs beyond
    the first; what is public would plan at each call.

    Args:
        interpreter: Its owner.
        graph: The subgraph's number.
        inputs: Name -> tensor's index.
        outputs: Name -> tensor's index.
        shapes: Name -> the shape that the input is to have.
        resets: Whether variables begin anew at each run.
    """

    __slots__ = ("_get", "_graph", "_inputs", "_invoke", "_outputs", "_owner", "_reset", "_set")

    def __init__(
        self,
        interpreter: Any,
        *,
        graph: int,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        shapes: Mapping[str, Shape],
        resets: bool,
    ) -> None:
        inner = interpreter._interpreter  # noqa: SLF001  see above
        for name, shape in shapes.items():
            if tuple(inner.TensorSize(inputs[name], graph)) != shape:
                inner.ResizeInputTensor(inputs[name], np.array(shape, np.int32), False, graph)
        inner.AllocateTensors(graph)
        self._owner = interpreter
        self._graph = graph
        self._inputs = tuple(inputs.items())
        self._outputs = tuple(outputs.items())
        self._set, self._get, self._invoke = inner.SetTensor, inner.GetTensor, inner.Invoke
        self._reset = inner.ResetVariableTensors if resets else None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs; the outputs are copies."""
        set_tensor, get, graph = self._set, self._get, self._graph
        if self._reset is not None:
            self._reset()
        for name, index in self._inputs:
            set_tensor(index, inputs[name], graph)
        self._invoke(graph)
        return {name: get(index, graph) for name, index in self._outputs}


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
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise
