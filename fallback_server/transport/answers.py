"""Takes the data plane's answers, in whatever thread they come, to the coroutines that wait for them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from fallback_server.core.errors import RequestCancelled, ServerError
from fallback_server.dataplane import Answer, PredictCall, PredictReply

_log = logging.getLogger(__name__)


class Answers:
    """Who waits for which answer. Lives in the event loop that makes it; only `settle` is for any thread.

    Args:
        clock: The data plane's: when somebody stopped waiting is told by it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: dict[PredictCall, asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def expect(self, call: PredictCall) -> asyncio.Future[Answer]:
        """What a call's answer will be in, until it is given up.

        A fault is the future's result like any other: an exception of a future that nobody awaits would be logged.
        """
        future = self._waiting[call] = self._loop.create_future()
        return future

    def give_up(self, call: PredictCall) -> None:
        """Nobody waits for a call any more.

        Where it was not answered it is skipped in its queue; if it runs already, it runs in vain; see `Watchdog`.
        """
        if not _answered(self._waiting.pop(call)):
            call.left_s = self._clock()

    def settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        """The data plane's `Settle`: one hop to the event loop for a whole batch."""
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


def _answered(future: asyncio.Future[Answer]) -> bool:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    return not isinstance(future.result(), RequestCancelled)


def reply_of(answer: Answer) -> PredictReply:
    """The reply that an answer is.

    Raises:
        ServerError: it is a fault.
    """
    if isinstance(answer, ServerError):
        try:
            raise answer
        finally:
            del answer  # A fault that its own traceback leads to would keep the request until Python looks for such.
    return answer
