"""Looks at the disk again and again: for versions, and for a configuration file that has changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.servable import ServableId
from fallback_server.core.source import SourceSnapshot

PATIENCE_POLLS = 3
"""How many polls the start waits for versions that are still being written. One settles in two if the writing ended."""

_SLICE_S = 0.2
"""How soon a wait for loads sees that it should end."""

_NAMED = 20
"""Of loads that hang."""

_log = logging.getLogger(__name__)


class Source(Protocol):
    """States what should be served; see `FileSystemSource` and `Control`."""

    def poll(self) -> SourceSnapshot:
        """Looks once."""
        ...


class Target(Protocol):
    """Is told what should be served; see `Manager` and `Control`."""

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """The complete set."""

    def wait_idle(self, *, timeout_s: float) -> bool:
        """Whether every load has ended, one way or the other, after at most so long."""
        ...

    def on_the_way(self) -> frozenset[ServableId]:
        """What has not ended."""
        ...


class Poller:
    """A thread of its own, since a look at a slow share may take long. A look that fails is logged, the next is made.

    Args:
        source: What should be served.
        manager: Is told, and serves it.
        wait_s: Between two looks; 0 looks until what is there has settled, then no more until it is woken.
        on_ready: Called once, in the poller's thread, when every version that was there at the start has been loaded,
            or could not be, or no load has ended for so long.
        max_start_wait_s: How long. A large model from a slow share takes minutes, and must be waited for; a load that
            hangs must not keep the others from being found.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        source: Source,
        manager: Target,
        wait_s: float,
        on_ready: Callable[[], object],
        max_start_wait_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._manager = manager
        self._wait_s = wait_s
        self._on_ready = on_ready
        self._max_start_wait_s = max_start_wait_s
        self._clock = clock
        self._stopped = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._work, name="poll", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Has it look at once: what is configured has changed. Any thread."""
        self._woken.set()

    def stop(self, *, timeout_s: float) -> None:
        """Ends it; the manager is told nothing more once this has returned in time."""
        self._stopped = True
        self._woken.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        self._look()
        self._wait_for_loads()
        if not self._stopped:
            self._on_ready()
        while self._nap(self._wait_s or None):
            if self._wait_s:
                self._poll()
            else:
                self._look()

    def _wait_for_loads(self) -> None:
        """Waits until nothing is on its way any more, or nothing of it has ended for too long.

        The disk is looked at meanwhile: what hangs may be taken away or mended, and what is new is loaded.
        """
        before: frozenset[ServableId] = frozenset()
        end_s = look_s = self._clock()
        while not self._stopped and not self._manager.wait_idle(timeout_s=_SLICE_S):
            now_s, loading = self._clock(), self._manager.on_the_way()
            if not before or before - loading:
                before, end_s = loading, now_s + self._max_start_wait_s
            elif now_s >= end_s:
                _log.warning(
                    "the server is ready, though no load has ended for %.0f s: %s",
                    self._max_start_wait_s,
                    _named(loading),
                )
                return
            if (self._wait_s and now_s >= look_s + self._wait_s) or self._woken.is_set():
                self._woken.clear()
                look_s = now_s
                self._poll()

    def _look(self) -> None:
        """Looks until what is there has settled, or is taken for a wreck."""
        wait_s = self._wait_s or 1.0
        settled = self._poll()
        polls = 1
        while not settled and polls < PATIENCE_POLLS and self._nap(wait_s):
            settled = self._poll()
            polls += 1

    def _nap(self, wait_s: float | None) -> bool:
        """Waits for the next look; False when there is none."""
        self._woken.wait(wait_s)
        if not self._stopped:
            self._woken.clear()
        return not self._stopped

    def _poll(self) -> bool:
        """Looks once; whether all that was seen has settled."""
        try:
            snapshot = self._source.poll()
            if not self._stopped:
                self._manager.set_aspired(snapshot.aspired)
        except Exception:  # noqa: BLE001  without this thread nothing would be loaded any more, and nobody told
            _log.exception("looking for versions failed; the next look is in its time")
            return False
        return not snapshot.unsettled


def _named(loading: Collection[ServableId]) -> str:
    """The first of them."""
    shown = ", ".join(map(str, sorted(loading)[:_NAMED]))
    return f"{shown} and {len(loading) - _NAMED} more" if len(loading) > _NAMED else shown


class WatchedFile(Protocol):
    """Tells whether it is another than was read; see `ConfigFile`."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    def has_changed(self) -> bool:
        """Whether it holds something else than what was taken, or can't be read."""
        ...


class ConfigWatcher:
    """A thread that has a configuration file read again when it has changed.

    A file that can't be read or applied changes nothing: that is logged once, and tried again at every look, since
    what it lacked may have come.

    Args:
        file: The file.
        reload: Reads and applies it; see `Control.reload`.
        wait_s: Between two looks.
    """

    def __init__(self, file: WatchedFile, *, reload: Callable[[], object], wait_s: float) -> None:
        self._file = file
        self._reload = reload
        self._wait_s = wait_s
        self._refused = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="config", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """Ends it."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def look(self) -> None:
        """Looks once; never raises for what is in the file."""
        if not self._file.has_changed():
            self._refused = ""
            return
        try:
            self._reload()
        except Exception as error:  # noqa: BLE001  a mistake in a file must not end what serves
            if self._refused != (text := str(error)):
                self._refused = text
                _log.error("%s has changed and can't be applied; what was, stays: %s", self._file.path, text)
            return
        _log.info("%s has changed and was applied", self._file.path)
        self._refused = ""

    def _work(self) -> None:
        while not self._stopped.wait(self._wait_s):
            self.look()
