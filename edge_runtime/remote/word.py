"""Whether a server keeps to what it says that it serves: after some contradictions what it does counts, not its word.

A version may be loaded or go, or a label move, between what a server says and what it answers. So contradictions count
once for each time that it has been asked what it serves, and an answer that is as it said makes up for all of them.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from edge_runtime.remote.catalog import ServedCatalog, Serves, find, resolved
from edge_runtime.remote.refusals import Key

TIMES = 3
"""So many in a row: two may be for a label that is moved to and fro."""

SPLIT_TIMES = 12
"""The same where the server splits requests between versions: that often it is chance in two cases of a thousand where
the version that it names gets two of five."""

HELD_S = 10.0
"""For so long its word does not count, then a request finds out."""

MAX_KEPT = 256
"""Versions and labels of one server; the one that was contradicted first goes when there is one more."""


class Said(NamedTuple):
    """What a server has said would answer.

    Attributes:
        version: That; 0 where it has not said.
        split: Whether others get some of the requests too.
    """

    version: int
    split: bool = False


class _Doubt:
    """What contradicts one claim."""

    __slots__ = ("did", "times", "told_s", "until_s")

    def __init__(self) -> None:
        self.did = 0
        self.times = 0
        self.told_s = float("nan")
        self.until_s = float("-inf")


class Word:
    """Of one server. Thread-safe; asking takes no lock."""

    def __init__(self) -> None:
        """It is believed."""
        self._kept: dict[Key, _Doubt] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Word, doubted {list(self._kept)}>"

    def did(self, key: Key, said: Said, did: int, told_s: float, now_s: float) -> bool:
        """What came of a request; whether its word counts no more from now on.

        Args:
            key: What was asked for.
            said: What it said would answer.
            did: The version that answered; 0 where it did not find any.
            told_s: The instant at which it was asked what it serves.
            now_s: The instant.
        """
        if said.version in {0, did}:
            if did and key in self._kept:
                self._kept.pop(key, None)
            return False
        with self._lock:
            doubt = self._kept.get(key)
            while doubt is None and len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            if doubt is None:
                doubt = self._kept[key] = _Doubt()
            doubt.did = did
            if doubt.told_s == told_s:
                return False
            doubt.told_s, doubt.times = told_s, doubt.times + 1
            if doubt.times < (SPLIT_TIMES if said.split else TIMES):
                return False
            held, doubt.until_s = now_s < doubt.until_s, now_s + HELD_S
            return not held

    def does(self, key: Key, now_s: float) -> int | None:
        """The version that really answers, 0 for none; None where its word counts."""
        doubt = self._kept.get(key)
        return doubt.did if doubt is not None and now_s < doubt.until_s else None

    def forget(self) -> None:
        """The server is another than before."""
        with self._lock:
            self._kept.clear()


def promised(catalog: ServedCatalog | None, key: Key) -> Said:
    """What would answer, by what a server says. Pure."""
    name, version, label = key
    if version is not None:
        found = find(catalog, name, version, label)
        return Said(version if found is not None and found.serves is Serves.YES else 0)
    model = None if catalog is None else catalog.models.get(name)
    split = model is not None and label is None and model.split
    return Said(resolved(catalog, name, None, label), split)
