"""A stream of edge.v1.Sequence: what it is at, what it has begun, and why it has ended."""

from __future__ import annotations

import asyncio
import enum

import grpc

from fallback_server.core.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    QueueFull,
    RequestCancelled,
    ServerError,
    ServerStopping,
)
from fallback_server.dataplane import PredictCall
from fallback_server.predict_call import Likeness
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.proto import serving_pb2
from fallback_server.sequences.figures import Ended
from fallback_server.sequences.state import SequenceState
from fallback_server.transport.sequence_steps import Held

_ENDED: dict[type[Exception], Ended] = {
    QueueFull: Ended.BOUND,
    ServerStopping: Ended.STOPPED,
    ExecutionFailed: Ended.FAILED,
    DeadlineExceeded: Ended.LEFT,
    RequestCancelled: Ended.LEFT,
    ServerError: Ended.REFUSED,
    grpc.aio.BaseError: Ended.LEFT,
}
"""In this order."""


class Phase(enum.Enum):
    """What a stream is at."""

    READING = enum.auto()
    RUNNING = enum.auto()
    WRITING = enum.auto()


class Stream:
    """One that is open.

    Attributes:
        task: Serves it.
        phase: What it is at.
        fault: Why it is ended from outside; None while it is not.
        why: The same, for the figures; None where that follows from how it ended.
        begun: What its first request came to; None before.
    """

    __slots__ = ("begun", "fault", "phase", "task", "why")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.phase = Phase.READING
        self.fault: ServerError | None = None
        self.why: Ended | None = None
        self.begun: Begun | None = None

    def end(self, fault: ServerError, why: Ended, *, cuts: bool = False) -> bool:
        """Ends it: at once where it awaits its caller, else once the step under way is answered.

        Args:
            fault: What its caller is told.
            why: See there.
            cuts: Whether at once, too, where its caller takes no answer.

        Returns:
            Whether it is ended at once.
        """
        if self.fault is None or cuts:
            if self.fault is None:
                self.fault, self.why = fault, why
            if self.phase is Phase.READING or (cuts and self.phase is Phase.WRITING):
                self.task.cancel()
                return True
        return False


class Begun:
    """What stays the same from a stream's first request on, and its state.

    Attributes:
        spec: What the first request asked for.
        call: The first, as far as all steps have it in common.
        held: The version.
        checked: The message of the step before, and the form of the state that it found; None before there was one.
        like: What was found of steps that are like that one; see `PredictCall.like`.
        signature: Of a step.
        state: What the sequence remembers.
    """

    __slots__ = ("call", "checked", "held", "like", "signature", "spec", "state")

    def __init__(
        self, spec: serving_pb2.ModelSpec, call: PredictCall, held: Held, signature: str, state: SequenceState
    ) -> None:
        self.spec = spec
        self.call = call
        self.held = held
        self.signature = signature
        self.state = state
        self.checked: tuple[pb.SequenceRequest, object] | None = None
        self.like = Likeness()


def why_ended(stream: Stream, error: Exception | None) -> Ended:
    """Why a stream has ended, for the figures."""
    if error is None or stream.why is not None:
        return stream.why or Ended.CLIENT
    return next((why for kind, why in _ENDED.items() if isinstance(error, kind)), Ended.FAILED)
