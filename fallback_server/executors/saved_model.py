"""Runs SavedModels with TensorFlow: those of TensorFlow 1 and 2, of Keras 2 and 3, with no Keras objects made.

The graph is loaded into a session and called as it was exported. A session takes the signatures straight from the
file, runs from several threads at once, costs less a call than a restored function, and frees its memory on `close`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallback_server.core.errors import InvalidInput, LoadFailed
from fallback_server.executors.base import Array, Signature, TensorSpec, joint_name, joint_names
from fallback_server.executors.findings import Finding
from fallback_server.executors.granular import merging_signatures
from fallback_server.executors.loading import CALLERS, LoadingSession
from fallback_server.executors.probing import apart, made_up, mixes_rows
from fallback_server.executors.sizes import worth_rows
from fallback_server.executors.timing import LONG_RUN_S, least_s
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import TensorCodecError, numpy_dtype

_log = logging.getLogger(__name__)

MAX_PARALLELISM = 1024
"""More threads than any machine runs at a time."""

TAGS = ("serve",)
"""The MetaGraph that is meant for serving, as TensorFlow Serving takes it."""

_INTERNAL = "__saved_model"
"""Prefix of signatures that TensorFlow writes for itself: the initialization and the training step."""

_WORKER_BYTES = 2**26
_GRAPH_FACTOR = 17
"""See `estimated_bytes` for what they are measured at."""

_SHARED = 0
"""The session's own thread pool, as RunOptions has it."""

_TRIALS = 5
_TRIALS_S = 0.5
_CLEARLY = 0.8
"""Of the time: a lesser gain of one request is lost again when several run at once."""

_MEASURED_ROWS = (1, 2, 4, 8)

_LONGEST_TRIED_S = 0.5
"""With runs that take longer, one of twice the rows is not tried."""

AllCores = Callable[[], AbstractContextManager[None]]

_import_lock = threading.Lock()

Callable_ = Callable[..., list[Any]]


@dataclass(frozen=True, kw_only=True)
class SavedModelOptions:
    """How TensorFlow runs.

    Attributes:
        intra_op_parallelism: Threads that one operation may use; 0: one for each core.
        inter_op_parallelism: Operations of one request that may run at the same time; 0: one, or as many as TensorFlow
            likes where a trial shows that this is clearly faster.
        tags: Of the MetaGraph that is served.
    """

    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    tags: tuple[str, ...] = TAGS

    def __post_init__(self) -> None:
        for name in ("intra_op_parallelism", "inter_op_parallelism"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
            if getattr(self, name) > MAX_PARALLELISM:
                raise ValueError(f"{name} must be at most {MAX_PARALLELISM}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """One signature, ready to run.

    Attributes:
        run: Takes the inputs in the order of `feeds`, gives the outputs in the order of `fetches`.
        feeds: Input names.
        fetches: Output names.
        passed: Output name -> input name, where a model gives an input out as it is.
        repeated: Output name -> the output that is the same tensor: several signatures together may give one out twice.
    """

    run: Callable_
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    passed: Mapping[str, str]
    repeated: Mapping[str, str]


class SavedModelExecutor:
    """A SavedModel in a session of its own. See `Executor`.

    Attributes:
        findings: What was found of each signature that was tried.
    """

    kind = "tensorflow"
    in_process = True

    def __init__(
        self,
        session: Any,
        signature_defs: pb.SignatureDefMap,
        options: SavedModelOptions,
        *,
        merging: frozenset[str] = frozenset(),
        all_cores: AllCores = contextlib.nullcontext,
        known: Mapping[str, Finding] | None = None,
    ) -> None:
        self._session = session
        self._definitions = signature_defs.signature_def
        self._options = options
        self._all_cores = all_cores
        self._known = known or {}
        self.findings: dict[str, Finding] = {}
        self._signature_defs = signature_defs.SerializeToString(deterministic=True)
        self._tf = import_tensorflow()
        self._lock = threading.Lock()
        self._signatures: dict[str, Signature] = {}
        self._calls: dict[str, _Call] = {}
        for name, definition in sorted(signature_defs.signature_def.items()):
            if name.startswith(_INTERNAL):
                continue
            try:
                self._signatures[name] = _signature(name, definition, merges=name in merging)
            except TensorCodecError as error:
                _log.warning("signature %r can't be called from outside: %s", name, error)
                continue
            self._calls[name] = _call(session, definition, pool=options.inter_op_parallelism > 1)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature; see `Executor.run`."""
        call = self._calls.get(signature) or self._joint(signature)
        try:
            values = call.run(*[inputs[name] for name in call.feeds])
        except self._tf.errors.InvalidArgumentError as error:
            raise InvalidInput(f"the model refused the values: {first_line(error)}") from error
        except UnicodeDecodeError as error:
            # TensorFlow's refusal quotes the request's own bytes, which are no text, and so can't become an exception.
            raise InvalidInput("the model refused the values") from error
        outputs = {name: np.asarray(value) for name, value in zip(call.fetches, values, strict=True)}
        for output, source in call.passed.items():
            outputs[output] = inputs[source]
        for output, source in call.repeated.items():
            outputs[output] = outputs[source]
        return outputs

    def _joint(self, name: str) -> _Call:
        """Prepares what gives the outputs of several signatures that read the same tensors."""
        names = joint_names(name)
        with self._lock:
            if name in self._calls:
                return self._calls[name]
            together = pb.SignatureDef()
            for one in names:
                for key, info in self._definitions[one].inputs.items():
                    together.inputs[key].CopyFrom(info)
                for key, info in self._definitions[one].outputs.items():
                    together.outputs[joint_name(one, key)].CopyFrom(info)
            call = self._calls[name] = _call(self._session, together, pool=self._options.inter_op_parallelism > 1)
        return call

    def warm_up(self) -> None:
        """Runs each signature where zeros can be made, so that the first request pays for no set-up.

        And sees whether rows mix, see `mixes_rows`, and how long runs take, where that is not known already. What did
        not run is not merged: nobody knows whether it keeps rows apart.
        """
        for name, signature in list(self._signatures.items()):
            zeros = made_up(signature)
            if zeros is None:
                continue
            known = self._known.get(name)
            found = self._tried(name, zeros) if known is None or not known.ran else self._believed(name, zeros, known)
            self.findings[name] = found
            if found.mixes_rows is not False:
                self._signatures[name] = apart(signature, mixes=found.mixes_rows)
            elif found.cost_s and signature.batches and self._options.intra_op_parallelism == 1:
                # With several threads more rows are always cheaper: there is more to share out for each waking.
                self._signatures[name] = dataclasses.replace(signature, worth_rows=worth_rows(found.cost_s))

    def _tried(self, name: str, zeros: Mapping[str, Array]) -> Finding:
        batches = self._signatures[name].batches
        ran, pool, mixes = False, False, None if batches else False
        cost_s: dict[int, float] = {}
        try:
            self.run(name, zeros)
            if self._options.inter_op_parallelism == 0:
                pool = self._choose_threads(name, zeros)
            if batches:
                mixes = mixes_rows(functools.partial(self.run, name), zeros)
            cost_s = self._measured(name, zeros, merged=mixes is False and batches)
            ran = True
        except Exception as error:  # noqa: BLE001  a model may well refuse zeros or ones: requests will tell
            _log.info("signature %r did not run on zeros and ones: %s", name, first_line(error))
        return Finding(ran=ran, mixes_rows=mixes, pool=pool, cost_s=cost_s)

    def _believed(self, name: str, zeros: Mapping[str, Array], known: Finding) -> Finding:
        """What was found before; it is run for its set-up alone."""
        if known.pool:
            self._calls[name] = _call(self._session, self._definitions[name], pool=True)
        try:
            self.run(name, zeros)
        except Exception as error:  # noqa: BLE001  as in `_tried`
            _log.info("signature %r does not run on zeros any more: %s", name, first_line(error))
        return known

    def _choose_threads(self, name: str, inputs: Mapping[str, Array]) -> bool:
        """Has the calling thread run the signature's operations, unless the session's threads are clearly faster.

        To wake a thread takes longer than most operations of a small model; a large one of parallel branches gains.

        Returns:
            Whether the session's threads have them.
        """
        own = self._calls[name]
        pool = _call(self._session, self._definitions[name], pool=True)
        values = [inputs[feed] for feed in own.feeds]
        fastest_s = dict.fromkeys((own, pool), math.inf)
        begin_s = time.perf_counter()
        for _ in range(_TRIALS):
            for call in (own, pool):
                before_s = time.perf_counter()
                call.run(*values)
                fastest_s[call] = min(fastest_s[call], time.perf_counter() - before_s)
            if time.perf_counter() - begin_s > _TRIALS_S:
                break
        faster = fastest_s[pool] < _CLEARLY * fastest_s[own]
        if faster:
            self._calls[name] = pool
        return faster

    def _measured(self, name: str, zeros: Mapping[str, Array], *, merged: bool) -> dict[int, float]:
        """How long runs of one row take, and of more where they may be merged; nothing where they are short."""
        cost_s: dict[int, float] = {}
        with self._all_cores():
            for rows in _MEASURED_ROWS if merged else _MEASURED_ROWS[:1]:
                several = {key: np.repeat(value, rows, axis=0) for key, value in zeros.items()} if rows > 1 else zeros
                cost_s[rows] = least_s(functools.partial(self.run, name, several))
                if cost_s[1] < LONG_RUN_S:
                    return {}
                if cost_s[rows] > _LONGEST_TRIED_S:
                    break
        return cost_s

    def close(self) -> None:
        """Frees the session's memory."""
        self._calls.clear()
        self._session.close()


def open_saved_model(
    path: Path,
    options: SavedModelOptions,
    *,
    on_session: Callable[[], None] = lambda: None,
    all_cores: AllCores = contextlib.nullcontext,
    known: Mapping[str, Finding] | None = None,
) -> SavedModelExecutor:
    """Loads the SavedModel in a folder and runs it once. Imports TensorFlow, which takes seconds the first time.

    Args:
        path: The version's folder.
        options: How TensorFlow runs.
        on_session: Called once the session and its threads are made, before anything is read.
        all_cores: Lets the process have all cores that it will have, where it has fewer while it loads.
        known: What was found of its signatures before, with the same files and options: it is not tried again.

    Raises:
        LoadFailed: it has no signature that can be called, or no MetaGraph for serving.
        Exception: whatever TensorFlow says of files that are no SavedModel.
    """
    tf = import_tensorflow()
    graph = tf.Graph()
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_parallelism,
        inter_op_parallelism_threads=options.inter_op_parallelism,
    )
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        on_session()
        with graph.as_default():
            loading = LoadingSession(session, variables_bytes=sum(_sizes(path, "variables/*")))
            meta_graph = tf.compat.v1.saved_model.loader.load(loading, list(options.tags), str(path))
        definitions = pb.SignatureDefMap()
        for name, definition in meta_graph.signature_def.items():
            # TensorFlow's message class and ours have the same bytes.
            definitions.signature_def[name].MergeFromString(definition.SerializeToString())
        fetches = {
            name: [info.name for info in definition.outputs.values()]
            for name, definition in definitions.signature_def.items()
        }
        merging = merging_signatures(meta_graph.graph_def, fetches)
        executor = SavedModelExecutor(session, definitions, options, merging=merging, all_cores=all_cores, known=known)
        _check_callable(path, executor)
        executor.warm_up()
    except BaseException:
        session.close()
        raise
    return executor


def estimated_bytes(path: Path) -> int:
    """The most memory that a worker takes while it loads this SavedModel: 64 MiB, its variables once, 17 x its graph.

    Variables are read into the memory in which they stay. A graph is there as it was read, as messages, as nodes of
    each signature's own and as the tensors of its constants, more than once in each form while it is loaded, and part
    of what is freed then stays with the process.

    Measured with TensorFlow 2.21 on Linux as the worker's private memory, in MB (the higher of two runs):

    | model | graph | variables | loaded and warmed up | at most | this says |
    |---|---|---|---|---|---|
    | a CNN of two layers | 0.0 | 0.1 | 26 | 26 | 67 |
    | 300 layers of 64 x 64 | 0.9 | 5 | 119 | 119 | 87 |
    | five matrices | 0.0 | 100 | 127 | 128 | 167 |
    | five matrices | 0.0 | 300 | 334 | 334 | 367 |
    | frozen, five matrices | 100 | 0 | 1257 | 1592 | 1767 |
    | frozen, five matrices | 300 | 0 | 3976 | 4752 | 5167 |
    | TensorFlow 2, five matrices as constants | 100 | 0 | 1203 | 1746 | 1767 |

    Raises:
        OSError: a file can't be looked at.
    """
    graphs, variables = (sum(_sizes(path, pattern)) for pattern in ("saved_model.pb*", "variables/*"))
    return _WORKER_BYTES + variables + _GRAPH_FACTOR * graphs


def _sizes(path: Path, pattern: str) -> Iterator[int]:
    return (file.stat().st_size for file in path.glob(pattern))


def _check_callable(path: Path, executor: SavedModelExecutor) -> None:
    if not executor.signatures:
        raise LoadFailed(f"{path} has no signature that can be called")


@functools.cache
def _imported() -> Any:
    # Before the import: TensorFlow reads it once. An operator's own setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415  seconds and 300 MB: only for whoever loads a SavedModel

    tf.get_logger().setLevel("ERROR")
    # Loaded lazily otherwise: by each worker anew.
    _ = tf.compat.v1.saved_model.loader.load, tf.compat.v1.Session, tf.errors.InvalidArgumentError
    _callable_options(feed=[], fetch=[], pool=False)
    return tf


def import_tensorflow() -> Any:
    """TensorFlow, imported with what loading and running needs; seconds the first time."""
    with _import_lock:  # functools.cache would let two load threads both import
        return _imported()


def _signature(name: str, definition: pb.SignatureDef, *, merges: bool) -> Signature:
    return Signature(
        name=name,
        inputs={key: _spec(key, info) for key, info in definition.inputs.items()},
        outputs={key: _spec(key, info) for key, info in definition.outputs.items()},
        method=definition.method_name,
        batches_inside=merges,
        inputs_id=" ".join(f"{key}={definition.inputs[key].name}" for key in sorted(definition.inputs)),
    )


def _spec(name: str, info: pb.TensorInfo) -> TensorSpec:
    if not info.name:
        raise TensorCodecError(f"{name!r} is a sparse or composite tensor: only dense tensors can be sent")
    shape = None if info.tensor_shape.unknown_rank else tuple(int(dim.size) for dim in info.tensor_shape.dim)
    return TensorSpec(name=name, dtype=numpy_dtype(info.dtype), shape=shape)


def _call(session: Any, definition: pb.SignatureDef, *, pool: bool) -> _Call:
    """Prepares a signature's run. A session refuses to fetch what it is fed, so that is passed on here.

    Args:
        session: Has the graph.
        definition: The signature.
        pool: Whether operations go to the session's threads, or are run by the thread that calls.
    """
    feeds = tuple(sorted(definition.inputs))
    fed = {definition.inputs[name].name: name for name in feeds}
    first: dict[str, str] = {}
    for name in sorted(definition.outputs):
        first.setdefault(definition.outputs[name].name, name)
    fetches = tuple(name for tensor, name in first.items() if tensor not in fed)
    options = _callable_options(
        feed=[definition.inputs[name].name for name in feeds],
        fetch=[definition.outputs[name].name for name in fetches],
        pool=pool,
    )
    # make_callable, the public form, goes through a feed dictionary at each call and takes twice as long.
    run = session._make_callable_from_options(options)  # noqa: SLF001  TensorFlow is held below 2.22
    passed = {
        name: fed[definition.outputs[name].name] for name in definition.outputs if definition.outputs[name].name in fed
    }
    repeated = {
        name: first[info.name] for name, info in definition.outputs.items() if name not in (*passed, first[info.name])
    }
    return _Call(run=run, feeds=feeds, fetches=fetches, passed=passed, repeated=repeated)


def _callable_options(*, feed: list[str], fetch: list[str], pool: bool) -> Any:
    from tensorflow.core.protobuf import config_pb2  # noqa: PLC0415  as in _imported

    run_options = config_pb2.RunOptions(inter_op_thread_pool=_SHARED if pool else CALLERS)
    return config_pb2.CallableOptions(feed=feed, fetch=fetch, run_options=run_options)


def first_line(error: BaseException) -> str:
    """What TensorFlow said, without the graph's inner names that it tells before and after."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Graph execution error", "Detected at", "[[", "("))]
    return told[0] if told else type(error).__name__
