"""One run of an engine for several requests: joined, run, cut apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from converter.artifact import Signature
from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, EngineFailed
from edge_runtime.scheduling.slot import Slot
from edge_runtime.types import Arrays, InferRequest, Reply

_log = logging.getLogger(__name__)

_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def run_joined(slot: Slot, signature: Signature, requests: Sequence[InferRequest]) -> list[Arrays]:
    """Runs requests with equal keys together; the outputs of each.

    Raises:
        EngineFailed: the run failed, or an output's rows can't be told apart.
    """
    first = requests[0]
    if len(requests) == 1:
        return [slot.engine.run(first.signature, first.inputs, slot.limit_s(first.rows))]
    axis = signature.batch_axis or 0
    rows = [request.rows for request in requests]
    joined = {
        spec.name: np.concatenate([request.inputs[spec.name] for request in requests], axis=axis)
        for spec in signature.inputs
    }
    return split(slot.engine.run(first.signature, joined, slot.limit_s(sum(rows))), rows, axis)


def split(outputs: Arrays, rows: Sequence[int], axis: int) -> list[Arrays]:
    """Cuts joined outputs into each request's own.

    Raises:
        EngineFailed: an output has another number of rows than went in, so that rows can't be told apart.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim <= axis or array.shape[axis] != total:
            raise EngineFailed(f"output {name!r} has shape {list(array.shape)} for {total} rows")
    ends = np.cumsum(rows)[:-1]
    parts = {name: np.split(array, ends, axis=axis) for name, array in outputs.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(rows))]


def foreign(error: Exception) -> bool:
    """Whether a run in the caller's own thread raised what is not its engine's: a signal's handler did, or a thread.

    An engine fails with an EdgeRuntimeError, or with what Python and its libraries raise for a fault. Whatever class an
    application made for itself, and TimeoutError, as `signal.alarm` is used, is the application's.
    """
    if isinstance(error, EdgeRuntimeError):
        return False
    return isinstance(error, TimeoutError) or not isinstance(error, _FAULTS)


def replied(request: InferRequest, outputs: Arrays, slot: Slot, version: int, done_s: float) -> Reply:
    """The answer of a run that ended at that instant."""
    return Reply(
        outputs=outputs,
        version=version,
        place=slot.engine.place,
        reason=request.reason,
        latency_ms=(done_s - request.start_s) * 1e3,
    )


def named(request: InferRequest, error: Exception) -> EdgeRuntimeError:
    """The error itself where it has a name, else an EngineFailed that says what it was."""
    if isinstance(error, EdgeRuntimeError):
        return error
    _log.error("%s: an engine failed in a way that has no name", request.subject, exc_info=error)
    failure = EngineFailed(f"{request.subject}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def late(request: InferRequest, now_s: float, spent_ms: dict[str, float]) -> DeadlineExceeded:
    """The error for a request whose deadline has passed; what the stages leave over was spent before them."""
    deadline_s = now_s if request.deadline_s is None else request.deadline_s
    before_ms = max((now_s - request.start_s) * 1e3 - sum(spent_ms.values()), 0.0)
    return DeadlineExceeded(
        request.subject, (deadline_s - request.start_s) * 1e3, {"before that": before_ms, **spent_ms}
    )
