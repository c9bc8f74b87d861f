"""What becomes of a failed run: its slot, who supervises it, and the request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost
from edge_runtime.scheduling.allotment import Settled
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.queue import Entry
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.waking import wake

_log = logging.getLogger(__name__)


class Failures:
    """Thread-safe."""

    def __init__(self, desk: Desk, on_failure: Callable[[Slot, EdgeRuntimeError], None]) -> None:
        """Takes the batcher's."""
        self._desk = desk
        self._on_failure = on_failure

    def lost(self, slot: Slot, failure: EdgeRuntimeError) -> Settled:
        """All slots of an engine that is lost go out of use; who can't be answered any more, and is to be told."""
        if not isinstance(failure, EngineLost):
            return []
        settled, sleepers = self._desk.lose(slot)
        for sleeper in sleepers:
            wake(sleeper)
        return settled

    def tell(self, slot: Slot, failure: EdgeRuntimeError, settled: Settled) -> None:
        """Whoever supervises the slot hears of the failure, and those who can't be answered get their errors."""
        for entry, error in settled:
            entry.fail(error)
        if not isinstance(failure, EngineFailed):
            return
        try:
            self._on_failure(slot, failure)
        except Exception:  # noqa: BLE001  a supervisor's fault must not end the engine's worker
            _log.exception("%r: the handler of its failure failed", slot)

    def retry(self, slot: Slot, entry: Entry, failure: EdgeRuntimeError) -> None:
        """A request's run failed: it is tried again on another slot, or ends."""
        if isinstance(failure, EngineFailed):
            error, sleeper = self._desk.failed(slot, entry, failure)
            wake(sleeper)
            if error is None:
                return
            failure = error
        entry.fail(failure)
