"""When each version was used last: the time of an empty file, `NAME/VERSION.used`, beside it.

The clock of a board without a battery starts in the past: whatever it says, what is used now counts as used last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from converter.artifact.schema import MANIFEST
from edge_runtime.store.settling import USED

EVERY_S = 60.0
"""How often the use of a version that answers is written down: what wears an SD card is writing."""

_STEP_S = 1e-3

_log = logging.getLogger(__name__)


def used_s(folder: Path, version: int) -> float | None:
    """When the version was used last, in Unix seconds; None for never."""
    try:
        return (folder / f"{version}{USED}").stat().st_mtime
    except OSError:
        return None


def next_s(root: Path, now_s: float) -> float:
    """The time of what happens now in a store: later than everything that was installed or used there before."""
    return max([now_s, *(changed_s + _STEP_S for changed_s in _changes_s(root))])


def _changes_s(root: Path) -> Iterator[float]:
    """When versions were installed and used. What others write or remove meanwhile is not looked into."""
    for model in _names(root):
        for name in _names(root / model):
            path = root / model / name
            with contextlib.suppress(OSError):
                yield (path if name.endswith(USED) else path / MANIFEST).stat().st_mtime


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208  names are all
    except OSError:
        return []  # A file, or gone meanwhile.


def record(root: Path, model: str, version: int, now_s: float) -> None:
    """Writes down that the version is used now; nothing where it is not there any more.

    Raises:
        OSError: the folder can't be written.
    """
    folder = root / model
    if not (folder / str(version)).is_dir():
        return
    when_s = next_s(root, now_s)
    descriptor = os.open(folder / f"{version}{USED}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        os.utime(descriptor, (when_s, when_s))
    finally:
        os.close(descriptor)


class UseLog:
    """Writes down for a runtime what it uses: each version at most once a minute while it answers. Thread-safe.

    Not for the request path: whoever watches the store asks each version now and then how many requests it has taken.
    """

    def __init__(self, root: Path | None, clock: Callable[[], float], *, now: Callable[[], float] = time.time) -> None:
        """Writes nothing yet.

        Args:
            root: The store; None for none, where nothing is written.
            clock: Monotonic seconds.
            now: Unix seconds.
        """
        self._root = root
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._told = False
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<UseLog {self._root}, {len(self._seen)} versions>"

    def begins(self, model: str, version: int) -> None:
        """The version has been loaded."""
        with self._lock:
            self._seen[model, version] = (self._clock(), 0)
        self._write(model, version)

    def goes_on(self, model: str, version: int, requests: Callable[[], int]) -> None:
        """Looks whether the version was used, where a minute has passed since that was written down.

        Args:
            model: Whose.
            version: Which.
            requests: How many it has taken since it was loaded.
        """
        now_s = self._clock()
        with self._lock:
            written_s, counted = self._seen.get((model, version), (-EVERY_S, 0))
            if now_s - written_s < EVERY_S:
                return
            count = requests()
            self._seen[model, version] = (now_s, count)
        if count != counted:
            self._write(model, version)

    def ends(self, model: str, version: int) -> None:
        """The version has been unloaded."""
        with self._lock:
            self._seen.pop((model, version), None)
        self._write(model, version)

    def _write(self, model: str, version: int) -> None:
        if self._root is None:
            return
        try:
            record(self._root, model, version, self._now())
        except OSError as error:
            with self._lock:
                told, self._told = self._told, True
            if not told:
                said = error.strerror or error
                _log.info("what is used of %s is written down nowhere: %s", self._root, said)
