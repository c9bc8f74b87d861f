"""The waiting requests: bounded in number and bytes, earliest deadline first. Not thread-safe: the batcher locks."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import count

from edge_runtime.scheduling.policy import Waiting
from edge_runtime.types import InferRequest, Reply

_SLACK = 64
"""Cancelled entries that may lie in the heap beside as many as wait."""


class Entry:
    """A request that waits, and the future of its reply."""

    __slots__ = ("future", "nbytes", "order", "queued", "queued_s", "request", "waiting")

    def __init__(self, request: InferRequest, key: object, queued_s: float, order: int) -> None:
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        self.request = request
        self.nbytes = size_of(request)
        self.future: Future[Reply] = Future()
        self.queued_s = queued_s
        self.order = order
        self.queued = False
        self.waiting = Waiting(key, request.rows, deadline_s)

    def __lt__(self, other: Entry) -> bool:
        return (self.waiting.deadline_s, self.order) < (other.waiting.deadline_s, other.order)


def size_of(request: InferRequest) -> int:
    """The bytes of a request's inputs."""
    return sum(array.nbytes for array in request.inputs.values())


class RequestQueue:
    """A heap of entries.

    Attributes:
        rows: The rows that wait.
        nbytes: The bytes of their inputs.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._heap: list[Entry] = []
        self._order = count()
        self._alive = 0
        self.rows = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return self._alive

    def __repr__(self) -> str:
        return (
            f"<RequestQueue {self._alive} of {self._max_requests} requests, {self.rows} rows, "
            f"{self.nbytes / 2**20:.1f} of {self._max_bytes / 2**20:.1f} MiB>"
        )

    def has_room(self, nbytes: int = 1) -> bool:
        """Whether a request of so many bytes fits. One larger than the bound is let in when nothing waits."""
        return not self._alive or (self._alive < self._max_requests and self.nbytes + nbytes <= self._max_bytes)

    def push(self, request: InferRequest, key: object, now_s: float) -> Entry:
        """Takes a request for which there is room."""
        entry = Entry(request, key, now_s, next(self._order))
        self._add(entry)
        return entry

    def head(self, limit: int) -> list[Entry]:
        """Removes and returns up to `limit` entries in order, the cancelled ones left out."""
        taken: list[Entry] = []
        while self._heap and len(taken) < limit:
            entry = heapq.heappop(self._heap)
            if entry.queued:
                self._forget(entry)
                taken.append(entry)
        return taken

    def drop(self, entry: Entry) -> None:
        """Frees the place of a request that was cancelled, if it still waits."""
        if entry.queued:
            self._forget(entry)
            # It stays in the heap until its turn; when most of the heap is such, it is made anew.
            if len(self._heap) > 2 * self._alive + _SLACK:
                self._heap = [one for one in self._heap if one.queued]
                heapq.heapify(self._heap)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Returns entries that were looked at and are not to run yet; they keep their order."""
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        entry.queued = True
        heapq.heappush(self._heap, entry)
        self._alive += 1
        self.rows += entry.request.rows
        self.nbytes += entry.nbytes

    def _forget(self, entry: Entry) -> None:
        entry.queued = False
        self._alive -= 1
        self.rows -= entry.request.rows
        self.nbytes -= entry.nbytes
