"""Servers that refuse what they should take, or answer otherwise than they should: others of the kind come first."""

from __future__ import annotations

import threading
from typing import NamedTuple

REFUSALS_IN_A_ROW = 3
"""After so many a server comes last among those that have the version: one alone may be for what a request holds."""

HELD_S = 10.0
"""For so long, then a request finds out whether it is set up better now."""

_MAX_KNOWN = 1024
"""Servers and versions that are known to be misfits; the first goes when there is one more."""


class Claim(NamedTuple):
    """That a server has a version.

    Attributes:
        address: Which server.
        model: The model's name.
        version: The version; None for the label's, or the latest.
        label: The label, where there is no version.
    """

    address: str
    model: str
    version: int | None
    label: str | None


class _Record:
    """What is held against a claim."""

    __slots__ = ("in_a_row", "told", "until_s")

    def __init__(self) -> None:
        self.in_a_row = 0
        self.until_s = float("-inf")
        self.told = False


class Misfits:
    """Thread-safe; without a clock."""

    def __init__(self) -> None:
        """Nothing is held against anybody."""
        self._records: dict[Claim, _Record] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Misfits {list(self._records)}>"

    def refused(self, claim: Claim, now_s: float, *, surely: bool) -> bool:
        """A request that should fit was refused, or answered otherwise than it should be; whether it comes last now.

        Args:
            claim: Of which server.
            now_s: When.
            surely: Whether it can't be for what the request holds.
        """
        with self._lock:
            record = self._record(claim)
            record.in_a_row += 1
            if not surely and record.in_a_row < REFUSALS_IN_A_ROW:
                return False
            held, record.until_s = now_s < record.until_s, now_s + HELD_S
            return not held

    def answered(self, claim: Claim) -> bool:
        """It has answered as it should; whether it came last until now."""
        if claim not in self._records:
            return False
        with self._lock:
            record = self._record(claim)
            held = record.until_s > float("-inf")
            record.in_a_row, record.until_s = 0, float("-inf")
            return held

    def held(self, claim: Claim, now_s: float) -> bool:
        """Whether it comes last at present."""
        record = self._records.get(claim)
        return record is not None and now_s < record.until_s

    def tell(self, claim: Claim) -> bool:
        """Whether the log should say so: once."""
        with self._lock:
            record = self._record(claim)
            told, record.told = record.told, True
            return not told

    def _record(self, claim: Claim) -> _Record:
        record = self._records.get(claim)
        if record is None:
            while len(self._records) >= _MAX_KNOWN:
                del self._records[next(iter(self._records))]
            record = self._records[claim] = _Record()
        return record
