"""Installed versions that could not be loaded: left alone for a while, and those that were found damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_runtime.bare import OneStore
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.installing.damage import tells_damage
from edge_runtime.store.store import Store
from edge_runtime.versions import Key, stamp_of

REFUSED_S = 60.0
"""How long a version that could not be loaded is left alone: for lack of memory, say, that may be there later."""

MAX_REFUSED = 1024
"""Versions that are kept in mind; with one more the table begins anew, and each is tried once more."""


class RefusedVersions:
    """Which versions of a store could not be loaded of late. Thread-safe.

    A version is looked at again at once when another publication lies at its place: it was half copied, or replaced.

    Args:
        store: Where they lie.
        clock: Monotonic seconds.
    """

    def __init__(self, store: Store | OneStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: dict[Key, float] = {}
        self._damaged: set[Key] = set()

    def refuse(self, name: str, version: int, error: EdgeRuntimeError) -> bool:
        """Leaves a version alone for a while; whether it was found damaged."""
        key = (name, version, stamp_of(self._store, name, version))
        damaged = tells_damage(error.__cause__)
        with self._lock:
            if len(self._until_s) >= MAX_REFUSED:
                self._until_s.clear()
                self._damaged.clear()
            self._until_s[key] = self._clock() + REFUSED_S
            if damaged:
                self._damaged = {one for one in self._damaged if one[:2] != key[:2]} | {key}
        return damaged

    def leaves_alone(self, key: Key) -> bool:
        """Whether a version is not to be tried now."""
        return self._until_s.get(key, 0.0) > self._clock()

    def loaded(self, key: Key) -> None:
        """A version was loaded, so it is not damaged."""
        with self._lock:
            self._damaged.discard(key)

    def damaged(self, name: str) -> list[int]:
        """The versions of a model that lie here and were found damaged."""
        with self._lock:
            keys = [key for key in self._damaged if key[0] == name]
        return [version for _, version, stamp in keys if stamp == stamp_of(self._store, name, version)]

    def __repr__(self) -> str:
        return f"<RefusedVersions {len(self._until_s)} left alone, {len(self._damaged)} damaged>"
