"""Acts on what the policy decides: loads and unloads versions in threads of its own, and hands out handles."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fallback_server.core.errors import ModelNotFound, VersionNotReady
from fallback_server.core.handle import ServableHandle
from fallback_server.core.harness import Harness
from fallback_server.core.loader import MakeLoader, Servable
from fallback_server.core.policy import Verb, VersionSnapshot, availability_preserving
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.source import AspiredVersion
from fallback_server.core.workers import WorkerPool

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=Servable)

MAX_REMEMBERED = 256
"""How many unloaded versions stay visible as END; the oldest are forgotten first."""

MAX_THREADS = 1024
"""More than any machine runs at a time."""

_ON_THE_WAY = (State.START, State.LOADING)


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


class Manager(Generic[S]):
    """Keeps the versions loaded that a source aspires to. Every method may be called from any thread.

    All state changes under one lock; what takes time (loading, closing) runs outside it.

    Args:
        make_loader: Makes the loader of one version.
        options: Threads and retries.
        clock: Monotonic seconds; decides when a failed load is due again.
    """

    def __init__(
        self,
        *,
        make_loader: MakeLoader[S],
        options: ManagerOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_loader = make_loader
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._aspired: Mapping[ServableId, AspiredVersion] = {}
        self._models: dict[str, dict[int, Harness[S]]] = {}
        self._latest: dict[str, Harness[S]] = {}
        self._ended: dict[ServableId, ServableState] = {}
        self._loads = WorkerPool(name="load", threads=options.num_load_threads)
        self._unloads = WorkerPool(name="unload", threads=options.num_unload_threads)

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """States the complete set of versions that should be served; returns before they are.

        To be called again now and then with the same set: failed loads are retried then.
        """
        with self._lock:
            self._aspired = dict(aspired)
            for servable_id, version in self._aspired.items():
                self._admit(servable_id, version)
            for name in list(self._models):
                self._act(name)

    def acquire(self, name: str, version: int | None = None) -> ServableHandle[S]:
        """Holds a version, the latest that answers when none is named.

        Raises:
            VersionNotReady: it is loading or unloading, or (none named) one of the model is and none answers.
            ModelNotFound: anything else.
        """
        with self._lock:
            harness = self._latest.get(name) if version is None else self._models.get(name, {}).get(version)
            if harness is None or harness.state is not State.AVAILABLE:
                raise self._why_not(name, version)
            return ServableHandle(harness, harness.acquire(), self._release)

    def states(self, name: str) -> tuple[ServableState, ...]:
        """The states of all versions of a model that are known, the highest version first."""
        with self._lock:
            ended = {key.version: state for key, state in self._ended.items() if key.name == name}
            known = ended | {number: harness.snapshot for number, harness in self._models.get(name, {}).items()}
        return tuple(known[number] for number in sorted(known, reverse=True))

    def wait_idle(self, *, timeout_s: float) -> bool:
        """Waits until nothing is about to load or loading: what could be loaded is, the rest has failed."""
        with self._changed:
            return self._changed.wait_for(self._nothing_on_the_way, timeout_s)

    def stop(self, *, timeout_s: float) -> bool:
        """Unloads everything; False when a load or a holder outlasts `timeout_s`, and its memory stays."""
        end_s = time.monotonic() + timeout_s
        self.set_aspired({})
        with self._changed:
            unloaded = self._changed.wait_for(lambda: not self._models, timeout_s)
        pools = (self._loads, self._unloads)
        ended = [pool.stop(timeout_s=max(0.0, end_s - time.monotonic())) for pool in pools]
        return unloaded and all(ended)

    def _admit(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """Makes or renews the harness of one aspired version."""
        harnesses = self._models.setdefault(servable_id.name, {})
        harness = harnesses.get(servable_id.version)
        if harness is None:
            self._ended.pop(servable_id, None)
            harnesses[servable_id.version] = Harness(servable_id, version)
        elif harness.aspired.fingerprint != version.fingerprint:
            self._renew(harnesses, harness, version)
        elif harness.state is State.END and harness.retry_at_s is not None and harness.retry_at_s <= self._clock():
            harness.retry()

    def _renew(self, harnesses: dict[int, Harness[S]], harness: Harness[S], version: AspiredVersion) -> None:
        """The version's files are others than at first. One that is LOADING is looked at again when it is done."""
        if harness.state in (State.START, State.END):
            harnesses[harness.servable_id.version] = Harness(harness.servable_id, version)
        elif harness.state is State.AVAILABLE:
            harness.aspired = version
            _log.warning(
                "%s changed on disk after it was loaded; it is served as loaded: publish a new version instead",
                harness.servable_id,
            )

    def _act(self, name: str) -> None:
        """Takes every step there is for one model, and drops what has ended. Under the lock."""
        harnesses = self._models[name]
        for harness in list(harnesses.values()):
            if harness.servable_id not in self._aspired:
                if harness.state is State.START:
                    harness.abandon()
                if harness.state is State.END:
                    self._drop(harness)
        while action := availability_preserving([self._snapshot(harness) for harness in harnesses.values()]):
            harness = harnesses[action.version]
            if action.verb is Verb.LOAD:
                harness.begin_load()
                self._loads.submit(functools.partial(self._load, harness))
            else:
                harness.begin_unload()
                self._refresh_latest(name)
                if harness.quiescent:
                    self._unloads.submit(functools.partial(self._unload, harness))
        if not harnesses:
            self._models.pop(name, None)
        self._changed.notify_all()

    def _snapshot(self, harness: Harness[S]) -> VersionSnapshot:
        return VersionSnapshot(
            version=harness.servable_id.version,
            state=harness.state,
            aspired=harness.servable_id in self._aspired,
        )

    def _load(self, harness: Harness[S]) -> None:
        """In a load thread."""
        servable_id = harness.servable_id
        _log.info("loading %s from %s", servable_id, harness.aspired.path)
        begin_s = self._clock()
        try:
            servable = self._make_loader(servable_id, harness.aspired.path).load()
        except Exception as error:  # noqa: BLE001  whatever a model does wrong, it harms no other
            self._load_failed(harness, f"{type(error).__name__}: {error}")
            return
        with self._lock:
            harness.loaded(servable)
            self._refresh_latest(servable_id.name)
            self._act(servable_id.name)
        _log.info("loaded %s in %.2f s", servable_id, self._clock() - begin_s)

    def _load_failed(self, harness: Harness[S], error: str) -> None:
        left = self._options.max_num_load_retries + 1 - harness.attempts
        retry_at_s = self._clock() + self._options.load_retry_interval_s if left > 0 else None
        _log.error("loading %s failed, %d attempts left: %s", harness.servable_id, max(left, 0), error)
        with self._lock:
            harness.load_failed(error, retry_at_s=retry_at_s)
            self._act(harness.servable_id.name)

    def _unload(self, harness: Harness[S]) -> None:
        """In an unload thread, once nobody holds the version."""
        try:
            harness.servable.close()
        finally:
            with self._lock:
                harness.unloaded()
                self._drop(harness)
                again = self._aspired.get(harness.servable_id)
                if again is not None:
                    self._admit(harness.servable_id, again)
                if harness.servable_id.name in self._models:
                    self._act(harness.servable_id.name)
            _log.info("unloaded %s", harness.servable_id)

    def _release(self, harness: Harness[S]) -> None:
        with self._lock:
            harness.release()
            if harness.quiescent:
                self._unloads.submit(functools.partial(self._unload, harness))

    def _drop(self, harness: Harness[S]) -> None:
        """Forgets a harness in END; its state stays visible for a while. Under the lock."""
        servable_id = harness.servable_id
        harnesses = self._models[servable_id.name]
        del harnesses[servable_id.version]
        if not harnesses:
            del self._models[servable_id.name]
        self._ended[servable_id] = harness.snapshot
        while len(self._ended) > MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._changed.notify_all()

    def _refresh_latest(self, name: str) -> None:
        answering = [item for item in self._models.get(name, {}).values() if item.state is State.AVAILABLE]
        if answering:
            self._latest[name] = max(answering, key=lambda item: item.servable_id.version)
        else:
            self._latest.pop(name, None)

    def _nothing_on_the_way(self) -> bool:
        return not any(item.state in _ON_THE_WAY for items in self._models.values() for item in items.values())

    def _why_not(self, name: str, version: int | None) -> ModelNotFound | VersionNotReady:
        """Why there is no handle. Under the lock."""
        what = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        harnesses = self._models.get(name, {})
        candidates = sorted(harnesses) if version is None else [version]
        waiting = [
            f"version {number} is {harnesses[number].state.name}"
            for number in candidates
            if number in harnesses and harnesses[number].state is not State.END
        ]
        if waiting:
            return VersionNotReady(f"Servable not ready for request: {what}; {', '.join(waiting)}")
        return ModelNotFound(f"Servable not found for request: {what}")
