"""Acts on what the policy decides: loads and unloads versions in threads of its own, and hands out handles."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, TypeVar

from fallback_server.core.alarm import Alarm
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import NoMemory, VersionRefused
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.harness import Harness, Loaded
from fallback_server.core.load_options import MIN_STARVED_RETRY_S, ManagerOptions, Prepare, stands_there
from fallback_server.core.loader import MakeLoader, Servable
from fallback_server.core.memory import give_back
from fallback_server.core.policy import STEADY_S, Transition, availability_preserving, reload_delay_s, worth_reloading
from fallback_server.core.resources import MemoryBudget, Promises
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.steps import CHANGED_AND_LOST, Steps
from fallback_server.core.table import VersionTable, first_instant
from fallback_server.core.watchers import Watchers
from fallback_server.core.workers import WorkerPool

__all__ = ["Manager", "ManagerOptions"]

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=Servable)


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

    Attributes:
        on_move: Called when a version's state has changed, before anybody can see it, in any thread, under the lock: it
            must not block, nor ask anything of the manager.
        on_loss: Called after something that was loaded has died, in any thread, holding no lock; it must not block.
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
        self.on_move: Callable[[], None] = lambda: None
        self.on_loss: Callable[[], None] = lambda: None
        self._make_loader = make_loader
        self._options = options
        self._clock = clock
        self._promises = Promises(budget)
        self._prepare = prepare
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._table: VersionTable[S] = VersionTable()
        self._died_early: dict[ServableId, list[S]] = {}
        self._steps: Steps[S] = Steps(
            table=self._table,
            transition=transition,
            num_load_threads=options.num_load_threads,
            clock=clock,
            max_unload_wait_s=options.max_unload_wait_s,
            wake=lambda: self._alarm.wake(),  # noqa: PLW0108  it is made further below
            submit_load=lambda harness: self._loads.submit(functools.partial(self._load, harness)),
            submit_unload=lambda harness: self._unloads.submit(functools.partial(self._unload, harness)),
        )
        self._watchers = Watchers()
        self._loads = WorkerPool(name="load", threads=options.num_load_threads)
        self._unloads = WorkerPool(name="unload", threads=options.num_unload_threads)
        self._alarm = Alarm(name="retry", ring=self.tick, clock=clock)

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """States the complete set of versions that should be served; returns before they are."""
        with self._changing():
            self._steps.aspired = dict(aspired)
            for servable_id, version in self._steps.aspired.items():
                self._steps.admit(servable_id, version)
            for name in self._table.names():
                self._steps.act(name)

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

    @property
    def moves(self) -> int:
        """How many times any version's state has changed."""
        return self._table.moves

    def standing(
        self, handle: ServableHandle[S], *, moves: int, steady: Callable[[], bool] = lambda: True
    ) -> Standing[S]:
        """The version of a handle, to be held again as long as it is the one that is found.

        Args:
            handle: Open; of this manager.
            moves: As many changes there were before it was acquired.
            steady: Whether whatever else led to it is still so.
        """
        return handle.standing(lock=self._lock, changes=self._table, moves=moves, steady=steady)

    def states(self, name: str) -> tuple[ServableState, ...]:
        """The states of all versions of a model that are known, the highest version first."""
        with self._lock:
            return self._steps.states(name)

    def names(self) -> tuple[str, ...]:
        """The models of which anything is known, in the alphabet's order."""
        with self._lock:
            return self._table.all_names()

    def available(self, name: str) -> tuple[int, ...]:
        """The versions of a model that answer now, ascending."""
        with self._lock:
            return self._table.available(name)

    def coming(self, name: str) -> tuple[int, ...]:
        """The versions of a model that are being loaded, or about to be, ascending."""
        with self._lock:
            return self._table.coming(name)

    def aspired(self, name: str) -> tuple[int, ...]:
        """The versions of a model that should be served, in whatever state they are, ascending."""
        with self._lock:
            return tuple(sorted(each.version for each in self._steps.aspired if each.name == name))

    def lacks(self, name: str, version: int) -> bool:
        """Whether a version does not answer, and is not about to, of a model that is wanted as a whole."""
        with self._lock:
            harness = self._table.find(name, version)
            if ServableId(name, version) in self._steps.aspired:
                return harness is not None and harness.state is State.END
            answers = harness is not None and harness.state is State.AVAILABLE
            return not answers and any(servable_id.name == name for servable_id in self._steps.aspired)

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
            if harness is not None and harness.state is State.AVAILABLE and harness.servable is servable:
                self._lose(harness, reason)
            elif self._steps.loads_of(servable_id):
                self._died_early.setdefault(servable_id, []).append(servable)
        self.on_loss()

    def retry(self, name: str) -> None:
        """Tries the failed loads of a model again at once."""
        with self._changing():
            for harness in self._table.of(name):
                if harness.servable_id in self._steps.aspired and harness.error is not None:
                    self._table.create(harness.servable_id, harness.aspired)
            for successor in self._table.successors(name):
                if successor.error is not None:
                    successor.retry()
            self._steps.act(name)

    def tick(self) -> float | None:
        """Begins the loads that are due again, and ends runs that hold a version for too long.

        Called by a thread of the manager's own at the right instants.

        Returns:
            The instant of the next; None where none is to come.
        """
        with self._changing():
            now_s = self._clock()
            for harness in list(self._table):
                self._steps.retry_due(harness, now_s)
                if harness.state is State.UNLOADING and harness.ends_at_s is not None and harness.ends_at_s <= now_s:
                    harness.ends_at_s = None
                    self._unloads.submit(functools.partial(self._end_runs, harness, harness.servable, harness.holders))
            for name in self._table.names():
                self._steps.act(name)
            return first_instant(iter(self._table), self._steps.aspired.__contains__)

    def on_the_way(self, names: Collection[str] | None = None) -> frozenset[ServableId]:
        """What is about to load or loading, of all models or of some."""
        with self._lock:
            return self._on_the_way(names)

    def wait_idle(self, *, timeout_s: float, names: Collection[str] | None = None) -> bool:
        """Waits until nothing is about to load or loading: what could be loaded is, the rest has failed.

        Args:
            timeout_s: At most so long.
            names: Of these models alone; None for all.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._on_the_way(names), timeout_s)

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
                        self.on_move()
                        self._changed.notify_all()
                    stops, self._steps.stops = self._steps.stops, []
            for stop in stops:
                stop()
        finally:
            if after != before:
                self._watchers.tell()

    def _load(self, harness: Harness[S]) -> None:
        """In a load thread."""
        servable_id, version = harness.servable_id, harness.aspired
        begin_s = self._clock()
        retriable = True
        try:
            self._take_up(harness)
            _log.info("loading %s from %s", servable_id, version.place)
            self._prepare(servable_id, version)
            loader = self._make_loader(servable_id, version.path, functools.partial(self.lost, servable_id))
            self._take_up(harness, loader.stop)
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

    def _take_up(self, harness: Harness[S], stop: Callable[[], None] | None = None) -> None:
        """Raises where the load was given up before there was anything to end."""
        with self._lock:
            harness.begun, harness.stop = True, stop
            if harness.given_up:
                raise _GivenUp

    def _loaded(self, harness: Harness[S], servable: S, version: AspiredVersion) -> bool:
        """Has what was loaded answer; False where it was given up meanwhile: its files may be half of each."""
        servable_id = harness.servable_id
        with self._changing():
            if harness.given_up:
                self._end_given_up(harness)
                return False
            origin = harness.origin
            harness.loaded(servable, now_s=self._clock())
            if origin is not None and origin != version:
                harness.note = CHANGED_AND_LOST
                _log.error("%s: %s", servable_id, harness.note)
            if harness is self._table.successor(servable_id):
                self._steps.succeed(harness)
            self._table.refresh_latest(servable_id.name)
            dead = self._died_early.get(servable_id, [])
            if not self._steps.loads_of(servable_id):
                self._died_early.pop(servable_id, None)
            if any(servable is each for each in dead):
                self._lose(harness, "it died as soon as it was loaded")
            self._steps.act(servable_id.name)
        return True

    def _end_given_up(self, harness: Harness[S]) -> None:
        """A load that was given up has ended: what is wanted by now is loaded. Under the lock."""
        servable_id = harness.servable_id
        harness.load_given_up()
        if not self._steps.loads_of(servable_id):
            self._died_early.pop(servable_id, None)
        if self._table.has(harness) and servable_id in self._steps.aspired:
            self._table.create(servable_id, self._steps.aspired[servable_id])
        self._steps.act(servable_id.name)

    def _load_failed(self, harness: Harness[S], error: Exception, *, retriable: bool) -> None:
        with self._changing():
            if harness.given_up:
                self._end_given_up(harness)
                return
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
            servable_id = harness.servable_id
            harness.load_failed(text, retry_at_s=retry_at_s, starved=starved)
            if not self._steps.loads_of(servable_id):
                self._died_early.pop(servable_id, None)
            successor = self._table.successor(servable_id)
            if successor is not None and successor is not harness and self._table.has(harness):
                self._table.succeed(successor)
            self._steps.act(servable_id.name)
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
        if delay_s == 0 and worth_reloading(
            harness.servable_id.version, self._steps.snapshots(harness.servable_id.name)
        ):
            self._steps.begin_load(harness)
        self._steps.act(harness.servable_id.name)
        self._alarm.wake()

    def _unload(self, harness: Harness[S]) -> None:
        """In an unload thread, once nobody holds the version."""
        try:
            harness.servable.close()
        finally:
            with self._changing():
                harness.unloaded()
                if self._table.has(harness):
                    self._table.drop(harness)
                again = self._steps.aspired.get(harness.servable_id)
                if again is not None:
                    self._steps.admit(harness.servable_id, again)
                self._feed()
                self._steps.act(harness.servable_id.name)
            _log.info("unloaded %s", harness.servable_id)
            give_back()

    def _feed(self) -> None:
        """Memory was freed: loads that did not fit are tried again. Under the lock."""
        for starved in [item for item in self._table if item.starved and item.servable_id in self._steps.aspired]:
            starved.retry()
            self._steps.act(starved.servable_id.name)

    def _end_runs(self, harness: Harness[S], servable: S, holders: int) -> None:
        """In an unload thread: what still runs of a version that is to go fails, which has its holders let go."""
        _log.warning(
            "%s is held by %d requests %.0f s after it was to be unloaded: they are ended",
            harness.servable_id,
            holders,
            self._options.max_unload_wait_s,
        )
        servable.close()

    def _release(self, harness: Harness[S], loaded: Loaded[S]) -> None:
        with self._lock:
            loaded.release()
            if loaded.holders:
                return
            if not harness.holds(loaded):
                self._unloads.submit(functools.partial(_bury, harness.servable_id, loaded))
            elif harness.state is State.UNLOADING:
                self._unloads.submit(functools.partial(self._unload, harness))

    def _on_the_way(self, names: Collection[str] | None) -> frozenset[ServableId]:
        return frozenset(
            harness.servable_id
            for harness in self._table
            if (harness.state is State.START or harness.under_way)
            and (names is None or harness.servable_id.name in names)
        )


class _GivenUp(Exception):
    """A load was given up before it began."""


def _bury(servable_id: ServableId, dead: Loaded[S]) -> None:
    """In an unload thread, once nobody holds what was lost."""
    dead.servable.close()
    _log.info("freed what was left of %s", servable_id)
