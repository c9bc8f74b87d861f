"""What became of each request, in a file that is appended to: hours of them are in no process's memory."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

OK, WRONG, ERROR, NAMELESS = range(4)
"""Answered as the version does that it names; answered otherwise; an error with a name; another exception."""

_RECORD = np.dtype([("at_s", "<f8"), ("took_ms", "<f4"), ("kind", "u1"), ("outcome", "u1")])
_ROWS = 256
_MOST_TEXTS = 200


class WrongAnswer(Exception):
    """An answer that is not what the version makes of the request which it names."""


class Outcomes:
    """Notes requests. Thread-safe.

    Args:
        path: Of the file; errors' texts are written beside it, as `.json`.
        kinds: The names of requests' kinds.
        named: Exceptions that a caller may get.
    """

    def __init__(self, path: Path, kinds: tuple[str, ...], named: tuple[type[Exception], ...]) -> None:
        self._path = path
        self._kinds = {kind: number for number, kind in enumerate(kinds)}
        self._named = named
        self._lock = threading.Lock()
        self._rows: list[tuple[float, float, int, int]] = []
        self._texts: Counter[str] = Counter()
        self._file = path.open("ab")

    @contextmanager
    def request(self, kind: str) -> Iterator[None]:
        """One request: what the body raises is what became of it."""
        begun_s = time.monotonic()
        outcome, error = OK, None
        try:
            yield
        except WrongAnswer as wrong:
            outcome, error = WRONG, wrong
        except self._named as named:
            outcome, error = ERROR, named
        except Exception as other:  # noqa: BLE001  a finding
            outcome, error = NAMELESS, other
        took_ms = (time.monotonic() - begun_s) * 1e3
        with self._lock:
            self._rows.append((begun_s, took_ms, self._kinds[kind], outcome))
            if error is not None and len(self._texts) < _MOST_TEXTS:
                self._texts[f"{kind}: {_text(error)}"] += 1
            if len(self._rows) >= _ROWS:
                self._write()

    def close(self) -> None:
        """Writes what is left."""
        with self._lock:
            self._write()
            self._file.close()

    def _write(self) -> None:
        self._file.write(np.array(self._rows, _RECORD).tobytes())
        self._file.flush()
        self._rows.clear()
        self._path.with_suffix(".json").write_text(json.dumps(self._texts))


def _text(error: Exception) -> str:
    code = getattr(error, "code", None)
    said = f"{code()}: {error.details()}" if callable(code) and hasattr(error, "details") else repr(error)
    return said[:200]


class Seen(NamedTuple):
    """What became of requests, in the order in which they ended.

    Attributes:
        kinds: Their names.
        at_s: The monotonic instant of each request's beginning.
        took_ms: How long it took.
        kind: Which kind, as an index.
        outcome: See `OK`.
        texts: Errors, and how often each came.
    """

    kinds: tuple[str, ...]
    at_s: np.ndarray
    took_ms: np.ndarray
    kind: np.ndarray
    outcome: np.ndarray
    texts: dict[str, int]

    @classmethod
    def read(cls, path: Path, kinds: tuple[str, ...]) -> Self:
        """What `Outcomes` has written."""
        size = path.stat().st_size // _RECORD.itemsize
        rows = np.fromfile(path, _RECORD, size)
        beside = path.with_suffix(".json")
        texts = json.loads(beside.read_text()) if beside.exists() else {}
        return cls(kinds, rows["at_s"], rows["took_ms"], rows["kind"], rows["outcome"], texts)

    def and_also(self, other: Seen) -> Seen:
        """These and others, whose kinds come behind."""
        return Seen(
            self.kinds + other.kinds,
            *(np.concatenate(pair) for pair in ((self.at_s, other.at_s), (self.took_ms, other.took_ms))),
            np.concatenate((self.kind, other.kind + len(self.kinds))),
            np.concatenate((self.outcome, other.outcome)),
            self.texts | other.texts,
        )

    def kept(self, which: np.ndarray) -> Seen:
        """Those of them."""
        return Seen(
            self.kinds, self.at_s[which], self.took_ms[which], self.kind[which], self.outcome[which], self.texts
        )
