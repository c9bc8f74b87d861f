"""Looks at the disk again and again, and tells the manager what it finds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from fallback_server.core.servable import ServableId
from fallback_server.core.source import AspiredVersion, SourceSnapshot

PATIENCE_POLLS = 3
"""How many polls the start waits for versions that are still being written. One settles in two if the writing ended."""

_SLICE_S = 0.2
"""How soon a wait for loads sees that it should end."""

_log = logging.getLogger(__name__)


class Source(Protocol):
    """States what should be served; see `FileSystemSource`."""

    def poll(self) -> SourceSnapshot:
        """Looks once."""
        ...


class Target(Protocol):
    """Is told what should be served; see `Manager`."""

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """The complete set."""

    def wait_idle(self, *, timeout_s: float) -> bool:
        """Whether every load has ended, one way or the other, after at most so long."""
        ...


class Poller:
    """A thread of its own, since a look at a slow share may take long. A look that fails is logged, the next is made.

    Args:
        source: What should be served.
        manager: Is told, and serves it.
        wait_s: Between two looks; 0 looks until what is there at the start has settled, then no more.
        on_ready: Called once, in the poller's thread, when every version that was there at the start has been loaded,
            or could not be.
    """

    def __init__(
        self,
        *,
        source: Source,
        manager: Target,
        wait_s: float,
        on_ready: Callable[[], object],
    ) -> None:
        self._source = source
        self._manager = manager
        self._wait_s = wait_s
        self._on_ready = on_ready
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="poll", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """Ends it; the manager is told nothing more once this has returned in time."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        wait_s = self._wait_s or 1.0
        settled = self._poll()
        polls = 1
        while not settled and polls < PATIENCE_POLLS and not self._stopped.wait(wait_s):
            settled = self._poll()
            polls += 1
        while not self._stopped.is_set() and not self._manager.wait_idle(timeout_s=_SLICE_S):
            pass
        if not self._stopped.is_set():
            self._on_ready()
        while self._wait_s and not self._stopped.wait(wait_s):
            self._poll()

    def _poll(self) -> bool:
        """Looks once; whether all that was seen has settled."""
        try:
            snapshot = self._source.poll()
            if not self._stopped.is_set():
                self._manager.set_aspired(snapshot.aspired)
        except Exception:  # noqa: BLE001  without this thread nothing would be loaded any more, and nobody told
            _log.exception("looking for versions failed; the next look is in its time")
            return False
        return not snapshot.unsettled
