"""Acts on what the policy decides: loads and unloads versions in threads of its own, and hands out handles."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fallback_server.core.alarm import Alarm
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import LoadFailed, NoMemory, VersionRefused
from fallback_server.core.handle import ServableHandle
from fallback_server.core.harness import Harness, Loaded
from fallback_server.core.loader import MakeLoader, Servable
from fallback_server.core.policy import (
    STEADY_S,
    Transition,
    Verb,
    VersionSnapshot,
    availability_preserving,
    reload_delay_s,
    worth_reloading,
)
from fallback_server.core.resources import MemoryBudget, Promises
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.table import VersionTable, first_instant
from fallback_server.core.watchers import Watchers
from fallback_server.core.workers import WorkerPool

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=Servable)

MAX_THREADS = 1024
"""More than any machine runs at a time."""

MIN_STARVED_RETRY_S = 1.0
"""A load that did not fit is tried again without end: not more often than this."""

Prepare = Callable[[ServableId, AspiredVersion], None]
"""Puts a version's folder in place where it is not there yet, in a load thread; raises what keeps it from that."""


@dataclass(frozen=True, kw_only=True)
class ManagerOptions:
    """How loads are made.

    Attributes:
        num_load_threads: How many versions load at the same time.
        num_unload_threads: How many versions unload at the same time.
        max_num_load_retries: How often a failed load is tried again while the version's files stay as they are.
        load_retry_interval_s: How long after a failed load the next attempt begins.
    """

    num_load_threads: int = 2
    num_unload_threads: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("num_load_threads", "num_unload_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > MAX_THREADS:
                raise ValueError(f"{name} must be at most {MAX_THREADS}, got {getattr(self, name)}")
        for name in ("max_num_load_retries", "load_retry_interval_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


def stands_there(servable_id: ServableId, version: AspiredVersion) -> None:
    """The `Prepare` of a manager that unpacks nothing.

    Raises:
        LoadFailed: the version comes in an archive.
    """
    if version.archive is not None:
        raise LoadFailed(f"{servable_id}: {version.archive} can't be unpacked by this server")


class Manager(Generic[S]):
    """Keeps the versions loaded that a source aspires to. Every method may be called from any thread.

    All state changes under one lock; what takes time (loading, closing) runs outside it.

    Args:
        make_loader: Makes the loader of one version.
        options: Threads and retries.
        clock: Monotonic seconds; decides when a load is due again.
        transition: What to load or unload next.
        budget: Refuses loads that don't fit into memory; None admits all.
        prepare: Puts a version's folder in place before it is loaded.
    """

    def __init__(
        self,
        *,
        make_loader: MakeLoader[S],
        options: ManagerOptions,
        clock: Callable[[], float] = time.monotonic,
        transition: Transition = availability_preserving,
        budget: MemoryBudget | None = None,
        prepare: Prepare = stands_there,
    ) -> None:
        self._make_loader = make_loader
        self._options = options
        self._clock = clock
        self._transition = transition
        self._promises = Promises(budget)
        self._prepare = prepare
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._aspired: Mapping[ServableId, AspiredVersion] = {}
        self._table: VersionTable[S] = VersionTable()
        self._died_early: dict[ServableId, list[S]] = {}
        self._watchers = Watchers()
        self._loads = WorkerPool(name="load", threads=options.num_load_threads)
        self._unloads = WorkerPool(name="unload", threads=options.num_unload_threads)
        self._alarm = Alarm(name="retry", ring=self.tick, clock=clock)

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """States the complete set of versions that should be served; returns before they are."""
        with self._changing():
            self._aspired = dict(aspired)
            for servable_id, version in self._aspired.items():
                self._admit(servable_id, version)
            for name in self._table.names():
                self._act(name)

    def acquire(self, name: str, version: int | None = None) -> ServableHandle[S]:
        """Holds a version, the latest that answers when none is named.

        Raises:
            VersionNotReady: it is loading or unloading, or (none named) one of the model is and none answers.
            ModelNotFound: anything else.
        """
        with self._lock:
            harness = self._table.find(name, version)
            if harness is None or harness.state is not State.AVAILABLE:
                raise self._table.why_not(name, version)
            return ServableHandle(harness, harness.acquire(), self._release)

    def states(self, name: str) -> tuple[ServableState, ...]:
        """The states of all versions of a model that are known, the highest version first."""
        with self._lock:
            return self._table.states(name)

    def names(self) -> tuple[str, ...]:
        """The models of which anything is known, in the alphabet's order."""
        with self._lock:
            return self._table.all_names()

    def available(self, name: str) -> tuple[int, ...]:
        """The versions of a model that answer now, ascending."""
        with self._lock:
            return self._table.available(name)

    def lacks(self, name: str, version: int) -> bool:
        """Whether a version does not answer, and is not about to, of a model that is wanted as a whole."""
        with self._lock:
            harness = self._table.find(name, version)
            if ServableId(name, version) in self._aspired:
                return harness is not None and harness.state is State.END
            answers = harness is not None and harness.state is State.AVAILABLE
            return not answers and any(servable_id.name == name for servable_id in self._aspired)

    def live(self) -> frozenset[ServableId]:
        """What is loaded, being loaded or unloaded, or waits for a load: its files are in use."""
        with self._lock:
            return frozenset(harness.servable_id for harness in self._table)

    def peek(self, name: str) -> Mapping[int, S]:
        """What is loaded of a model and answers, for its figures: it is not held, and may be closed at any time."""
        with self._lock:
            answering = [item for item in self._table.of(name) if item.state is State.AVAILABLE]
            return {harness.servable_id.version: harness.servable for harness in answering}

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Has a callback called after every change of any version's state; what is returned ends that.

        It is called in whichever thread made the change, holding no lock, and must not block.
        """
        return self._watchers.add(on_change)

    def lost(self, servable_id: ServableId, servable: S, reason: str) -> None:
        """Says that what was loaded is dead: the version is LOADING and loaded anew, later each time it dies again.

        Ignored where something else is loaded by now. Handles that are open keep what is dead.
        """
        with self._changing():
            harness = self._table.find(servable_id.name, servable_id.version)
            if harness is None:
                return
            if harness.state is State.LOADING and harness.reload_at_s is None:
                self._died_early.setdefault(servable_id, []).append(servable)
            elif harness.state is State.AVAILABLE and harness.servable is servable:
                self._lose(harness, reason)

    def retry(self, name: str) -> None:
        """Tries the failed loads of a model again at once."""
        with self._changing():
            for harness in self._table.of(name):
                if harness.servable_id in self._aspired and harness.error is not None:
                    self._table.create(harness.servable_id, harness.aspired)
            self._act(name)

    def tick(self) -> float | None:
        """Begins the loads that are due again. Called by a thread of the manager's own at the right instants.

        Returns:
            The instant of the next; None where none is to come.
        """
        with self._changing():
            now_s = self._clock()
            for harness in list(self._table):
                self._retry_due(harness, now_s)
            for name in self._table.names():
                self._act(name)
            return first_instant(iter(self._table), self._aspired.__contains__)

    def wait_idle(self, *, timeout_s: float) -> bool:
        """Waits until nothing is about to load or loading: what could be loaded is, the rest has failed."""
        with self._changed:
            return self._changed.wait_for(self._nothing_on_the_way, timeout_s)

    def stop(self, *, timeout_s: float) -> bool:
        """Unloads everything; False when a load or a holder outlasts `timeout_s`, and its memory stays."""
        end_s = time.monotonic() + timeout_s
        self.set_aspired({})
        with self._changed:
            unloaded = self._changed.wait_for(lambda: not self._table, timeout_s)
        parts = (self._alarm, self._loads, self._unloads)
        ended = [part.stop(timeout_s=max(0.0, end_s - time.monotonic())) for part in parts]
        return unloaded and all(ended)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the lock; tells of what changed once it is free again, so that those who are told may ask."""
        before = after = 0
        try:
            with self._lock:
                before = self._table.moves
                try:
                    yield
                finally:
                    after = self._table.moves
                    if after != before:
                        self._changed.notify_all()
        finally:
            if after != before:
                self._watchers.tell()

    def _admit(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """Makes or renews the harness of one aspired version."""
        harness = self._table.find(servable_id.name, servable_id.version)
        if harness is None:
            self._table.create(servable_id, version)
        elif harness.aspired != version:
            self._renew(harness, version)
        else:
            self._retry_due(harness, self._clock())

    def _renew(self, harness: Harness[S], version: AspiredVersion) -> None:
        """The version's files are others than at first. One that is LOADING is looked at again when it is done."""
        if harness.state in (State.START, State.END):
            self._table.create(harness.servable_id, version)
        elif harness.reload_at_s is not None:
            harness.aspired = version
            _log.warning("%s changed on disk after it was loaded; it is loaded anew as it is now", harness.servable_id)
        elif harness.state is State.AVAILABLE:
            harness.aspired = version
            _log.warning(
                "%s changed on disk after it was loaded; it is served as loaded: publish a new version instead",
                harness.servable_id,
            )

    def _retry_due(self, harness: Harness[S], now_s: float) -> None:
        due_s = harness.retry_at_s
        if harness.state is State.END and due_s is not None and due_s <= now_s:
            harness.retry()
        elif harness.reload_at_s is not None and harness.reload_at_s <= now_s:
            self._begin_load(harness)

    def _act(self, name: str) -> None:
        """Takes every step there is for one model, and drops what has ended. Under the lock."""
        for harness in self._table.of(name):
            if harness.servable_id not in self._aspired:
                self._abandon(harness)
                if harness.state is State.END:
                    self._table.drop(harness)
        while action := self._transition(self._snapshots(name)):
            harness_or_none = self._table.find(name, action.version)
            assert harness_or_none is not None
            if action.verb is Verb.LOAD:
                self._begin_load(harness_or_none)
            else:
                self._begin_unload(harness_or_none)

    def _abandon(self, harness: Harness[S]) -> None:
        """Gives up a load that has not begun, of a version that is not aspired any more. Under the lock."""
        servable_id = harness.servable_id
        if harness.state is State.START or (
            harness.reload_at_s is not None
            and not worth_reloading(servable_id.version, self._snapshots(servable_id.name))
        ):
            harness.abandon()

    def _begin_load(self, harness: Harness[S]) -> None:
        harness.begin_load()
        self._loads.submit(functools.partial(self._load, harness))

    def _begin_unload(self, harness: Harness[S]) -> None:
        harness.begin_unload()
        self._table.refresh_latest(harness.servable_id.name)
        if harness.quiescent:
            self._unloads.submit(functools.partial(self._unload, harness))

    def _snapshots(self, name: str) -> list[VersionSnapshot]:
        return [
            VersionSnapshot(
                version=harness.servable_id.version,
                state=harness.state,
                aspired=harness.servable_id in self._aspired,
            )
            for harness in self._table.of(name)
        ]

    def _load(self, harness: Harness[S]) -> None:
        """In a load thread."""
        servable_id, version = harness.servable_id, harness.aspired
        _log.info("loading %s from %s", servable_id, version.archive or version.path)
        begin_s = self._clock()
        retriable = True
        try:
            self._prepare(servable_id, version)
            loader = self._make_loader(servable_id, version.path, functools.partial(self.lost, servable_id))
            with self._promises.kept(servable_id, loader.estimated_bytes()):
                try:
                    servable = loader.load()
                except Exception:
                    retriable = loader.retriable
                    raise
        except Exception as error:  # noqa: BLE001  whatever a model does wrong, it harms no other
            self._load_failed(harness, error, retriable=retriable and not isinstance(error, VersionRefused))
            return
        if self._loaded(harness, servable, version):
            _log.info("loaded %s in %.2f s", servable_id, self._clock() - begin_s)
        else:
            servable.close()

    def _loaded(self, harness: Harness[S], servable: S, version: AspiredVersion) -> bool:
        """Has what was loaded answer; False where its files became others meanwhile: then it may be half of each."""
        servable_id = harness.servable_id
        with self._changing():
            dead = self._died_early.pop(servable_id, [])
            found = self._aspired.get(servable_id, version)
            same = found == version
            if same:
                harness.loaded(servable, now_s=self._clock())
                self._table.refresh_latest(servable_id.name)
                if any(servable is each for each in dead):
                    self._lose(harness, "it died as soon as it was loaded")
            else:
                _log.warning("%s changed on disk while it was loaded, and is loaded anew", servable_id)
                harness.load_failed("its files changed while they were loaded", retry_at_s=None)
                self._table.create(servable_id, found)
            self._act(servable_id.name)
        return same

    def _load_failed(self, harness: Harness[S], error: Exception, *, retriable: bool) -> None:
        starved = isinstance(error, NoMemory)
        left = self._options.max_num_load_retries + 1 - harness.attempts if retriable else 0
        interval_s = self._options.load_retry_interval_s
        retry_at_s = self._clock() + interval_s if left > 0 else None
        if starved:
            retry_at_s = self._clock() + max(interval_s, MIN_STARVED_RETRY_S)
            _log.error("loading %s was refused: %s", harness.servable_id, error)
        else:
            _log.error("loading %s failed, %d attempts left: %r", harness.servable_id, max(left, 0), error)
        text = str(error) if starved else f"{type(error).__name__}: {error}"
        with self._changing():
            self._died_early.pop(harness.servable_id, None)
            harness.load_failed(text, retry_at_s=retry_at_s, starved=starved)
            self._act(harness.servable_id.name)
        self._alarm.wake()

    def _lose(self, harness: Harness[S], reason: str) -> None:
        """Under the lock."""
        now_s = self._clock()
        if now_s - harness.available_since_s >= STEADY_S:
            harness.losses = 0
        delay_s = reload_delay_s(harness.losses + 1)
        _log.error("%s was lost, and is loaded anew in %.1f s: %s", harness.servable_id, delay_s, reason)
        dead = harness.lose(reload_at_s=now_s + delay_s)
        self._table.refresh_latest(harness.servable_id.name)
        if dead.holders == 0:
            self._unloads.submit(functools.partial(_bury, harness.servable_id, dead))
        if delay_s == 0 and worth_reloading(harness.servable_id.version, self._snapshots(harness.servable_id.name)):
            self._begin_load(harness)
        self._act(harness.servable_id.name)
        self._alarm.wake()

    def _unload(self, harness: Harness[S]) -> None:
        """In an unload thread, once nobody holds the version."""
        try:
            harness.servable.close()
        finally:
            with self._changing():
                harness.unloaded()
                self._table.drop(harness)
                again = self._aspired.get(harness.servable_id)
                if again is not None:
                    self._admit(harness.servable_id, again)
                self._feed()
                self._act(harness.servable_id.name)
            _log.info("unloaded %s", harness.servable_id)

    def _feed(self) -> None:
        """Memory was freed: loads that did not fit are tried again. Under the lock."""
        for starved in [item for item in self._table if item.starved and item.servable_id in self._aspired]:
            starved.retry()
            self._act(starved.servable_id.name)

    def _release(self, harness: Harness[S], loaded: Loaded[S]) -> None:
        with self._lock:
            loaded.release()
            if loaded.holders:
                return
            if not harness.holds(loaded):
                self._unloads.submit(functools.partial(_bury, harness.servable_id, loaded))
            elif harness.state is State.UNLOADING:
                self._unloads.submit(functools.partial(self._unload, harness))

    def _nothing_on_the_way(self) -> bool:
        return not any(
            item.state is State.START or (item.state is State.LOADING and item.reload_at_s is None)
            for item in self._table
        )


def _bury(servable_id: ServableId, dead: Loaded[S]) -> None:
    """In an unload thread, once nobody holds what was lost."""
    dead.servable.close()
    _log.info("freed what was left of %s", servable_id)
