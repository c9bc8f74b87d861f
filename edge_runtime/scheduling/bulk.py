"""Requests of offline work: many in one entry of the queue, run in pieces, answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from converter.artifact import Signature
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, RuntimeClosed
from edge_runtime.scheduling.queue import Queued
from edge_runtime.scheduling.runs import foreign, named, replied, run_joined
from edge_runtime.scheduling.slot import Slot
from edge_runtime.types import InferRequest, Reply

PIECE_S = 0.002
"""How long a piece runs before others are looked at: long beside a thread's waking, short beside a deadline."""

Outcome = Reply | EdgeRuntimeError


class Bulk(Queued):
    """The future of many requests, of one signature and without deadlines. Once it is done, `outcomes` is full.

    Attributes:
        requests: What is asked.
        outcomes: What came of the first of them so far.
        whole: All of them as one, for the queue's bounds: rows and bytes are the sums.
    """

    def __init__(self, requests: Sequence[InferRequest]) -> None:
        """Takes at least one request."""
        super().__init__()
        self.requests = requests
        self.outcomes: list[Outcome] = []
        arrays = [array for request in requests for array in request.inputs.values()]
        self.whole = replace(
            requests[0],
            inputs={str(i): array for i, array in enumerate(arrays)},
            rows=sum(request.rows for request in requests),
        )

    def finish(self) -> None:
        """Tells whoever waits that each request has its outcome."""
        last = self.outcomes[-1]
        if isinstance(last, Reply):
            self.set_result(last)
        else:
            self.set_exception(last)

    @property
    def done_all(self) -> bool:
        """Whether each has its outcome."""
        return len(self.outcomes) == len(self.requests)


def asked_again(outcome: Outcome) -> bool:
    """Whether whoever waits for a bulk asks for this once more, alone.

    It failed, alone or with its batch-mates: on its own it may succeed, here or at a server.
    """
    return isinstance(outcome, EngineFailed | RuntimeClosed)


def run_piece(
    bulk: Bulk,
    slot: Slot,
    signature: Signature,
    clock: Callable[[], float],
    version: int,
    *,
    own_thread: bool = False,
) -> tuple[list[int], EdgeRuntimeError | None]:
    """Runs the next requests of a bulk for a few milliseconds, in the batches that pay.

    Args:
        bulk: What is asked.
        slot: Where.
        signature: Of all its requests.
        clock: Monotonic seconds.
        version: What replies say.
        own_thread: Whether this is the caller's thread, in which a signal's handler may raise too: see `foreign`.

    Returns:
        The rows of each run, and the error of the last one if it failed: its requests have it as their outcome.
    """
    runs: list[int] = []
    begun_s = now_s = clock()
    while not bulk.done_all and now_s - begun_s < PIECE_S:
        group = _group(bulk, slot, signature)
        rows = sum([request.rows for request in group])
        before_s = now_s
        try:
            outputs = run_joined(slot, signature, group)
        except Exception as error:
            # Else whatever it is belongs to these requests.
            if own_thread and foreign(error):
                raise
            if len(group) == 1:
                bulk.outcomes.append(failure := named(group[0], error))
                return runs, failure
            # One may have spoilt it for all: each is asked again on its own, by whoever waits for the bulk.
            failure = named(group[0], error)
            bulk.outcomes.extend([failure] * len(group))
            return runs, failure
        now_s = clock()
        slot.costs.record(rows, now_s - before_s)
        runs.append(rows)
        for request, arrays in zip(group, outputs, strict=True):
            bulk.outcomes.append(replied(request, arrays, slot, version, now_s))
    return runs, None


def _group(bulk: Bulk, slot: Slot, signature: Signature) -> Sequence[InferRequest]:
    """The next requests that run together: so many of equal shapes that they fill a size that pays, else one."""
    position, sizes = len(bulk.outcomes), slot.costs.sizes
    first = bulk.requests[position]
    if sizes[-1] == 1 or signature.batch_axis is None or first.rows != 1:
        return (first,)
    shape = _shape(first)
    like = 1
    for request in bulk.requests[position + 1 : position + sizes[-1]]:
        if _shape(request) != shape:
            break
        like += 1
    size = max(one for one in sizes if one <= like)
    return bulk.requests[position : position + size]


def _shape(request: InferRequest) -> object:
    return [(array.dtype, array.shape) for array in request.inputs.values()]
