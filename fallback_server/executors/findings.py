"""What was found of a loaded version's signatures, and of which versions that is remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

MOST = 64
"""Versions that are remembered: those whose processes were lost and that are not loaded again yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What its runs have shown of one signature, as its version was loaded.

    Attributes:
        ran: Whether it ran, each time that was tried.
        mixes_rows: Whether a row's answer depends on the rows beside it; None where it has rows and nobody knows.
        pool: Whether its operations go to the session's threads.
        cost_s: Rows -> how long a run of them takes; empty where one row takes so little that threads don't matter.
    """

    ran: bool
    mixes_rows: bool | None
    pool: bool = False
    cost_s: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How a version was found to run best.

    Attributes:
        threads: Of an operation, as `SavedModelOptions.intra_op_parallelism` has it.
        findings: By signature.
    """

    threads: int
    findings: Mapping[str, Finding]


class Remembered:
    """How versions run best whose process was lost, for the load that follows. Thread-safe.

    Only for that: whoever has a version loaded anew otherwise has it measured anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: OrderedDict[Hashable, Pace] = OrderedDict()

    def keep(self, key: Hashable, pace: Pace) -> None:
        """For what will ask by this key; the oldest is forgotten where there are too many."""
        with self._lock:
            self._paces[key] = pace
            self._paces.move_to_end(key)
            if len(self._paces) > MOST:
                self._paces.popitem(last=False)

    def taken(self, key: Hashable) -> Pace | None:
        """What was kept, and is forgotten by that: where the load fails, the next one measures."""
        with self._lock:
            return self._paces.pop(key, None)
