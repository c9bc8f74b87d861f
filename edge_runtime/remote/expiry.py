"""Says once a day which certificates are about to end."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from edge_runtime.remote.certificate import Certificate

_log = logging.getLogger(__name__)

SOON_S = 30 * 86400.0
"""Before its end a certificate is told of..."""

DAY_S = 86400.0
"""...once in so long."""

_MAX_TOLD = 128


class Expiry:
    """What was told of which certificate, and when. Thread-safe.

    Args:
        clock: Monotonic seconds.
        wall: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._told_s: dict[tuple[str, float], float] = {}

    def look(self, whose: str, certificate: Certificate | None) -> None:
        """Logs it where it ends soon, or has ended, and that was not told today."""
        if certificate is None:
            return
        left_s = certificate.until_s - self._wall()
        key, now_s = (whose, certificate.until_s), self._clock()
        with self._lock:
            if left_s >= SOON_S or now_s - self._told_s.get(key, -math.inf) < DAY_S:
                return
            self._told_s.pop(key, None)
            while len(self._told_s) >= _MAX_TOLD:
                del self._told_s[next(iter(self._told_s))]
            self._told_s[key] = now_s
        owner = certificate.owner or certificate.fingerprint
        if left_s < 0:
            _log.warning("%s (%s) has ended on %s", whose, owner, certificate.until)
        else:
            _log.warning("%s (%s) ends on %s, in %d days", whose, owner, certificate.until, left_s // DAY_S)
