"""Calls that are queued anyway are so together with those that come at about the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fallback_server.core.errors import ExecutionFailed
from fallback_server.dataplane import DataPlane, PredictCall, Settle
from fallback_server.transport.crowd import Crowd
from fallback_server.transport.gathering import HURRY_S, Room
from fallback_server.transport.serving_loop import ServingLoop

_log = logging.getLogger(__name__)


class Queueing:
    """Queues calls that come at a time with one lock, and for one waking of a batch thread.

    A thread that is woken for each takes the interpreter's lock from the loop, and gets small batches. Lives in one
    event loop.

    Args:
        loop: Says when it has nothing else to do.
        dataplane: Takes the calls.
        settle: Takes their answers.
        crowd: Says which calls wait for that.
    """

    def __init__(self, loop: ServingLoop, dataplane: DataPlane, settle: Settle, crowd: Crowd | None = None) -> None:
        self._dataplane = dataplane
        self._settle = settle
        self._clock: Callable[[], float] = dataplane.clock
        self._room: Room[PredictCall] = Room(loop, self._queue, crowd)

    def joins(self, call: PredictCall) -> bool:
        """Whether a call is to be queued together with others: it is known to run in another process."""
        like = call.like
        if like is None or like.fit is None or like.fit.in_process or not self._room.crowd.joins():
            return False
        return call.deadline_s is None or call.deadline_s - self._clock() > HURRY_S

    def add(self, call: PredictCall) -> None:
        """Queues a call, in some milliseconds at the latest. It may be settled before this returns."""
        self._room.enter(call)

    def _queue(self, calls: list[PredictCall]) -> None:
        try:
            self._dataplane.predict(calls, self._settle)
        except Exception:  # noqa: BLE001  a fault of ours must not leave callers waiting, nor end the loop
            _log.exception("%d calls could not be queued", len(calls))
            self._settle([(call, ExecutionFailed("the model failed to run")) for call in calls])
        for call in calls:
            call.inputs = {}  # The tasks have them, and free them when they have run.
