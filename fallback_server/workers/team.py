"""The workers that share the port, seen from the first process: started, told what is served, and started anew."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from fallback_server.core.policy import STEADY_S, reload_delay_s
from fallback_server.counts import Gauge, MetricCounts
from fallback_server.model_views import ModelView
from fallback_server.served_model import ServedModel
from fallback_server.statistics import VersionStatistics
from fallback_server.workers.channel import ChannelClosed
from fallback_server.workers.epoch import Epoch
from fallback_server.workers.limits import ACK_S, CLOSE_S, DRAINING_SILENT_S, QUIET_S, SILENT_S, STARTING_S
from fallback_server.workers.member import PROGRAM, Member
from fallback_server.workers.messages import (
    Access,
    Begin,
    Drain,
    Drained,
    Drop,
    End,
    Figures,
    Host,
    Hosted,
    Listening,
    View,
)
from fallback_server.workers.views import ModelRoutes, routes_of

_log = logging.getLogger(__name__)

_HELD_UP = "%s waits for worker %d, process %d, which has not loaded it in %.0f s, and was last heard of %.0f s ago"

_TURN_S = 1.0
"""Between two looks at them all, at most."""

_PUBLISH_SHARE = 4.0
_PUBLISH_MOST_S = 0.5
"""Between two looks at what is served, where changes come one after another: so many times as long as a look takes."""

_LOST_S = 2.0
"""How long one that has ended its channel has to end itself, so that it can be said how it did."""

_END_TOLD_S = 0.2
"""For one to take that word, which one that hangs may have no room for."""

_REMEMBERED = 64
"""Loads that have ended, and of which a worker may still have something to tell."""

_ENDED = 0
"""In a model's gauges: of the workers that have ended. Workers count from 1."""


@dataclass(eq=False)
class _Load:
    """A version that the workers have.

    Attributes:
        host: What they are told.
        fd: Of its file.
        model: The same in this process.
        awaited: Those that have not answered yet.
        done: Set once there are none.
        begun_s: When they were told.
        told: Whether the log tells who holds it up.
    """

    host: Host
    fd: int
    model: ServedModel
    awaited: set[Member] = field(default_factory=set)
    done: threading.Event = field(default_factory=threading.Event)
    begun_s: float = 0.0
    told: bool = False


class Team:
    """Any thread may call any method; one thread of its own does all that there is to do.

    Args:
        count: How many workers there are, beside this process.
        catalog: The models as they stand.
        absorb: Takes what a worker has counted of all models; what it has of each is added here.
        clock: Monotonic seconds.
        program: The module that workers run.
    """

    def __init__(
        self,
        count: int,
        *,
        catalog: Callable[[], Sequence[ModelView]],
        absorb: Callable[[MetricCounts], None],
        clock: Callable[[], float] = time.monotonic,
        program: str = PROGRAM,
    ) -> None:
        self._program = program
        self._count = count
        self._catalog = catalog
        self._absorb = absorb
        self._clock = clock
        self._epoch = Epoch.made()
        self._numbers = itertools.count(1)
        self._number_of: dict[ServedModel, int] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, name="workers", daemon=True)
        self._telling = threading.Lock()
        self._listening = threading.Event()
        self._drained = threading.Event()
        # All below is the thread's.
        self._begin: Begin | None = None
        self._loads: dict[int, _Load] = {}
        self._statistics: dict[int, VersionStatistics] = {}
        self._members: dict[int, Member] = {}
        self._losses: dict[int, int] = {}
        self._restarts: dict[int, float] = {}
        self._dirty = True
        self._publish_at_s = 0.0
        self._looked_s = clock()
        self._draining = False
        self._closed = False

    def start(self, begin: Begin) -> None:
        """Starts the workers; returns at once.

        Args:
            begin: What they are told, but for the index.
        """
        self._begin = begin
        self._thread.start()
        for index in range(1, self._count + 1):
            self._do(functools.partial(self._start, index))

    def take_access(self, access: Access) -> None:
        """Says that others may do something else, before anybody is told."""
        with self._telling:
            if self._begin is not None:
                self._begin = msgspec.structs.replace(self._begin, access=access)
        self.changed()

    def changed(self) -> None:
        """Says that versions or routes have changed, before anybody is told: until they know, workers pass all on.

        Blocks nothing, and asks nothing of whoever calls.
        """
        self._epoch.advance()
        self._dirty = True
        self._wake_up()

    def wait_listening(self, *, timeout_s: float) -> bool:
        """Waits until all workers take connections for the first time; False where that takes longer."""
        return self._listening.wait(timeout_s)

    def host(self, model: ServedModel, host: Host, fd: int, stopped: Callable[[], bool]) -> None:
        """Has all workers load a version, and waits until each has, could not, or was ended because it took too long.

        Args:
            model: The same in this process.
            host: What they are told; it gets its number here.
            fd: Of its file; the team's from now on.
            stopped: Whether nobody wants it any more.
        """
        number = next(self._numbers)
        load = _Load(msgspec.structs.replace(host, number=number), fd, model)
        self._number_of[model] = number
        self._do(functools.partial(self._host, load))
        while not load.done.wait(0.1) and not stopped() and self._thread.is_alive():
            pass

    def drop(self, model: ServedModel) -> None:
        """Has all workers let go of a version, when they have answered what they have of it."""
        number = self._number_of.pop(model, None)
        if number is not None:
            self._do(functools.partial(self._drop, number))

    def pids(self) -> dict[int, int]:
        """The workers' processes by their numbers."""
        return {index: member.process.pid for index, member in list(self._members.items())}

    def drain(self, *, grace_s: float) -> bool:
        """Has the workers refuse what comes and answer what is in flight; False where that outlasts the grace."""
        self._do(functools.partial(self._drain, grace_s))
        return self._drained.wait(grace_s + 2.0)

    def close(self) -> None:
        """Ends all workers. Closing again does nothing."""
        if self._thread.ident is None or not self._thread.is_alive():
            return
        self._do(self._close)
        self._thread.join()

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # Awake already, or ended.
            self._wake.send(b"!")

    def _work(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except Exception:  # noqa: BLE001  the thread serves all workers
                _log.exception("the workers' thread met a fault")
        for load in self._loads.values():
            os.close(load.fd)
            load.done.set()
        self._selector.close()
        self._woken.close()
        self._wake.close()
        self._epoch.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.fileobj is self._woken:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            elif isinstance(key.data, Member) and key.data.alive:
                self._hear(key.data)
        while not self._jobs.empty() and not self._closed:
            self._jobs.get()()
        now_s = self._clock()
        if self._closed:
            return
        for index in [index for index, due_s in self._restarts.items() if due_s <= now_s]:
            del self._restarts[index]
            self._start(index)
        if self._dirty and now_s >= self._publish_at_s:
            self._publish()
        self._end_silent(now_s)
        self._end_late(now_s)

    def _wait_s(self) -> float:
        """Until something is due; a second at most, in which a worker says something anyhow."""
        now_s = self._clock()
        due = [now_s + _TURN_S, *self._restarts.values()]
        if self._dirty:
            due.append(self._publish_at_s)
        return max(0.0, min(due) - now_s)

    def _start(self, index: int) -> None:
        if self._draining or self._begin is None:
            return
        try:
            member = Member(index, now_s=self._clock(), program=self._program)
        except OSError as error:
            _log.error("worker %d could not be started: %s", index, error)
            self._again(index)
            return
        self._members[index] = member
        self._selector.register(member.channel, selectors.EVENT_READ, member)
        begin = msgspec.structs.replace(self._begin, index=index)
        member.told_access = begin.access
        self._tell(member, begin, [self._epoch.fd])
        for load in self._loads.values():
            self._tell(member, load.host, [load.fd])
        self._dirty = True

    def _tell(self, member: Member, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        if not member.alive:
            return
        try:
            member.send(message, fds)
        except ChannelClosed as error:
            self._lost(member, str(error))

    def _hear(self, member: Member) -> None:
        try:
            message = member.receive(now_s=self._clock())
        except ChannelClosed as error:
            self._lost(member, str(error))
            return
        if isinstance(message, Listening):
            member.listening = True
            if len(self._members) == self._count and all(each.listening for each in self._members.values()):
                self._listening.set()
        elif isinstance(message, Hosted):
            self._hosted(member, message)
        elif isinstance(message, Figures):
            self._count_in(member, message)
        elif isinstance(message, Drained):
            member.drained = True
            self._look_drained()

    def _hosted(self, member: Member, message: Hosted) -> None:
        load = self._loads.get(message.number)
        if load is None:
            return
        if message.why_not:
            what = f"{load.host.name}/{load.host.version}"
            _log.warning("worker %d passes requests for %s on: %s", member.index, what, message.why_not)
        load.awaited.discard(member)
        if not load.awaited:
            load.done.set()

    def _count_in(self, member: Member, figures: Figures) -> None:
        for number, gauge in figures.gauges.items():
            load = self._loads.get(number)
            if load is not None:
                load.model.elsewhere = {**load.model.elsewhere, member.index: gauge}
        for number, counts in figures.statistics.items():
            statistics = self._statistics.get(number)
            if statistics is not None:
                statistics.add(counts)
        if figures.metrics is not None:
            self._absorb(figures.metrics)

    def _host(self, load: _Load) -> None:
        if self._number_of.get(load.model) != load.host.number:  # It was closed before it began.
            os.close(load.fd)
            load.done.set()
            return
        self._loads[load.host.number] = load
        self._statistics[load.host.number] = load.model.statistics
        while len(self._statistics) > len(self._loads) + _REMEMBERED:
            del self._statistics[next(number for number in self._statistics if number not in self._loads)]
        load.begun_s = self._clock()
        load.awaited = set(self._members.values())
        for member in list(self._members.values()):
            self._tell(member, load.host, [load.fd])
        if not load.awaited:
            load.done.set()

    def _drop(self, number: int) -> None:
        load = self._loads.pop(number, None)
        if load is None:
            return
        for member in list(self._members.values()):
            self._tell(member, Drop(number=number))
        os.close(load.fd)
        load.done.set()

    def _publish(self) -> None:
        """Tells what answers what. The epoch is read first: what changes meanwhile makes what is told here void."""
        self._dirty = False
        begin_s = self._clock()
        epoch = self._epoch.value
        told: dict[str, ModelRoutes] = {}
        for view in self._catalog():
            if (routes := routes_of(view, self._number_of.get)) is not None:
                told[view.name] = routes
        for member in list(self._members.values()):
            models = {name: routes for name, routes in told.items() if member.told.get(name) != routes}
            gone = tuple(name for name in member.told if name not in told)
            member.told = told
            access = None if self._begin is None else self._begin.access
            fresh = None if access is member.told_access else access
            member.told_access = access
            self._tell(member, View(epoch=epoch, models=models, gone=gone, access=fresh))
        now_s = self._clock()
        self._publish_at_s = now_s + min(_PUBLISH_SHARE * (now_s - begin_s), _PUBLISH_MOST_S)

    def _end_silent(self, now_s: float) -> None:
        late_s = now_s - self._looked_s - _TURN_S
        self._looked_s = now_s
        for member in list(self._members.values()):
            if late_s > _TURN_S:  # This process was held up itself, and so may they have been.
                member.heard_s = min(now_s, member.heard_s + late_s)
            limit_s = SILENT_S if member.listening else STARTING_S
            if self._draining and not member.drained:
                limit_s = DRAINING_SILENT_S
            if now_s - member.heard_s > limit_s:
                self._lost(member, f"it has shown no life for {limit_s:.0f} s", hangs=True)

    def _end_late(self, now_s: float) -> None:
        for load in list(self._loads.values()):
            waited_s = now_s - load.begun_s
            if not load.awaited or waited_s <= QUIET_S:
                continue
            what = f"{load.host.name}/{load.host.version}"
            if not load.told:
                load.told = True
                for member in load.awaited:
                    _log.warning(_HELD_UP, what, member.index, member.process.pid, waited_s, now_s - member.heard_s)
            if waited_s > ACK_S:
                for member in list(load.awaited):
                    self._lost(member, f"it has not loaded {what} in {ACK_S:.0f} s", hangs=True)

    def _lost(self, member: Member, why: str, *, hangs: bool = False) -> None:
        """A worker has ended, or is ended now; another one takes its place.

        Args:
            member: Which.
            why: For the log.
            hangs: Whether it would not end by itself.
        """
        if not member.alive:
            return
        self._selector.unregister(member.channel)
        lived_s = self._clock() - member.started_s
        how = member.end(wait_s=0.0 if hangs else _LOST_S)
        if self._members.get(member.index) is member:
            del self._members[member.index]
        for load in self._loads.values():
            load.awaited.discard(member)
            if not load.awaited:
                load.done.set()
            _keep_counts(load.model, member.index)
        self._look_drained()
        if self._draining:
            return
        _log.error("worker %d, process %d, ended (%s; %s)", member.index, member.process.pid, how, why)
        if lived_s >= STEADY_S:
            self._losses[member.index] = 0
        self._again(member.index)

    def _again(self, index: int) -> None:
        losses = self._losses[index] = self._losses.get(index, 0) + 1
        delay_s = reload_delay_s(losses)
        self._restarts[index] = self._clock() + delay_s
        _log.info("worker %d is started anew in %.1f s", index, delay_s)

    def _drain(self, grace_s: float) -> None:
        self._draining = True
        self._restarts.clear()
        for member in list(self._members.values()):
            self._tell(member, Drain(grace_s=grace_s))
        self._look_drained()

    def _look_drained(self) -> None:
        if self._draining and all(member.drained for member in self._members.values()):
            self._drained.set()

    def _close(self) -> None:
        self._draining = self._closed = True
        end_s = self._clock() + CLOSE_S
        members = list(self._members.values())
        told = {member: self._told_end(member) for member in members}
        awaited = {member for member in members if told[member]}
        while awaited and (left_s := end_s - self._clock()) > 0:
            if not (found := self._selector.select(left_s)):
                break
            for key, _ in found:
                if key.fileobj is self._woken:
                    self._selector.unregister(self._woken)
                elif key.data in awaited and not self._hear_last(key.data):
                    awaited.discard(key.data)
                    self._selector.unregister(key.data.channel)
        for member in members:
            # Who was not told, or still talks, will not end by itself.
            ends = told[member] and member not in awaited
            member.end(wait_s=max(0.0, end_s - self._clock()) if ends else 0.0)
        self._drained.set()
        self._listening.set()

    def _told_end(self, member: Member) -> bool:
        """Tells a worker to end; False where it doesn't take that word."""
        member.channel.hurry(_END_TOLD_S)
        try:
            member.send(End())
        except ChannelClosed:
            return False
        return True

    def _hear_last(self, member: Member) -> bool:
        """What a worker has counted last is told before its end; False at that."""
        try:
            message = member.receive(now_s=self._clock())
        except ChannelClosed:
            return False
        if isinstance(message, Figures):
            self._count_in(member, message)
        return True


def _keep_counts(model: ServedModel, index: int) -> None:
    """What counts up goes on where it was, and what stands for a moment is over."""
    gauges = dict(model.elsewhere)
    last = gauges.pop(index, None)
    if last is not None:
        ended = gauges.get(_ENDED, Gauge())
        gauges[_ENDED] = Gauge(runs_here=ended.runs_here + last.runs_here)
        model.elsewhere = gauges
