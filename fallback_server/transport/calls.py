"""Between the event loop and the data plane: who waits for which answer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from fallback_server.core.errors import ServerError
from fallback_server.dataplane import DataPlane, PredictCall, PredictReply, Settle
from fallback_server.transport.rpc import Context

_log = logging.getLogger(__name__)

CLIENT_HEADER = "x-client-id"
"""Requests of one client go to one version where traffic is split; a request's own field comes before it."""

Answer = PredictReply | ServerError
Run = Callable[[Sequence[PredictCall], Settle], None]


class Calls:
    """Runs calls of the data plane for coroutines. Lives in the event loop that makes it."""

    def __init__(self, dataplane: DataPlane) -> None:
        self.dataplane = dataplane
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: dict[PredictCall, asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def predict(self, call: PredictCall, context: Context) -> PredictReply:
        """The answer to one call, within the caller's deadline.

        Raises:
            ServerError: the call's fault.
        """
        _attribute(call, context, self.dataplane)
        (answer,) = await self._answers([call], self.dataplane.predict)
        return answer

    async def multi(self, calls: Sequence[PredictCall], context: Context) -> list[PredictReply]:
        """The answers to calls that one version must answer all.

        Raises:
            ServerError: the first fault.
        """
        for call in calls:
            _attribute(call, context, self.dataplane)
        return await self._answers(calls, self.dataplane.multi)

    async def _answers(self, calls: Sequence[PredictCall], run: Run) -> list[PredictReply]:
        futures = [self._loop.create_future() for _ in calls]
        self._waiting.update(zip(calls, futures, strict=True))
        try:
            run(calls, self._settle)
            for call in calls:
                call.inputs = {}  # The task has them, and frees them when they have run.
            answers = [await future for future in futures]
        finally:
            # Cancelled, or past its deadline: gRPC cancels this coroutine, and the task is skipped in its queue.
            for call in calls:
                call.cancelled = True
                del self._waiting[call]
        replies = [answer for answer in answers if isinstance(answer, PredictReply)]
        if len(replies) < len(answers):
            raise next(answer for answer in answers if isinstance(answer, ServerError))
        return replies

    def _settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        """In any thread: one hop to the event loop for a whole batch."""
        if threading.get_ident() == self._thread:
            self._apply(answers)
            return
        try:
            self._loop.call_soon_threadsafe(self._apply, answers)
        except RuntimeError:
            _log.debug("%d answers came after the server had stopped", len(answers))

    def _apply(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        for call, answer in answers:
            future = self._waiting.get(call)
            if future is not None and not future.done():
                future.set_result(answer)


def _attribute(call: PredictCall, context: Context, dataplane: DataPlane) -> None:
    """What the call's context says beside its message: the deadline, and who calls."""
    left_s = context.time_remaining()
    if left_s is not None:
        deadline_s = dataplane.clock() + left_s
        call.deadline_s = deadline_s if call.deadline_s is None else min(call.deadline_s, deadline_s)
    if not call.client_key:
        call.client_key = client_key(context)


def client_key(context: Context) -> bytes:
    """Who calls, by the header; empty where it is not sent."""
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_HEADER:
            return value if isinstance(value, bytes) else value.encode()
    return b""
