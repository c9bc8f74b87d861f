"""Servers that were announced or named, and are not trusted: counted by reason, and the latest of them kept to show."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge_runtime.remote.handshake import Reason
from edge_runtime.remote.log_limit import LogLimit, shown
from edge_runtime.telemetry import TrustStats, UntrustedServer

_log = logging.getLogger(__name__)

MAX_SHOWN = 64
"""Of those that are kept; the oldest gives way. All are counted."""


class Suspects:
    """Thread-safe.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._dropped = 0
        self._shown: dict[tuple[str, str], tuple[str, str, int, float]] = {}
        self._limit = LogLimit(_log, clock)

    def note(self, name: str, address: str, reason: Reason, said: str) -> None:
        """A server was found not to be trusted: once more, or for the first time, which the log tells.

        Args:
            name: What it is announced as; the address where it was named.
            address: `host:port`.
            reason: In one word.
            said: In a sentence's part.
        """
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + 1
            old = self._shown.pop((name, address), None)
            while len(self._shown) >= MAX_SHOWN:
                del self._shown[next(iter(self._shown))]
            times = 1 if old is None else old[2] + 1
            self._shown[name, address] = (reason, said, times, self._clock())
            if old is None or old[0] != reason:
                self._limit.warning("server %s at %s is not trusted: %s", shown(name), address, said)

    def cleared(self, name: str, address: str) -> None:
        """It is trusted now."""
        with self._lock:
            self._shown.pop((name, address), None)

    def forgot(self, name: str) -> None:
        """It is announced no more."""
        with self._lock:
            for key in [key for key in self._shown if key[0] == name]:
                del self._shown[key]

    def dropped(self, count: int) -> None:
        """Announcements came faster than they are looked at."""
        with self._lock:
            self._dropped += count

    @property
    def stats(self) -> TrustStats:
        """Those that are kept, the latest last, and all counts."""
        with self._lock:
            now_s = self._clock()
            found = tuple(
                UntrustedServer(name=name, address=address, reason=reason, said=said, times=times, ago_s=now_s - at_s)
                for (name, address), (reason, said, times, at_s) in self._shown.items()
            )
            return TrustStats(untrusted=found, counts=dict(self._counts), dropped=self._dropped)
