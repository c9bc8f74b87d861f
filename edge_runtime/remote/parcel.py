"""Requests that go to a server in one call: joined by rows, and their answer cut apart."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from msgspec.structs import replace

from edge_runtime.errors import DeadlineExceeded, InvalidInput, ServerFailed, ServerRefused
from edge_runtime.remote.timers import Timer
from edge_runtime.types import Arrays, InferRequest, Pending, Reply, Tried

Key = tuple[object, ...]
"""What requests have in common that may go together."""


class Cut:
    """A parcel that was refused and is asked again in two halves: where both are answered, it was only too large.

    Attributes:
        rows: Of the larger half.
    """

    __slots__ = ("_left", "rows")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._left = 2

    def answered(self) -> bool:
        """A half was answered; whether both are. Under the coalescer's lock."""
        self._left -= 1
        return self._left == 0


class Member:
    """One request on its way, whose future is settled once.

    Attributes:
        request: What goes.
        future: What its caller waits for.
        nbytes: What its inputs take in a message.
        parcel: The call that carries it; None while it waits.
        timer: Ends it at its deadline, where the call may last longer.
    """

    __slots__ = ("_once", "future", "nbytes", "parcel", "request", "timer")

    def __init__(self, request: InferRequest, nbytes: int) -> None:
        self.request = request
        self.nbytes = nbytes
        self.future = Pending()
        self.future.stage = "a server"
        self.parcel: Parcel | None = None
        self.timer: Timer | None = None
        self._once = threading.Lock()

    def answer(self, outputs: Arrays, reply: Reply, before: tuple[Tried, ...], now_s: float) -> None:
        """Its own part of the parcel's reply."""
        if not self._claim():
            return
        own = Reply(
            outputs=outputs,
            version=reply.version,
            place=reply.place,
            reason=self.request.reason,
            latency_ms=(now_s - self.request.start_s) * 1e3,
            before=before,
        )
        self.future.set_result(own)

    def fail(self, error: BaseException) -> None:
        """No answer."""
        if self._claim():
            self.future.set_exception(error)

    def late(self, now_s: float) -> DeadlineExceeded:
        """The error for a request whose deadline has passed."""
        request = self.request
        spent_ms = (now_s - request.start_s) * 1e3
        deadline_s = now_s if request.deadline_s is None else request.deadline_s
        stage = "waiting to be sent to a server" if self.parcel is None else "waiting for a server"
        return DeadlineExceeded(request.subject, (deadline_s - request.start_s) * 1e3, {stage: spent_ms})

    def _claim(self) -> bool:
        """Whether nobody has settled it, and its caller still waits."""
        if not self._once.acquire(blocking=False):
            return False
        if self.timer is not None:
            self.timer.cancel()
        return self.future.set_running_or_notify_cancel()


class Parcel:
    """Members under way in one call.

    Attributes:
        members: In the order of their rows.
        number: Of the call, where it counts among those under way; 0 where it doesn't.
        call: The call, once it is sent.
        cut: What it was cut out of by a refusal.
        before: The calls by which its members were asked before, together with others.
    """

    __slots__ = ("_live", "before", "call", "cut", "members", "number")

    def __init__(
        self, members: Sequence[Member], number: int = 0, *, cut: Cut | None = None, before: tuple[Tried, ...] = ()
    ) -> None:
        """Under the coalescer's lock."""
        self.members = tuple(members)
        self.number = number
        self.call: Future[Reply] | None = None
        self.cut = cut
        self.before = before
        self._live = len(self.members)
        for member in self.members:
            member.parcel = self

    @property
    def rows(self) -> int:
        """All members' together."""
        return sum(member.request.rows for member in self.members)

    @property
    def deadline_s(self) -> float | None:
        """The latest of the members'; None where one has none."""
        latest_s = float("-inf")
        for member in self.members:
            if member.request.deadline_s is None:
                return None
            latest_s = max(latest_s, member.request.deadline_s)
        return latest_s

    @property
    def soonest_s(self) -> float | None:
        """The first of the members' deadlines; None where none has one."""
        deadlines_s = [one.request.deadline_s for one in self.members]
        return min((one for one in deadlines_s if one is not None), default=None)

    @property
    def start_s(self) -> float:
        """The instant at which the first member's caller asked."""
        return min(member.request.start_s for member in self.members)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._live <= 0

    def left_by_one(self) -> bool:
        """A member's caller has gone; whether it was the last. Under the coalescer's lock."""
        self._live -= 1
        return self._live <= 0

    def request(self) -> InferRequest:
        """The members' inputs in one request, one after the other along the first axis."""
        first = self.members[0].request
        if len(self.members) == 1:
            return first
        parts = [member.request.inputs for member in self.members]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in first.inputs}
        return replace(first, inputs=joined, rows=self.rows, start_s=self.start_s, deadline_s=self.deadline_s)

    def shows_rows(self, reply: Reply) -> bool | None:
        """Whether the answer has the request's rows; None where it says nothing of that which is not known."""
        request = self.members[0].request
        if len(self.members) > 1 or not (request.guessed and request.batched):
            return None
        return all(array.shape[:1] == (request.rows,) for array in reply.outputs.values())

    def answer(self, reply: Reply, before: tuple[Tried, ...], now_s: float) -> None:
        """Cuts the reply apart. Each member's arrays are its own: one that is kept does not hold the others'."""
        before = (*self.before, *before)
        if len(self.members) == 1:
            self.members[0].answer(reply.outputs, reply, before, now_s)
            return
        begin = 0
        for member in self.members:
            end = begin + member.request.rows
            own = {name: array[begin:end].copy() for name, array in reply.outputs.items()}
            member.answer(own, reply, before, now_s)
            begin = end

    def fail(self, error: BaseException, now_s: float) -> None:
        """No member gets an answer; each gets an error of its own, since its caller's thread writes into it."""
        if self.before and isinstance(error, InvalidInput | ServerRefused | ServerFailed):
            error.tried = (*self.before, *error.tried)
        if len(self.members) == 1:
            self.members[0].fail(error)
            return
        for member in self.members:
            if isinstance(error, DeadlineExceeded):
                member.fail(member.late(now_s))
            elif isinstance(error, ServerFailed):
                member.fail(ServerFailed(member.request.subject, error.asked, lacking=error.lacking, tried=error.tried))
            else:
                member.fail(error)


def key_of(request: InferRequest, *, patient: bool) -> Key | None:
    """What it must have in common with others to go with them; None where it goes alone.

    Only rows that a server answers each for itself may be joined: the signature says so.
    """
    if not request.batched or not request.rows:
        return None
    key: list[object] = [
        request.model, request.version, request.label, request.signature, request.fingerprint, patient,
    ]  # fmt: skip
    for name, array in request.inputs.items():
        shape = array.shape
        if not shape or shape[0] != request.rows:
            return None
        key += (name, array.dtype.str, shape[1:])
    return tuple(key)


def wire_bytes(request: InferRequest) -> int:
    """What the inputs take in a message, about.

    Raises:
        TypeError: an input has values without a length, which have no wire form either.
    """
    size = 0
    for array in request.inputs.values():
        size += sum(map(len, array.reshape(-1).tolist())) if array.dtype.kind == "O" else array.nbytes
    return size
