"""Requests that wait for the same model leave as one call, once those before them are answered."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from edge_runtime.errors import InvalidInput, RuntimeClosed, ServerFailed, ServerRefused
from edge_runtime.remote.faults import Apart
from edge_runtime.remote.group import Group
from edge_runtime.remote.journey import Journey
from edge_runtime.remote.lanes import MAX_BARE_IN_FLIGHT, gap_s, load, may_leave, patience_s
from edge_runtime.remote.parcel import Cut, Key, Member, Parcel, key_of, wire_bytes
from edge_runtime.remote.sender import Sender
from edge_runtime.remote.timers import Later
from edge_runtime.types import InferRequest, Reply, Tried

MAX_WAITING = 16384
"""Requests that wait to be sent; past this they fail, and the device is asked."""

MAX_WAITING_BYTES = 256 * 2**20
"""What their inputs may take: a quarter of a small board's memory."""

MAX_GROUPS = 256
"""Kinds of requests that are known at once; past this a new one is sent alone."""

Kind = tuple[str, int | None, str | None]
"""Model, version and label."""


class Carrier(Protocol):
    """What sends: `RemoteClient`."""

    def send(
        self, request: InferRequest, requests: int, *, patient: bool, soonest_s: float | None = None
    ) -> Journey[Reply]:
        """Sets out with one message.

        Args:
            request: All that goes.
            requests: How many are joined in it.
            patient: Whether nobody else can answer.
            soonest_s: The first of their deadlines; the request has the last. None where it is the same.

        Raises:
            ValueError, TypeError: it has no wire form.
            TimeoutError: its deadline passed before it was sent.
        """
        ...

    def servers(self) -> int:
        """How many may be asked now."""
        ...

    def expects(self, request: InferRequest, nbytes: int) -> float | None:
        """Seconds in which a request of that size should be answered; None if that can't be said."""
        ...


class Coalescer:
    """Sends a request at once while few of its kind are under way, and else with the others that wait. Thread-safe."""

    def __init__(self, carrier: Carrier, later: Later, sender: Sender, clock: Callable[[], float]) -> None:
        """Takes what sends.

        Args:
            carrier: Sends a call.
            later: For deadlines, and for calls that take too long to be waited for.
            sender: Does what no interrupt may come into.
            clock: Monotonic seconds.
        """
        self._carrier = carrier
        self._later = later
        self._sender = sender
        self._clock = clock
        self._groups: dict[Key, Group] = {}
        self._numbers = itertools.count(1)
        self._pressed_s: dict[Kind, float] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        with self._lock:
            under_way = sum(len(group.started_s) for group in self._groups.values())
            return f"<Coalescer, {self._waiting} waiting, {under_way} calls under way>"

    def submit(self, request: InferRequest, *, patient: bool) -> Future[Reply]:
        """Takes the request; what goes wrong is in the future. Cancelling it frees its place."""
        try:
            member = Member(request, wire_bytes(request))
        except TypeError:
            member = Member(request, request.nbytes)  # Has no wire form, which is told when it is sent.
        backlog = self._sender.backlog
        backlog_bytes = self._sender.backlog_bytes
        if backlog and (backlog >= MAX_WAITING or backlog_bytes + member.nbytes > MAX_WAITING_BYTES):
            member.fail(_full(request.subject, backlog, backlog_bytes))
            return member.future
        try:
            self._sender.run(lambda: self._take(member, patient=patient), member.nbytes)
        except BaseException:
            member.future.cancel()  # The caller was interrupted: nobody waits for it.
            raise
        return member.future

    def _take(self, member: Member, *, patient: bool) -> None:
        """Sends it, or has it wait."""
        request = member.request
        if member.future.done():
            return
        now_s = self._clock()
        if request.deadline_s is not None and now_s >= request.deadline_s:
            member.fail(member.late(now_s))
            return
        with self._lock:
            group = self._group(request, patient=patient)
            parcel = None if self._closed else self._bare(group, member, now_s)
            refused = None if parcel is not None else self._enqueued(group, member)
            watch_s = self._watch(group, now_s) if parcel is None and refused is None else None
        if refused is not None:
            member.fail(refused)
            return
        member.future.add_done_callback(lambda _: self._sender.run(lambda: self._gone(group, member)))
        if parcel is not None:
            self._send(group, parcel)
            return
        if request.deadline_s is not None:
            member.timer = self._later.call(max(request.deadline_s - now_s, 0.0), lambda: self._late(member))
            if member.timer is not None and member.future.done():
                member.timer.cancel()
        self._plan_look(group, watch_s)

    def waits_s(self, request: InferRequest) -> float:
        """Seconds that it would wait, about, before it is sent: half of the time between two calls, if others wait."""
        return self._pressed_s.get(_kind(request), 0.0) if self._pressed_s else 0.0

    def close(self) -> None:
        """What waits fails, and calls under way when the connections are closed: with RuntimeClosed, all of them.

        What was handed over before is done before.
        """
        self._closed = True
        self._sender.run(self._fail_all)

    def _fail_all(self) -> None:
        with self._lock:
            left = [member for group in self._groups.values() for queue in group.waiting for member in queue]
            for group in self._groups.values():
                for queue in group.waiting:
                    queue.clear()
            self._waiting = self._waiting_bytes = 0
        for member in left:
            member.fail(_over(member))

    def _group(self, request: InferRequest, *, patient: bool) -> Group:
        """The group of its kind; one of its own where it can't go with others."""
        key = key_of(request, patient=patient)
        if key is None:
            return Group(patient=patient)
        group = self._groups.get(key)
        if group is not None:
            return group
        if len(self._groups) >= MAX_GROUPS:
            for old in [old for old, one in self._groups.items() if one.idle]:
                del self._groups[old]
        group = Group(patient=patient, by_rows=None if request.guessed else True)
        if len(self._groups) < MAX_GROUPS:
            self._groups[key] = group
        return group

    def _bare(self, group: Group, member: Member, now_s: float) -> Parcel | None:
        """The request alone, where nothing waits and another call may be sent; None where it must wait."""
        if any(group.waiting) or not self._may_leave(group, now_s):
            return None
        return self._departing(group, [member], now_s)

    def _departing(self, group: Group, members: list[Member], now_s: float) -> Parcel:
        number = next(self._numbers)
        group.started_s[number] = now_s
        return Parcel(members, number)

    def _may_leave(self, group: Group, now_s: float) -> bool:
        group.forget_lost(now_s)
        if len(group.started_s) < MAX_BARE_IN_FLIGHT:
            return True
        ages_s = [now_s - started_s for started_s in group.started_s.values()]
        return may_leave(ages_s, group.usual_s, self._carrier.servers())

    def _enqueued(self, group: Group, member: Member) -> Exception | None:
        """Puts it behind the others, or says why not."""
        subject = member.request.subject
        if self._closed:
            return RuntimeClosed(f"{subject}: the runtime has been closed")
        if self._waiting >= MAX_WAITING or self._waiting_bytes + member.nbytes > MAX_WAITING_BYTES:
            return _full(subject, self._waiting, self._waiting_bytes)
        group.add(member)
        if group.usual_s is not None:
            self._pressed_s[_kind(member.request)] = min(gap_s(group.usual_s), group.usual_s) / 2
        self._waiting += 1
        self._waiting_bytes += member.nbytes
        return None

    def _watch(self, group: Group, now_s: float) -> float | None:
        """Seconds until what waits may leave, or a call that hangs must hold it up no more, if no timer will look."""
        if group.watched or not any(group.waiting):
            return None
        group.watched = True
        limit_s = patience_s(group.usual_s)
        left_s = [started_s + limit_s - now_s for started_s in group.started_s.values()]
        left_s.append(max(group.started_s.values(), default=now_s) + gap_s(group.usual_s) - now_s)
        return min((one for one in left_s if one > 0), default=limit_s)

    def _look(self, group: Group) -> None:
        """A call has had its time."""
        with self._lock:
            group.watched = False
        self._send_what_waits(group)
        with self._lock:
            watch_s = None if self._closed else self._watch(group, self._clock())
        self._plan_look(group, watch_s)

    def _plan_look(self, group: Group, watch_s: float | None) -> None:
        if watch_s is not None and self._later.call(watch_s, lambda: self._look(group)) is None:
            group.watched = False  # There are too many timers: who comes next tries again.

    def _send_what_waits(self, group: Group) -> None:
        """Sends calls while some may be sent. One thread does; others that come meanwhile leave it to that one.

        Without that a call that fails at once, as all do where there is no server, would send the next from within.
        """
        with self._lock:
            if group.sending:
                return
            group.sending = True
        try:
            while (found := self._next(group)) is not None:
                parcel, hopeless = found
                for member in hopeless:
                    member.fail(_hopeless(member))
                if parcel is not None:
                    self._send(group, parcel)
        except BaseException:
            group.sending = False
            raise

    def _next(self, group: Group) -> tuple[Parcel | None, list[Member]] | None:
        """The next call, and those that it is too late for; None if nothing can be sent."""
        now_s = self._clock()
        with self._lock:
            if not any(group.waiting) or not self._may_leave(group, now_s):
                group.sending = False
                return None
            waiting = group.in_order()
            gone = [member for member in waiting if member.future.done()]
            members, hopeless = self._timely(
                group, [one for one in waiting if one not in gone] if gone else waiting, now_s
            )
            members = members[: load([(member.request.rows, member.nbytes) for member in members], group.most_rows)]
            members = self._in_time(members, now_s)
            for member in (*members, *hopeless, *gone):
                self._dequeue(group, member)
            return (self._departing(group, members, now_s) if members else None), hopeless

    def _timely(self, group: Group, members: list[Member], now_s: float) -> tuple[list[Member], list[Member]]:
        """Those that a server may still answer in time, or that nobody else can answer; and the others.

        They were to be in time when they came. Now they would only take the line from those behind them.
        """
        if group.patient or all(member.request.deadline_s is None for member in members):
            return members, []
        expected_s = self._carrier.expects(members[0].request, members[0].nbytes)
        timely: list[Member] = []
        hopeless: list[Member] = []
        for member in members:
            request = member.request
            late = (
                expected_s is not None
                and request.deadline_s is not None
                and request.policy != "only_server"
                and now_s + expected_s > request.deadline_s
            )
            (hopeless if late else timely).append(member)
        return timely, hopeless

    def _in_time(self, members: list[Member], now_s: float) -> list[Member]:
        """The first of them, so many that no deadline passes for what the others add: a thin line takes long.

        A deadline that the first alone would miss bounds nothing.
        """
        deadlines_s = [one.request.deadline_s for one in members]
        if len(members) < 2 or all(one is None for one in deadlines_s):
            return members
        request = members[0].request
        alone_s = self._carrier.expects(request, members[0].nbytes)
        while len(members) > 1 and alone_s is not None:
            kept = [one for one in deadlines_s[: len(members)] if one is not None and one >= now_s + alone_s]
            expected_s = self._carrier.expects(request, sum(member.nbytes for member in members))
            if not kept or expected_s is None or now_s + expected_s <= min(kept):
                break
            members = members[: len(members) // 2]
        return members

    def _dequeue(self, group: Group, member: Member) -> None:
        if group.drop(member):
            self._waiting -= 1
            self._waiting_bytes -= member.nbytes
            if self._pressed_s and not any(group.waiting):
                self._pressed_s.pop(_kind(member.request), None)

    def _send(self, group: Group, parcel: Parcel) -> None:
        """Sends; whatever goes wrong ends in the members' futures."""
        try:
            journey = self._carrier.send(
                parcel.request(), len(parcel.members), patient=group.patient, soonest_s=parcel.soonest_s
            )
        except TimeoutError:
            self._free(group, parcel, answered=False)
            for member in parcel.members:
                member.fail(member.late(self._clock()))
            return
        except Exception as error:  # noqa: BLE001  see above
            subject = parcel.members[0].request.subject
            refused = InvalidInput(f"{subject}: can't be sent to a server: {error}")
            refused.__cause__ = error
            self._free(group, parcel, answered=False)
            self._failed(group, parcel, refused, Apart.HALVES, ())
            return
        parcel.call = journey.future
        if parcel.abandoned:  # While it was being sent: then nobody has told it.
            journey.future.cancel()
        journey.future.add_done_callback(lambda _: self._landed(group, parcel, journey))

    def _landed(self, group: Group, parcel: Parcel, journey: Journey[Reply]) -> None:
        """A call has ended: the next leaves, then the answers are handed out."""
        future = journey.future
        error = None if future.cancelled() else future.exception()
        shown = None if future.cancelled() or error is not None else parcel.shows_rows(future.result())
        if shown is not None:
            with self._lock:
                group.seen(by_rows=shown)
        self._free(group, parcel, answered=not (future.cancelled() or error or journey.waited))
        if future.cancelled():
            return
        if error is not None:
            self._failed(group, parcel, error, journey.apart, journey.before)
            return
        with self._lock:
            if parcel.cut is None:
                group.took(parcel.rows)
            elif parcel.cut.answered():
                group.divided(parcel.cut.rows)
        parcel.answer(future.result(), journey.before, self._clock())

    def _free(self, group: Group, parcel: Parcel, *, answered: bool) -> None:
        with self._lock:
            group.ended(parcel.number, self._clock(), answered=answered)
            waits = any(group.waiting)
        if waits:
            self._send_what_waits(group)

    def _failed(
        self, group: Group, parcel: Parcel, error: BaseException, apart: Apart, before: tuple[Tried, ...]
    ) -> None:
        """One request's fault must not be the others': they are asked again in halves, or each for itself."""
        if self._closed:  # The connection was closed under the call: that is no fault of the server.
            for member in parcel.members:
                member.fail(_over(member))
            return
        divisible = isinstance(error, InvalidInput | ServerRefused | ServerFailed)
        if len(parcel.members) == 1 or not divisible or apart is Apart.NO:
            parcel.fail(error, self._clock())
            return
        with self._lock:
            left = [member for member in parcel.members if not member.future.done()]
            size = 1 if apart is Apart.SINGLY else max((len(left) + 1) // 2, 1)
            parts = [left[begin : begin + size] for begin in range(0, len(left), size)]
            rows = [sum(member.request.rows for member in part) for part in parts]
            cut = Cut(max(rows)) if apart is Apart.HALVES and len(parts) > 1 else None
            parcels = [Parcel(part, cut=cut, before=(*parcel.before, *before)) for part in parts]
        for one in parcels:
            self._send(group, one)

    def _gone(self, group: Group, member: Member) -> None:
        """A member is settled. One whose caller has gone frees its place, and the last of a parcel ends the call."""
        if member.timer is not None:
            member.timer.cancel()
        with self._lock:
            self._dequeue(group, member)
            last = member.parcel is not None and member.parcel.left_by_one()
            call = member.parcel.call if member.parcel is not None else None
        if last and call is not None:
            call.cancel()

    def _late(self, member: Member) -> None:
        now_s = self._clock()
        deadline_s = member.request.deadline_s
        if deadline_s is not None and now_s >= deadline_s and not member.future.done():
            member.fail(member.late(now_s))


def _kind(request: InferRequest) -> Kind:
    return (request.model, request.version, request.label)


def _over(member: Member) -> RuntimeClosed:
    return RuntimeClosed(f"{member.request.subject}: the runtime has been closed")


def _hopeless(member: Member) -> ServerFailed:
    said = "not sent, after it had waited for its turn no server would have answered in time"
    return ServerFailed(member.request.subject, {"the queue to the servers": said}, lacking=False)


def _full(subject: str, waiting: int, waiting_bytes: int) -> ServerFailed:
    said = f"full: {waiting} requests with {waiting_bytes} bytes wait, "
    said += f"at most {MAX_WAITING} with {MAX_WAITING_BYTES} may"
    return ServerFailed(subject, {"the queue to the servers": said}, lacking=False)
