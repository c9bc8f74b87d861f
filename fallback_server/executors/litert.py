"""Runs TFLite files with LiteRT, in this process: there is no hop to another, which takes longer than a small model.

What crashes or hangs would take the server along, so a file comes in here only after another process has run it; see
`trial`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import statistics
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from fallback_server.core.errors import InvalidInput, LoadFailed, VersionNotReady
from fallback_server.executors.base import VARIABLE, Array, RunSizes, Signature, TensorSpec
from fallback_server.executors.definitions import PREDICT, definitions
from fallback_server.executors.litert_calls import CallPool, GraphCall, Shape
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.probing import made_up, mixes_rows
from fallback_server.executors.sizes import parts_of, parts_table, thinned

_log = logging.getLogger(__name__)

UNNAMED = "serving_default"
"""What the graph of a file without signatures is called: what a request means that names none."""

MAX_SHAPES = 8
"""Combinations of shapes, beyond the prepared numbers of rows, that a signature keeps interpreters for."""

KEPT_BYTES = 2**29
"""Of weights in all interpreters of a version together, where a few don't take more: each packs them anew."""

_MIN_KEPT = 4
_TIMED_S = 0.1
_MIN_RUNS, _MAX_RUNS = 3, 15
_ENOUGH_THREADS = 4
_LONG_S = 1e-3
_CLEARLY = 0.8
"""Of the time: a lesser gain of one request is lost again when several run at once."""


class LiteRtExecutor:
    """A TFLite file. See `Executor`.

    Args:
        file: Its bytes; closed by `close`.
        sizes: How it will be run.
        whole: Signatures whose requests must not be merged.
        threads: Of one run; 0: one, or several where a trial shows that this is clearly faster.

    Attributes:
        threads: Of one run.

    Raises:
        LoadFailed: LiteRT refuses the file, or it has nothing that can be called.
    """

    kind = "litert"
    platform = "tensorflow"
    in_process = True

    def __init__(
        self,
        file: SealedFile,
        *,
        sizes: RunSizes,
        whole: frozenset[str] = frozenset(),
        threads: int = 0,
    ) -> None:
        self._file = file
        self._asked_threads = threads
        self.threads = max(threads, 1)
        kept = max(_MIN_KEPT, KEPT_BYTES // max(file.size_bytes, 1))
        self._sizes = thinned(sizes.rows, max(2, kept // sizes.threads))
        self._limit = max(1, min(sizes.threads, kept // len(self._sizes)))
        self._graphs = {graph.name: graph for graph in _graphs(self.interpreter())}
        self._signatures = {
            name: dataclasses.replace(graph.signature, mixes_rows=name in whole) for name, graph in self._graphs.items()
        }
        if not self._signatures:
            raise LoadFailed("it has no signature with outputs")
        self._signature_defs = definitions(self._signatures.values())
        self._runners = self._made_runners()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature; see `Executor.run`. The outputs are the caller's own."""
        try:
            runner = self._runners[signature]
        except KeyError:
            raise VersionNotReady("the version is taken out of service; the request was not run") from None
        try:
            return runner.run(inputs)
        except (RuntimeError, ValueError) as error:
            # All that could be wrong with names, dtypes and shapes was checked, and the file has run before.
            raise InvalidInput(f"the model refused the values: {' '.join(str(error).split())}") from error

    def warm_up(self) -> None:
        """Runs each signature on zeros, in all its sizes, and sees whether rows mix and whether state is kept.

        Signatures that no zeros can be made for, or that refuse them, are left as they are: requests will tell.
        """
        for name, signature in list(self._signatures.items()):
            zeros = made_up(signature)
            if zeros is None:
                continue
            try:
                self._warm_up(name, signature, zeros)
            except InvalidInput as error:
                _log.info("signature %r did not run on zeros and ones: %s", name, error)

    def stands_for(self, methods: Mapping[str, str], signature_defs: bytes) -> None:
        """Takes the words of another form of the same version, so that clients see no difference.

        Args:
            methods: Signature name -> its method.
            signature_defs: All of the other form's signatures.
        """
        self._signature_defs = signature_defs
        self._signatures = {
            name: dataclasses.replace(signature, method=methods.get(name, signature.method))
            for name, signature in self._signatures.items()
        }

    def close(self) -> None:
        """Lets go of all interpreters."""
        self._runners = {}
        self._file.close()

    def interpreter(self) -> Any:
        """Another interpreter of the file, which maps the same pages.

        Raises:
            LoadFailed: LiteRT refuses it.
        """
        module = import_litert()
        try:
            return module.Interpreter(model_path=self._file.path, num_threads=self.threads)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise LoadFailed(f"LiteRT can't load it: {' '.join(str(error).split())}") from error

    def _made_runners(self) -> dict[str, _Runner]:
        return {
            name: _Runner(self, graph, self._signatures[name], sizes=self._sizes, limit=self._limit)
            for name, graph in self._graphs.items()
        }

    def _warm_up(self, name: str, signature: Signature, zeros: dict[str, Array]) -> None:
        runner = self._runners[name]
        first, second = self.run(name, zeros), self.run(name, zeros)
        if any(not np.array_equal(first[key], second[key], equal_nan=first[key].dtype.kind in "fc") for key in first):
            # It may be chance, or variables of the graph; several interpreters would each have their own.
            self._graphs[name].resets = True
            runner.forget()
        if signature.batches and mixes_rows(functools.partial(self.run, name), zeros):
            self._signatures[name] = dataclasses.replace(signature, mixes_rows=True)
            self._signature_defs = definitions(self._signatures.values())
            self._runners[name] = _Runner(
                self, self._graphs[name], self._signatures[name], sizes=self._sizes, limit=self._limit
            )
            _log.warning(
                "signature %r: a row's answer depends on the rows beside it: its requests are not merged", name
            )
            return
        if self._asked_threads == 0 and self.threads == 1:
            self._choose_threads(name, zeros)
        self._runners[name].measure(zeros)

    def _choose_threads(self, name: str, zeros: Mapping[str, Array]) -> None:
        """Has several threads run one row, where that is clearly faster: to wake them takes longer than a small run."""
        alone_s = _median_s(lambda: self.run(name, zeros))
        if alone_s < _LONG_S:
            return
        self.threads = min(_ENOUGH_THREADS, usable_cores())
        before, self._runners = self._runners, self._made_runners()
        if _median_s(lambda: self.run(name, zeros)) > _CLEARLY * alone_s:
            self.threads, self._runners = 1, before


class _Graph:
    """What an interpreter's graph takes and gives, by names.

    Attributes:
        name: The signature's.
        number: The subgraph.
        inputs: Name -> tensor's index.
        outputs: Name -> tensor's index.
        signature: With the shapes of the file.
        resets: Whether variables begin anew at each run.
    """

    def __init__(
        self, signature: Signature, number: int, inputs: Mapping[str, int], outputs: Mapping[str, int]
    ) -> None:
        self.name = signature.name
        self.number = number
        self.inputs = inputs
        self.outputs = outputs
        self.signature = signature
        self.resets = False


class _Runner:
    """One signature: finds, or plans, what runs inputs of a shape.

    Numbers of rows that lie between the prepared ones are padded up, or run in several parts, whichever was measured to
    be sooner.
    """

    def __init__(
        self, executor: LiteRtExecutor, graph: _Graph, signature: Signature, *, sizes: tuple[int, ...], limit: int
    ) -> None:
        self._executor = executor
        self._graph = graph
        self._limit = limit
        self._signature = signature
        self._names = tuple(graph.inputs)
        self._first = self._names[0] if self._names else ""
        inner = {name: (spec.shape or ())[1:] for name, spec in signature.inputs.items()}
        self._by_rows = signature.batches and not any(VARIABLE in shape for shape in inner.values())
        self._inner = inner
        self._sizes = sizes
        self._table = parts_table({size: float(size) for size in sizes})
        self._pools: dict[int, CallPool] = {}
        self._shapes: OrderedDict[tuple[Shape, ...], CallPool] = OrderedDict()
        self._lock = threading.Lock()
        if self._by_rows:
            self._make_pools()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs inputs that fit the signature."""
        if not self._by_rows:
            return self._run_shaped(inputs)
        rows = inputs[self._first].shape[0]
        pool = self._pools.get(rows)
        return self._run_parts(inputs, rows) if pool is None else pool.run(inputs)

    def measure(self, one: Mapping[str, Array]) -> None:
        """Plans for all sizes, and times them; `one` has one row."""
        if not self._by_rows:
            return
        cost_s: dict[int, float] = {}
        for size in self._sizes:
            inputs = {name: np.repeat(value, size, axis=0) for name, value in one.items()}
            cost_s[size] = _median_s(functools.partial(self._pools[size].run, inputs))
        self._table = parts_table(cost_s)

    def forget(self) -> None:
        """Plans all anew."""
        with self._lock:
            self._shapes.clear()
        if self._by_rows:
            self._make_pools()

    def _make_pools(self) -> None:
        self._pools = {
            size: self._pool({name: (size, *inner) for name, inner in self._inner.items()}) for size in self._sizes
        }

    def _pool(self, shapes: Mapping[str, Shape]) -> CallPool:
        return CallPool(functools.partial(self._plan, shapes), limit=self._limit)

    def _plan(self, shapes: Mapping[str, Shape]) -> GraphCall:
        graph = self._graph
        return GraphCall(
            self._executor.interpreter(),
            graph=graph.number,
            inputs=graph.inputs,
            outputs=graph.outputs,
            shapes=shapes,
            resets=graph.resets,
        )

    def _run_shaped(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Any shapes: those that were used longest ago give way."""
        key = tuple([inputs[name].shape for name in self._names])
        with self._lock:
            pool = self._shapes.get(key)
            if pool is None:
                pool = self._shapes[key] = self._pool(dict(zip(self._names, key, strict=True)))
                if len(self._shapes) > MAX_SHAPES:
                    self._shapes.popitem(last=False)
            else:
                self._shapes.move_to_end(key)
        if self._signature.batches and not inputs[self._first].shape[0]:
            return self._run_none(inputs)
        return pool.run(inputs)

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
                part = {name: np.concatenate([value, np.repeat(value[:1], lacking, 0)]) for name, value in part.items()}
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
        one = {name: np.zeros((1, *value.shape[1:]), value.dtype) for name, value in inputs.items()}
        return {name: value[:0] for name, value in self.run(one).items()}


def open_litert(
    file: SealedFile, *, sizes: RunSizes, whole: frozenset[str] = frozenset(), threads: int = 0
) -> LiteRtExecutor:
    """Loads a TFLite file and runs it once; see `LiteRtExecutor`. The file is closed where that fails.

    Raises:
        LoadFailed: it can't be loaded.
    """
    try:
        executor = LiteRtExecutor(file, sizes=sizes, whole=whole, threads=threads)
        executor.warm_up()
    except BaseException:
        file.close()
        raise
    return executor


@functools.cache
def import_litert() -> Any:
    """LiteRT's module, loaded by whoever loads a file first."""
    from ai_edge_litert import interpreter  # noqa: PLC0415  100 ms, only for whoever loads a file

    return interpreter


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _median_s(run: Any) -> float:
    """The median time of some runs, after one that is not counted."""
    run()
    took_s: list[float] = []
    end_s = time.perf_counter() + _TIMED_S
    while len(took_s) < _MIN_RUNS or (len(took_s) < _MAX_RUNS and time.perf_counter() < end_s):
        begin_s = time.perf_counter()
        run()
        took_s.append(time.perf_counter() - begin_s)
    return statistics.median(took_s)


def _graphs(interpreter: Any) -> list[_Graph]:
    """What a file's signatures take and give; the first graph where it has none.

    Raises:
        LoadFailed: tensors of one name, or of a kind that has no place in a request.
    """
    inner = interpreter._interpreter  # noqa: SLF001  as in GraphCall
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


def _graph(inner: Any, name: str, number: int, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> _Graph:
    def specs(tensors: Mapping[str, int]) -> dict[str, TensorSpec]:
        return {key: _spec(inner, key, index, number) for key, index in sorted(tensors.items())}

    signature = Signature(name=name, inputs=specs(inputs), outputs=specs(outputs), method=PREDICT)
    return _Graph(signature, number, dict(sorted(inputs.items())), dict(sorted(outputs.items())))


def _spec(inner: Any, name: str, index: int, number: int) -> TensorSpec:
    kind = np.dtype(inner.TensorType(index, number))
    shape = tuple(int(size) for size in inner.TensorSizeSignature(index, number))
    dtype = np.dtype(object) if kind.kind in "OSU" else kind
    return TensorSpec(name=name, dtype=dtype, shape=shape)
