"""Calls that are queued anyway are so together with those that come at about the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fallback_server.core.errors import ExecutionFailed
from fallback_server.dataplane import DataPlane, PredictCall, Settle
from fallback_server.transport.crowd import Crowd
from fallback_server.transport.gathering import HURRY_S, LONGEST_S
from fallback_server.transport.serving_loop import ServingLoop

_log = logging.getLogger(__name__)


class Queueing:
    """Queues calls when the event loop has nothing else to do: with one lock, and for one waking of a batch thread.

    A thread that is woken for each takes the interpreter's lock from the loop, and gets small batches. Lives in one
    event loop.

    Args:
        loop: Says when it has nothing else to do.
        dataplane: Takes the calls.
        settle: Takes their answers.
        crowd: Says which calls wait for that.
    """

    def __init__(self, loop: ServingLoop, dataplane: DataPlane, settle: Settle, crowd: Crowd | None = None) -> None:
        self._loop = loop
        self._dataplane = dataplane
        self._settle = settle
        self._crowd = crowd or Crowd()
        self._clock: Callable[[], float] = dataplane.clock
        self._waiting: list[PredictCall] = []

    def joins(self, call: PredictCall) -> bool:
        """Whether a call is to be queued together with others: it is known to run in another process."""
        like = call.like
        if like is None or like.fit is None or like.fit.in_process or not self._crowd.joins():
            return False
        return call.deadline_s is None or call.deadline_s - self._clock() > HURRY_S

    def add(self, call: PredictCall) -> None:
        """Queues a call, before the loop waits at the latest. It may be settled before this returns."""
        if not self._waiting:
            self._loop.at_rest(self, within_s=LONGEST_S)
        self._waiting.append(call)
        if len(self._waiting) >= self._crowd.most:
            self._loop.not_at_rest(self)
            self.rest()

    def patience_s(self) -> float:
        """See `Rested`: what runs them has nothing to do meanwhile."""
        return 0.0

    def waited(self, took_s: float) -> None:
        """See `Rested`."""

    def rest(self) -> None:
        """See `Rested`."""
        calls, self._waiting = self._waiting, []
        self._crowd.gathered(len(calls), in_vain=False)
        try:
            self._dataplane.predict(calls, self._settle)
        except Exception:  # noqa: BLE001  a fault of ours must not leave callers waiting, nor end the loop
            _log.exception("%d calls could not be queued", len(calls))
            self._settle([(call, ExecutionFailed("the model failed to run")) for call in calls])
        for call in calls:
            call.inputs = {}  # The tasks have them, and free them when they have run.
