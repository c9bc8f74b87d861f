"""Between the event loop and the data plane: who waits for which answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fallback_server.core.errors import ServerStopping
from fallback_server.dataplane import DataPlane, PredictCall, PredictReply, Settle
from fallback_server.protocol.methods import PREPROCESSING_METADATA
from fallback_server.transport.answers import Answers, reply_of
from fallback_server.transport.rpc import Context

CLIENT_HEADER = "x-client-id"
"""Requests of one client go to one version where traffic is split; a request's own field comes before it."""

Run = Callable[[Sequence[PredictCall], Settle], None]


class Calls:
    """Runs calls of the data plane for coroutines. Lives in the event loop that makes it."""

    def __init__(self, dataplane: DataPlane) -> None:
        self.dataplane = dataplane
        self._answers = Answers(dataplane.clock)
        self._stopping = False

    def stop(self) -> None:
        """From now on every call is refused: whoever asks is to ask another server."""
        self._stopping = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self._answers)

    async def predict(self, call: PredictCall, context: Context) -> PredictReply:
        """The answer to one call, within the caller's deadline.

        Raises:
            ServerError: the call's fault.
        """
        _attribute(call, context, self.dataplane)
        (answer,) = await self._replies([call], self.dataplane.predict)
        return answer

    async def multi(self, calls: Sequence[PredictCall], context: Context) -> list[PredictReply]:
        """The answers to calls that one version must answer all.

        Raises:
            ServerError: the first fault.
        """
        for call in calls:
            _attribute(call, context, self.dataplane)
        return await self._replies(calls, self.dataplane.multi)

    async def _replies(self, calls: Sequence[PredictCall], run: Run) -> list[PredictReply]:
        if self._stopping:
            raise ServerStopping("the server is stopping")
        futures = [self._answers.expect(call) for call in calls]
        try:
            run(calls, self._answers.settle)
            for call in calls:
                call.inputs = {}  # The task has them, and frees them when they have run.
            answers = [await future for future in futures]
        finally:
            # Cancelled, or past its deadline: gRPC cancels this coroutine.
            for call in calls:
                self._answers.give_up(call)
        return [reply_of(answer) for answer in answers]


def _attribute(call: PredictCall, context: Context, dataplane: DataPlane) -> None:
    """What the call's context says beside its message: the deadline, and who calls."""
    left_s = context.time_remaining()
    if left_s is not None:
        deadline_s = dataplane.clock() + left_s
        call.deadline_s = deadline_s if call.deadline_s is None else min(call.deadline_s, deadline_s)
    call.client_key = call.client_key or _said(context, CLIENT_HEADER)
    call.preprocessing = _said(context, PREPROCESSING_METADATA).decode(errors="replace")


def _said(context: Context, wanted: str) -> bytes:
    """What the call's metadata has under a key; empty where it has nothing."""
    for key, value in context.invocation_metadata() or ():
        if key == wanted:
            return value if isinstance(value, bytes) else value.encode()
    return b""
