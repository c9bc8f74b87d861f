"""What one server has refused of late, by version or label: others are asked before it, or it is not asked at all."""

from __future__ import annotations

import threading
from typing import NamedTuple

from edge_runtime.remote.faults import Onward, RemoteFault
from fallback_server.protocol.status import Fault

FIRST_S = 0.1
"""So long others are asked first after a refusal: a full queue is soon shorter."""

LONGEST_S = 2.0
"""Refusals that follow upon each other double it up to this: then one request in two seconds finds out in vain, and is
answered elsewhere a round trip later."""

LACKS_S = 2.5
"""For how long it is believed that a server has not got what it did not find, as what a catalog says: longer than two
looks are apart."""

MAX_KEPT = 256
"""Versions and labels of one server; the one that was refused first goes when there is one more."""

Key = tuple[str, int | None, str | None]
"""Model, version and label."""


class _Refusal(NamedTuple):
    """One.

    Attributes:
        lacks: Whether the server did not find it; else it is full, loading, or doesn't know the call.
        since_s: The instant at which it was heard.
        until_s: The instant until which it counts.
        lasts_s: Seconds from the one to the other.
    """

    lacks: bool
    since_s: float
    until_s: float
    lasts_s: float


class Refusals:
    """Of one server. Thread-safe; asking takes no lock."""

    def __init__(self) -> None:
        """None is known."""
        self._kept: dict[Key, _Refusal] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Refusals {list(self._kept)}>"

    def failed(self, key: Key, fault: RemoteFault, now_s: float) -> bool:
        """A call for that was not answered; whether it makes a difference to whom others are sent to."""
        if fault.onward is Onward.PAID or fault.refusal:
            return False
        with self._lock:
            before = self._kept.get(key)
            if fault.fault is Fault.NOT_FOUND:
                lasts_s = LACKS_S
            elif before is None or before.lacks or now_s >= before.until_s + LONGEST_S:
                lasts_s = FIRST_S
            elif now_s < before.until_s:
                return False  # Calls that were under way together say no more than one of them.
            else:
                lasts_s = min(before.lasts_s * 2, LONGEST_S)
            while before is None and len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = _Refusal(fault.fault is Fault.NOT_FOUND, now_s, now_s + lasts_s, lasts_s)
        return True

    def answered(self, key: Key) -> bool:
        """A call for that was answered; whether it makes a difference."""
        if key not in self._kept:
            return False
        with self._lock:
            return self._kept.pop(key, None) is not None

    def forget(self) -> None:
        """The server is another than before."""
        with self._lock:
            self._kept.clear()

    def last(self, key: Key, now_s: float) -> bool:
        """Whether others are to be asked before it."""
        kept = self._kept.get(key)
        return kept is not None and not kept.lacks and now_s < kept.until_s

    def lacked_s(self, key: Key, now_s: float) -> float | None:
        """The instant at which it did not find that; None where it is not believed to lack it."""
        kept = self._kept.get(key)
        return kept.since_s if kept is not None and kept.lacks and now_s < kept.until_s else None
