"""The waiting requests: bounded in rows, earliest deadline first. Not thread-safe: the batcher holds its lock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import count

from edge_runtime.scheduling.policy import Waiting
from edge_runtime.types import InferRequest, Reply


class Entry:
    """A request that waits, and the future of its reply."""

    __slots__ = ("future", "order", "queued_s", "request", "waiting")

    def __init__(self, request: InferRequest, key: object, queued_s: float, order: int) -> None:
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        self.request = request
        self.future: Future[Reply] = Future()
        self.queued_s = queued_s
        self.order = order
        self.waiting = Waiting(key, request.rows, deadline_s)

    def __lt__(self, other: Entry) -> bool:
        return (self.waiting.deadline_s, self.order) < (other.waiting.deadline_s, other.order)


class RequestQueue:
    """A heap of entries.

    Attributes:
        rows: The rows that wait.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._heap: list[Entry] = []
        self._order = count()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<RequestQueue {len(self._heap)} requests, {self.rows} of {self._max_rows} rows>"

    def has_room(self, rows: int) -> bool:
        """Whether so many rows fit. A request larger than the bound is let in when nothing waits."""
        return not self._heap or self.rows + rows <= self._max_rows

    def push(self, request: InferRequest, key: object, now_s: float) -> Entry:
        """Takes a request for which there is room."""
        entry = Entry(request, key, now_s, next(self._order))
        heapq.heappush(self._heap, entry)
        self.rows += request.rows
        return entry

    def head(self, limit: int) -> list[Entry]:
        """Removes and returns up to `limit` entries in order, the cancelled ones left out and forgotten."""
        taken: list[Entry] = []
        while self._heap and len(taken) < limit:
            entry = heapq.heappop(self._heap)
            self.rows -= entry.request.rows
            if not entry.future.cancelled():
                taken.append(entry)
        return taken

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Returns entries that were looked at and are not to run yet; they keep their order."""
        for entry in entries:
            heapq.heappush(self._heap, entry)
            self.rows += entry.request.rows
