"""Hands the steps of all streams to the data plane: those that come in a row together."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Sequence

from fallback_server.core.handle import ServableHandle
from fallback_server.dataplane import Answer, DataPlane, PredictCall, PredictReply
from fallback_server.sequences.figures import SequenceFigures
from fallback_server.served_model import ServedModel

_log = logging.getLogger(__name__)

QUIET_TURNS = 2
"""So many turns of the event loop without a further step end a row. An answer is more turns than one."""

MAX_ROW = 32
"""As many as make a batch where nobody says otherwise end one, too."""

MAX_ROW_S = 0.002
"""And so does the time."""


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


class _Step:
    __slots__ = ("future", "held")

    def __init__(self, future: asyncio.Future[Answer], held: Held) -> None:
        self.future = future
        self.held = held


class Row:
    """Steps that come one after another, without a pause between them. Pure.

    Args:
        until_s: When it is over at the latest.
    """

    __slots__ = ("_quiet", "_seen", "_until_s")

    def __init__(self, until_s: float = math.inf) -> None:
        self._until_s = until_s
        self._seen = 0
        self._quiet = 0

    def over(self, count: int, now_s: float) -> bool:
        """Whether it is, after one more turn of the event loop in which there were so many steps.

        Args:
            count: Of the row so far.
            now_s: The instant.
        """
        self._quiet = self._quiet + 1 if count == self._seen else 0
        self._seen = count
        return count >= MAX_ROW or self._quiet >= QUIET_TURNS or now_s >= self._until_s


class Steps:
    """Who waits for which step. Lives in the event loop that makes it; only `_settle` is for any thread.

    Args:
        dataplane: Runs them.
        figures: Are told of what it has run.
        live: How many streams are open.
    """

    def __init__(self, dataplane: DataPlane, figures: SequenceFigures, live: Callable[[], int]) -> None:
        self._dataplane = dataplane
        self._figures = figures
        self._live = live
        self._row = Row()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._gathered: list[PredictCall] = []
        self._waiting: dict[PredictCall, _Step] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def run(self, call: PredictCall, held: Held) -> Answer:
        """The answer to a step. Cancelled, it is skipped where it does not run yet, and else runs in vain.

        Args:
            call: On the version that is held.
            held: Kept until it is settled.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        held.use()
        self._waiting[call] = _Step(future, held)
        if not self._gathered:
            self._row = Row(until_s=self._dataplane.clock() + MAX_ROW_S)
            self._loop.call_soon(self._flush)
        self._gathered.append(call)
        try:
            return await future
        finally:
            if not future.done() or future.cancelled():
                call.left_s = self._dataplane.clock()

    def _flush(self) -> None:
        count, waiting = len(self._gathered), len(self._waiting)
        if waiting < self._live() and not self._row.over(count, self._dataplane.clock()):
            # Somebody else's step may be on its way in. Nobody waits for a clock: the loop has that to do anyway.
            self._loop.call_soon(self._flush)
            return
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
            if not step.future.done():
                step.future.set_exception(error)
            step.held.done()

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
                self._waiting.pop(call).held.done()

    def _apply(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        for call, answer in answers:
            step = self._waiting.pop(call, None)
            if step is None:
                continue  # It has failed otherwise.
            if not step.future.done():
                step.future.set_result(answer)
            step.held.done()
