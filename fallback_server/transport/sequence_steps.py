"""Hands the steps of all streams to the data plane: those together that come before the event loop has rest."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from fallback_server.core.handle import ServableHandle
from fallback_server.dataplane import Answer, DataPlane, PredictCall, PredictReply
from fallback_server.sequences.figures import SequenceFigures
from fallback_server.served_model import ServedModel
from fallback_server.transport.gathering import LONGEST_S
from fallback_server.transport.serving_loop import ServingLoop

_log = logging.getLogger(__name__)


class Held:
    """A version that a stream holds, and the steps that it has under way: let go with the last of them.

    Args:
        handle: Closed then.
    """

    __slots__ = ("_handle", "_users")

    def __init__(self, handle: ServableHandle[ServedModel]) -> None:
        self._handle = handle
        self._users = 1

    @property
    def handle(self) -> ServableHandle[ServedModel]:
        """To be lent."""
        return self._handle

    def use(self) -> None:
        """One user more."""
        self._users += 1

    def done(self) -> None:
        """One user fewer."""
        self._users -= 1
        if not self._users:
            self._handle.close()


class Steps:
    """Who waits for which step. Lives in the event loop that makes it; only `_settle` is for any thread.

    Args:
        dataplane: Runs them.
        figures: Are told of what it has run.
    """

    def __init__(self, dataplane: DataPlane, figures: SequenceFigures) -> None:
        self._dataplane = dataplane
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._gathered: list[PredictCall] = []
        self._waiting: dict[PredictCall, tuple[asyncio.Future[Answer], Held]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def run(self, call: PredictCall, held: Held) -> asyncio.Future[Answer]:
        """The answer to a step. Where nobody waits for it any more, see `left`.

        Args:
            call: On the version that is held.
            held: Kept until it is settled.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        held.use()
        self._waiting[call] = (future, held)
        if not self._gathered:
            if isinstance(self._loop, ServingLoop):
                self._loop.at_rest(self, within_s=LONGEST_S)
            else:
                self._loop.call_soon(self.rest)
        self._gathered.append(call)
        return future

    def patience_s(self) -> float:
        """See `Rested`."""
        return 0.0

    def waited(self, took_s: float) -> None:
        """See `Rested`."""

    def rest(self) -> None:
        """See `Rested`."""
        self._flush()

    def left(self, call: PredictCall, future: asyncio.Future[Answer]) -> None:
        """Whoever waited has gone: unless it was answered, it is skipped if it does not run yet, and else runs in vain.

        Args:
            call: The step.
            future: What `run` gave for it.
        """
        if not future.done() or future.cancelled():
            call.left_s = self._dataplane.clock()

    def _flush(self) -> None:
        calls, self._gathered = self._gathered, []
        try:
            self._dataplane.predict(calls, self._settle, here=True)
        except Exception as error:  # noqa: BLE001  a fault of ours must not leave streams waiting for ever
            for call in calls:
                self._fail(call, error)
        for call in calls:
            call.inputs = {}  # The task has them, and frees them when they have run.

    def _fail(self, call: PredictCall, error: Exception) -> None:
        step = self._waiting.pop(call, None)
        if step is not None:
            future, held = step
            if not future.done():
                future.set_exception(error)
            held.done()

    def _settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        """The data plane's `Settle`: one hop to the event loop for a whole batch."""
        run = sum([isinstance(answer, PredictReply) for _, answer in answers])
        if run:
            self._figures.answered(answers[0][0].target.name, run)
        if threading.get_ident() == self._thread:
            self._apply(answers)
            return
        try:
            self._loop.call_soon_threadsafe(self._apply, answers)
        except RuntimeError:
            _log.debug("%d steps were settled after the server had stopped", len(answers))
            for call, _ in answers:
                self._waiting.pop(call)[1].done()

    def _apply(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        for call, answer in answers:
            step = self._waiting.pop(call, None)
            if step is None:
                continue  # It has failed otherwise.
            future, held = step
            if not future.done():
                future.set_result(answer)
            held.done()
