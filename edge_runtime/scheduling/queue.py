"""The waiting requests: bounded in number and bytes, urgent ones first, then by deadline. Not thread-safe.

A signal's handler may end a caller here as in `gate`: the counts are changed in lines without a call, together with
what they count, so that they are never wrong.
"""

from __future__ import annotations

import heapq
import logging
import math
from _thread import TIMEOUT_MAX, allocate_lock, get_ident
from collections.abc import Callable, Iterable
from itertools import count

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.policy import Waiting
from edge_runtime.scheduling.slot import Slot
from edge_runtime.scheduling.waking import wake
from edge_runtime.types import InferRequest, Pending, Reply

_log = logging.getLogger(__name__)

_SLACK = 64
"""Cancelled entries that may lie in the heap beside as many as wait."""


_NOBODY = allocate_lock()
"""In the place of a sleeping caller's lock, where there is a future."""


class Queued(Pending):
    """The future of a request in the queue. Cancelling it frees its place at once."""

    stage = "the device's queue"
    on_cancel: Callable[[], object] | None = None

    def cancel(self) -> bool:
        """See `Future.cancel`."""
        done = super().cancel()
        if done and self.on_cancel is not None:
            self.on_cancel()
        return done


class Entry:
    """A request that waits, and how its answer is handed over: by a future, or to a caller that sleeps on a bare lock.

    A future costs a condition, a list of callbacks and two more locks: a caller that does nothing but wait for its own
    answer needs none of them.

    Attributes:
        future: The future; None for a sleeping caller.
        tried: The gates of the devices on which it failed.
        losses: How many engines were lost while they ran it.
        failure: What it failed with on the last of them.
        requests: How many it stands for: in a bulk, those that have no outcome yet.
        owner: The thread that made it.
        queued: Whether it waits in the queue.
        slot: What the sleeping caller was given instead of an answer, with its permits: it runs its request itself.
    """

    __slots__ = (
        "_claimed",
        "_error",
        "_reply",
        "awake",
        "failure",
        "future",
        "losses",
        "nbytes",
        "order",
        "owner",
        "queued",
        "queued_s",
        "request",
        "requests",
        "slot",
        "tried",
        "waiting",
    )

    def __init__(self, request: InferRequest, key: object, queued_s: float, order: int, future: Queued | None) -> None:
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        self.request = request
        self.nbytes = size_of(request)
        self.requests = 1
        self.future = future
        self.queued_s = queued_s
        self.order = order
        self.owner = get_ident()
        self.queued = False
        self.waiting = Waiting(key, request.rows, deadline_s)
        self.tried: tuple[Gate, ...] = ()
        self.losses = 0
        self.failure: EdgeRuntimeError | None = None
        self.slot: Slot | None = None
        self._claimed = False
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        self.awake = _NOBODY
        if future is None:
            self.awake = allocate_lock()
            self.awake.acquire()

    @property
    def key(self) -> tuple[int, float, int, Entry]:
        """What the waiting ones are ordered by; no two orders are equal, so that entries are never compared."""
        return (self.request.priority, self.waiting.deadline_s, self.order, self)

    def claim(self) -> bool:
        """Whether it may run: its caller has not given up. From then on it can't be cancelled."""
        if self.future is None or self._claimed:
            return True
        self._claimed = self.future.set_running_or_notify_cancel()
        return self._claimed

    def succeed(self, reply: Reply) -> None:
        """Hands the answer over; once, and after `claim`."""
        if self.future is not None:
            try:
                self.future.set_result(reply)
            except BaseException as error:  # noqa: BLE001  a callback that ends its thread must not end an engine's
                _log.error("a callback of %s failed", self.request.subject, exc_info=error)
            return
        self._reply = reply
        wake(self.awake)

    def fail(self, error: BaseException) -> None:
        """Hands an error over; once, and after `claim`."""
        if self.future is not None:
            try:
                self.future.set_exception(error)
            except BaseException as other:  # noqa: BLE001  likewise
                _log.error("a callback of %s failed", self.request.subject, exc_info=other)
            return
        self._error = error
        wake(self.awake)

    def wait(self, timeout_s: float | None) -> Reply | Slot | None:
        """Sleeps until there is an answer or a slot, and returns it or raises the error; None when time is over."""
        if not self.awake.acquire(timeout=-1 if timeout_s is None else min(timeout_s, TIMEOUT_MAX)):
            return None
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # The traceback holds this frame, which holds the entry.
        return self._reply if self.slot is None else self.slot


def size_of(request: InferRequest) -> int:
    """The bytes of a request's inputs."""
    return sum([array.nbytes for array in request.inputs.values()])


class RequestQueue:
    """A heap of entries.

    Attributes:
        requests: The requests that wait: an entry may stand for several, and is bounded as one.
        rows: The rows that wait.
        nbytes: The bytes of their inputs.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._latest = (0, -math.inf)  # The place of the last that waits, or of one behind it that has left.
        # Of tuples: entries of their own order would be compared by Python code, in which a handler may raise.
        self._heap: list[tuple[int, float, int, Entry]] = []
        self._order = count()
        self._alive = 0
        self.requests = 0
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

    def entry(self, request: InferRequest, key: object, now_s: float, future: Queued | None = None) -> Entry:
        """An entry of the next order, that does not wait yet."""
        return Entry(request, key, now_s, next(self._order), future)

    def push(
        self, request: InferRequest, key: object, now_s: float, future: Queued | None = None, requests: int = 1
    ) -> Entry:
        """Takes a request for which there is room, or one that stands for several."""
        entry = self.entry(request, key, now_s, future)
        entry.requests = requests
        self._add(entry)
        return entry

    def first(self) -> Entry | None:
        """The entry whose turn it is; it stays."""
        heap = self._heap
        while heap:
            if heap[0][3].queued:
                return heap[0][3]
            heapq.heappop(heap)
        return None

    def head(self, limit: int) -> list[Entry]:
        """Removes and returns up to `limit` entries in order, the cancelled ones left out."""
        taken: list[Entry] = []
        while len(taken) < limit and (entry := self.first()) is not None:
            taken.append(entry)
            self._forget(entry)
        return taken

    def drop(self, entry: Entry) -> bool:
        """Frees the place of a request that was cancelled; whether it still waited."""
        if not entry.queued:
            return False
        self._forget(entry)
        # It stays in the heap until its turn; when most of the heap is such, it is made anew.
        if len(self._heap) > 2 * self._alive + _SLACK:
            alive = [one for one in self._heap if one[3].queued]
            heapq.heapify(alive)
            self._heap = alive
        return True

    def drop_sleeper(self, thread: int) -> None:
        """Frees the place of the thread that slept for an answer, and does no more."""
        for one in list(self._heap):
            if one[3].owner == thread and one[3].future is None:
                self.drop(one[3])

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Returns entries that were looked at and are not to run yet; they keep their order."""
        for entry in entries:
            self._add(entry)

    def is_last(self, request: InferRequest) -> bool:
        """Whether a request that comes now stands behind all that wait; False where none waits."""
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        return self._alive > 0 and (request.priority, deadline_s) >= self._latest

    def _add(self, entry: Entry) -> None:
        place = entry.request.priority, entry.waiting.deadline_s
        if not self._alive or place > self._latest:
            self._latest = place
        requests, rows, nbytes = entry.requests, entry.request.rows, entry.nbytes
        heapq.heappush(self._heap, entry.key)
        entry.queued = True
        self._alive += 1
        self.requests += requests
        self.rows += rows
        self.nbytes += nbytes

    def _forget(self, entry: Entry) -> None:
        entry.queued = False
        self._alive -= 1
        self.requests -= entry.requests
        self.rows -= entry.request.rows
        self.nbytes -= entry.nbytes


def hand_over(answers: list[tuple[Entry, Reply]]) -> None:
    """Gives the answers to who waits for them, and forgets them."""
    for entry, reply in answers:
        entry.succeed(reply)
    answers.clear()
