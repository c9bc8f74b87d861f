"""One signature of a TFLite file: what its graph takes and gives, and what runs inputs of a shape."""

from __future__ import annotations

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fallback_server.core.errors import LoadFailed
from fallback_server.core.memory import give_back
from fallback_server.executors.base import VARIABLE, Array, Signature, TensorSpec
from fallback_server.executors.definitions import PREDICT
from fallback_server.executors.heap import resident_bytes
from fallback_server.executors.litert_calls import Call, CallPool, Shape, planned
from fallback_server.executors.sizes import parts_of, parts_table, worth_rows
from fallback_server.executors.timing import least_s

_log = logging.getLogger(__name__)

UNNAMED = "serving_default"
"""What the graph of a file without signatures is called: what a request means that names none."""

MAX_SHAPES = 256
"""Combinations of shapes, beyond the prepared numbers of rows, that a signature keeps interpreters for: while there is
memory, see `Runner`."""

_LARGE_SHARE = 4
"""A shape that takes more than the memory's fourth is planned for when it comes, and not kept."""

LONGEST_S = 2.0
"""More rows than that may take are run in several parts, which costs such a model nothing."""


class Graph:
    """What an interpreter's graph takes and gives, by names.

    Attributes:
        name: The signature's.
        number: The subgraph.
        inputs: Name -> tensor's index.
        outputs: Name -> tensor's index.
        signature: With the shapes of the file.
        keeps_state: Whether a run's answer may depend on the runs before it.
    """

    def __init__(
        self, signature: Signature, number: int, inputs: Mapping[str, int], outputs: Mapping[str, int]
    ) -> None:
        self.name = signature.name
        self.number = number
        self.inputs = inputs
        self.outputs = outputs
        self.signature = signature
        self.keeps_state = False


class Runner:
    """One signature: finds, or plans, what runs inputs of a shape.

    Numbers of rows that lie between the prepared ones are padded up, or run in several parts, whichever was measured to
    be sooner. Any thread may run.

    Args:
        interpreter: Makes another interpreter of the file.
        graph: What is run.
        signature: As it is served: its requests may not be merged though the file's dimensions would allow it.
        sizes: The numbers of rows that are prepared for, ascending.
        limit: How many runs of one shape go side by side; further ones wait.
        most_bytes: What all interpreters may take, by how this process grows.

    Attributes:
        worth_rows: See `Signature`; 0 before it was measured.
    """

    def __init__(
        self,
        interpreter: Callable[[], Any],
        graph: Graph,
        signature: Signature,
        *,
        sizes: tuple[int, ...],
        limit: int,
        most_bytes: int,
    ) -> None:
        self._interpreter = interpreter
        self._graph = graph
        self._limit = limit
        self._signature = signature
        self._names = tuple(graph.inputs)
        self._first = self._names[0] if self._names else ""
        inner = {name: (spec.shape or ())[1:] for name, spec in signature.inputs.items()}
        self._by_rows = signature.batches and not any(VARIABLE in shape for shape in inner.values())
        self._inner = inner
        self._sizes = sizes
        self.worth_rows = 0
        self._table = parts_table({size: float(size) for size in sizes})  # Until it is measured.
        self._pools: dict[int, CallPool] = {}
        self._shapes: OrderedDict[tuple[Shape, ...], CallPool] = OrderedDict()
        self._most_bytes = most_bytes
        self._before_bytes = resident_bytes()
        self._lock = threading.Lock()
        if self._by_rows:
            self._make_pools()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs inputs that fit the signature."""
        if not self._by_rows:
            return self._run_shaped(inputs)
        rows = inputs[self._first].shape[0]
        try:
            pool = self._pools[rows]
        except KeyError:
            return self._run_parts(inputs, rows)
        return pool.run(inputs)

    def run_together(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same, in one run that has just these rows."""
        shapes = {name: inputs[name].shape for name in self._names}
        pool = self._pools.get(inputs[self._first].shape[0]) if self._by_rows else None
        return (pool or self._pool(shapes)).run(inputs)

    def measure(self, one: Mapping[str, Array], *, progress: Callable[[], object] = lambda: None) -> bool:
        """Plans for all sizes, and times them; False where outputs have not as many rows as inputs.

        Sizes that take too much memory, or too long, or that LiteRT refuses, are left out: so many rows are run in
        several parts.

        Args:
            one: One row.
            progress: Called after each run.

        Raises:
            RuntimeError: LiteRT refuses all of them.
            ValueError: the same.
        """
        if not self._by_rows:
            return True
        cost_s: dict[int, float] = {}
        taken_bytes = 0
        for size in self._sizes:
            if cost_s and size * cost_s[min(cost_s)] / min(cost_s) > LONGEST_S:
                break
            inputs = {name: np.repeat(value, size, axis=0) for name, value in one.items()}
            before_bytes = resident_bytes()
            try:
                outputs = self._pools[size].run(inputs)
            except (RuntimeError, ValueError) as error:
                if size == self._sizes[-1] and not cost_s:
                    raise
                _log.info("signature %r is not run with %d rows: %s", self._graph.name, size, one_line(error))
                continue
            if any(value.shape[:1] != (size,) for value in outputs.values()):
                return False
            cost_s[size] = least_s(functools.partial(self._pools[size].run, inputs), progress=progress)
            taken_bytes += self._limit * max(resident_bytes() - before_bytes, 0)
            if taken_bytes > self._most_bytes:
                break
        self.worth_rows = worth_rows(cost_s)
        if self.worth_rows:  # What isn't run needs no plans; a large model's take hundreds of megabytes.
            cost_s = {size: took_s for size, took_s in cost_s.items() if size <= self.worth_rows}
        self._pools = {size: self._pools[size] for size in cost_s}
        self._table = parts_table(cost_s)
        return True

    def fill(self) -> None:
        """Makes all interpreters that the shapes seen so far may have: no run of these plans any then."""
        with self._lock:
            pools = [*self._pools.values(), *self._shapes.values()]
        for pool in pools:
            pool.fill()

    def renew(self) -> None:
        """Has the next runs make their interpreters anew, in their own threads."""
        self._pools = {
            size: self._pool({name: (size, *inner) for name, inner in self._inner.items()}) for size in self._pools
        }
        with self._lock:
            self._shapes.clear()

    def close(self) -> None:
        """Lets go of all interpreters, but for those that run: these go when they have."""
        self._pools = {}
        with self._lock:
            self._shapes.clear()

    def _make_pools(self) -> None:
        self._pools = {
            size: self._pool({name: (size, *inner) for name, inner in self._inner.items()}) for size in self._sizes
        }

    def _pool(self, shapes: Mapping[str, Shape]) -> CallPool:
        return CallPool(functools.partial(self._plan, shapes), limit=self._limit)

    def _plan(self, shapes: Mapping[str, Shape]) -> Call:
        if not self._graph.keeps_state:
            return self._planned(shapes)

        # LiteRT sets only some variables back, so a run that is to begin without what was before it has an interpreter
        # of its own: some 0.4 ms for a small file.
        def anew(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return self._planned(shapes)(inputs)

        return anew

    def _planned(self, shapes: Mapping[str, Shape]) -> Call:
        graph = self._graph
        return planned(
            self._interpreter(),
            graph=graph.number,
            inputs=graph.inputs,
            outputs=graph.outputs,
            shapes=shapes,
        )

    def _run_shaped(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Any shapes: those that were used longest ago give way."""
        if self._signature.batches and not inputs[self._first].shape[0]:
            return self._run_none(inputs)
        key = tuple([inputs[name].shape for name in self._names])
        with self._lock:
            pool = self._shapes.get(key)
            if pool is not None:
                self._shapes.move_to_end(key)
        if pool is not None:
            return pool.run(inputs)
        pool = self._pool(dict(zip(self._names, key, strict=True)))
        before_bytes = resident_bytes()
        outputs = pool.run(inputs)
        if resident_bytes() - before_bytes <= self._most_bytes / _LARGE_SHARE:
            self._keep(key, pool)
        return outputs

    def _keep(self, key: tuple[Shape, ...], pool: CallPool) -> None:
        """Keeps what was planned, and lets go of what was used longest ago where that takes too much memory.

        What the process grew by is told as a whole: malloc hands on the memory of plans that are gone.
        """
        with self._lock:
            self._shapes[key] = pool
            while len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
            while len(self._shapes) > 1 and resident_bytes() - self._before_bytes > self._most_bytes:
                for _ in range(-(-len(self._shapes) // 4)):
                    self._shapes.popitem(last=False)
                give_back()

    def _run_parts(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        if not rows:
            return self._run_none(inputs)
        parts: list[dict[str, Array]] = []
        begin = 0
        for size in parts_of(rows, self._table):
            part = {name: value[begin : begin + size] for name, value in inputs.items()}
            lacking = begin + size - rows
            if lacking > 0:
                # A row that a caller has sent is one that the model can take.
                part = {
                    name: np.concatenate([value, np.broadcast_to(value[:1], (lacking, *value.shape[1:]))])
                    for name, value in part.items()
                }
            outputs = self._pools[size].run(part)
            if any(value.shape[:1] != (size,) for value in outputs.values()):
                return self._run_shaped(inputs)  # What is no batch can't be put together; whoever merges will see.
            parts.append(outputs)
            begin += size
        if len(parts) == 1:
            return {name: value[:rows] for name, value in parts[0].items()}
        return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}

    def _run_none(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """No rows: LiteRT plans none. One of zeros tells the outputs' other sizes."""
        one = {
            name: np.full((1, *value.shape[1:]), b"" if value.dtype.kind == "O" else 0, value.dtype)
            for name, value in inputs.items()
        }
        return {name: value[:0] for name, value in self.run(one).items()}


def one_line(error: Exception) -> str:
    """An error's text, as LiteRT has it on several lines."""
    return " ".join(str(error).split())


def graphs_of(interpreter: Any) -> list[Graph]:
    """What a file's signatures take and give; the first graph where it has none.

    Raises:
        LoadFailed: tensors of one name, or of a kind that has no place in a request.
    """
    inner = interpreter._interpreter  # noqa: SLF001  as in `planned`
    found = inner.GetSignatureDefs() or {}
    if not found:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        for details in (inputs, outputs):
            if len({detail["name"] for detail in details}) != len(details):
                raise LoadFailed("two of its tensors have one name, and it has no signatures")
        tensors = [{str(detail["name"]): int(detail["index"]) for detail in details} for details in (inputs, outputs)]
        return [_graph(inner, UNNAMED, 0, tensors[0], tensors[1])]
    return [
        _graph(inner, name, inner.GetSubgraphIndexFromSignature(name), one["inputs"], one["outputs"])
        for name, one in sorted(found.items())
        if one["outputs"]
    ]


def _graph(inner: Any, name: str, number: int, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Graph:
    def specs(tensors: Mapping[str, int]) -> dict[str, TensorSpec]:
        return {key: _spec(inner, key, index, number) for key, index in sorted(tensors.items())}

    signature = Signature(name=name, inputs=specs(inputs), outputs=specs(outputs), method=PREDICT)
    return Graph(signature, number, dict(sorted(inputs.items())), dict(sorted(outputs.items())))


def _spec(inner: Any, name: str, index: int, number: int) -> TensorSpec:
    kind = np.dtype(inner.TensorType(index, number))
    shape = tuple(int(size) for size in inner.TensorSizeSignature(index, number))
    dtype = np.dtype(object) if kind.kind in "OSU" else kind
    return TensorSpec(name=name, dtype=dtype, shape=shape)
