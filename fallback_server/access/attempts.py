"""Calls that were refused for who calls: counted by reason, and told in the log, at most once a second by caller."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from fallback_server.core.printable import printable

_log = logging.getLogger(__name__)

MAX_PEERS = 1024
"""Of which it is known when the log told of them last."""

EVERY_S = 1.0
"""The log tells of one caller no oftener; and of all together no oftener than `MAX_LINES` times in this."""

MAX_LINES = 10

_TEXT_CHARS = 300


class Reason(enum.Enum):
    """Why; the value is the metric's label."""

    NOTHING_SHOWN = "nothing_shown"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105  a reason, and no secret
    NOT_ALLOWED = "not_allowed"
    REVOKED = "revoked"
    EXPIRED = "expired"
    LIST_ENDED = "list_ended"
    WITHDRAWN = "authority_withdrawn"


class Attempts:
    """Thread-safe.

    Args:
        clock: Monotonic seconds.
        tells: Whether the log is told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, tells: bool = True) -> None:
        self._clock = clock
        self._tells = tells
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Reason, 0)
        self._told: OrderedDict[str, float] = OrderedDict()
        self._silent = 0
        self._turn_s = float("-inf")
        self._lines = 0

    def counts(self) -> Mapping[Reason, int]:
        """How many there were."""
        with self._lock:
            return dict(self._counts)

    def note(self, reason: Reason, peer: str, text: str) -> None:
        """A call was refused.

        Args:
            reason: Why.
            peer: Where it came from, without the port: else each connection would have a line of its own.
            text: What the caller is told.
        """
        with self._lock:
            self._counts[reason] += 1
            silent = self._silent
            if not self._tells or not self._may_tell(peer):
                self._silent += 1
                return
            self._silent = 0
        line = printable(text, max_chars=_TEXT_CHARS).replace("\n", "\\n").replace("\t", "\\t")
        more = f" ({silent} more were refused since the last line)" if silent else ""
        _log.warning("refused %s: %s%s", printable(peer, max_chars=_TEXT_CHARS), line, more)

    def _may_tell(self, peer: str) -> bool:
        now_s = self._clock()
        if now_s - self._turn_s >= EVERY_S:
            self._turn_s, self._lines = now_s, 0
        if now_s - self._told.get(peer, float("-inf")) < EVERY_S or self._lines >= MAX_LINES:
            return False
        self._lines += 1
        self._told[peer] = now_s
        self._told.move_to_end(peer)
        if len(self._told) > MAX_PEERS:
            self._told.popitem(last=False)
        return True
