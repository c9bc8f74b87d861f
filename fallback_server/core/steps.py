"""The steps that one version after another is taken through: decided by a policy, done to the manager's table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.harness import Harness
from fallback_server.core.loader import Servable
from fallback_server.core.policy import Transition, Verb, VersionSnapshot, worth_reloading
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.table import VersionTable

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=Servable)

NOT_WANTED = "the version is not wanted any more"

CHANGED = "its files changed on disk after it was loaded; it is served as loaded: publish a new version instead"
CHANGED_SINCE = (
    "its files changed on disk, before or after its process died and was started anew: it may answer otherwise than at "
    "first; publish a new version instead"
)
CHANGED_AND_LOST = (
    "its files changed on disk and then its process died: it was loaded anew from what they are now, and may answer "
    "otherwise than before; publish a new version instead"
)
"""What is said of a version whose files were changed under its number: it answers, but nobody can tell with what."""


class Steps(Generic[S]):
    """Guards no threads: the manager calls it under its lock. Nothing here waits.

    Args:
        table: Where the versions stand.
        transition: What to load or unload next.
        num_load_threads: How many loads run at a time.
        clock: Monotonic seconds.
        max_unload_wait_s: How long a version that is to be unloaded is left to those that hold it.
        wake: Has the manager look again at what is due when.
        submit_load: Has a load begun in a thread.
        submit_unload: Likewise an unload, of what nobody holds.

    Attributes:
        aspired: The complete set of versions that should be served.
        stops: What ends loads that were given up: to be called without the lock, and taken out.
    """

    def __init__(
        self,
        *,
        table: VersionTable[S],
        transition: Transition,
        num_load_threads: int,
        clock: Callable[[], float],
        max_unload_wait_s: float,
        wake: Callable[[], None],
        submit_load: Callable[[Harness[S]], None],
        submit_unload: Callable[[Harness[S]], None],
    ) -> None:
        self.aspired: Mapping[ServableId, AspiredVersion] = {}
        self.stops: list[Callable[[], None]] = []
        self.table = table
        self._transition = transition
        self._num_load_threads = num_load_threads
        self._clock = clock
        self._max_unload_wait_s = max_unload_wait_s
        self._wake = wake
        self._submit_load = submit_load
        self._submit_unload = submit_unload

    def admit(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """Makes or renews the harness of one aspired version."""
        harness = self.table.find(servable_id.name, servable_id.version)
        successor = self.table.successor(servable_id)
        if successor is not None and successor.aspired != version:
            self._dismiss(successor)
        elif successor is not None:
            self.retry_due(successor, self._clock())
        if harness is None:
            self.table.create(servable_id, version)
        elif harness.aspired != version:
            self._renew(harness, version)
        else:
            if version.archive is not None:
                # It may have another name by now.
                harness.aspired = version
            self.retry_due(harness, self._clock())

    def _renew(self, harness: Harness[S], version: AspiredVersion) -> None:
        """The version's files are others than before. The policy decides of one that answers, and has moved."""
        servable_id, moved = harness.servable_id, version.stands_elsewhere(harness.aspired)
        if harness.state in (State.START, State.END):
            self.table.create(servable_id, version)
        elif self.table.successor(servable_id) is not None:
            return
        elif harness.under_way:
            self.give_up(harness, "its files changed while they were loaded")
        elif harness.reload_at_s is not None:
            harness.aspired = version
            if moved:
                harness.origin = None
            else:
                _log.warning("%s changed on disk after it was loaded; it is loaded anew as it is now", servable_id)
        elif harness.state is State.AVAILABLE and not moved:
            harness.aspired = version
            # After a death nobody can tell whether it was loaded from the original.
            if version == harness.origin and not harness.losses:
                harness.note = ""
                _log.info("%s: its files on disk are again those that it was loaded from", servable_id)
                return
            harness.note = CHANGED_SINCE if harness.losses else CHANGED
            _log.log(logging.ERROR if harness.losses else logging.WARNING, "%s: %s", servable_id, harness.note)

    def retry_due(self, harness: Harness[S], now_s: float) -> None:
        """Makes ready, or begins, the load whose instant has come."""
        due_s = harness.retry_at_s
        if harness.state is State.END and due_s is not None and due_s <= now_s:
            harness.retry()
        elif harness.reload_at_s is not None and harness.reload_at_s <= now_s:
            self.begin_load(harness)

    def act(self, name: str) -> None:
        """Takes every step there is for one model, and drops what has ended."""
        self._drop_unwanted(name)
        while action := self._transition(self.snapshots(name)):
            harness = self.table.find(name, action.version)
            assert harness is not None
            if action.verb is Verb.LOAD:
                self.begin_load(harness)
            elif action.verb is Verb.REPLACE:
                self._begin_replacing(harness)
            else:
                self.begin_unload(harness)
        for successor in self.table.successors(name):
            if successor.state is State.START:
                self.begin_load(successor)
        self._make_way(name)

    def _drop_unwanted(self, name: str) -> None:
        for harness in self.table.of(name):
            if harness.servable_id not in self.aspired:
                self._abandon(harness)
                if harness.state is State.END:
                    self.table.drop(harness)
        for successor in self.table.successors(name):
            if successor.servable_id not in self.aspired:
                self._dismiss(successor)

    def _abandon(self, harness: Harness[S]) -> None:
        """Gives up the load of a version that is not aspired any more, and stands in for none."""
        servable_id = harness.servable_id
        if harness.state is State.START:
            harness.abandon()
        elif harness.state is State.LOADING and not worth_reloading(
            servable_id.version, self.snapshots(servable_id.name)
        ):
            if harness.under_way:
                self.give_up(harness, NOT_WANTED)
            else:
                harness.abandon()

    def _make_way(self, name: str) -> None:
        """Gives up a load that is not aspired any more where one that is waits for it, or for its thread.

        The latest begun goes first: while versions come faster than they load, the first gets to its end.
        """
        loads = [harness for harness in self.table.of(name) if harness.under_way]
        stale = [item for item in loads if item.servable_id not in self.aspired and not item.given_up]
        if not stale:
            return
        waits = any(item.state is State.START for item in self.table.of(name))
        queued = any(not item.begun and item.servable_id in self.aspired for item in loads)
        busy = sum(item.under_way and item.begun and not item.given_up for item in self.table)
        if waits or (queued and busy >= self._num_load_threads):
            self.give_up(max(stale, key=lambda item: item.servable_id.version), NOT_WANTED)

    def give_up(self, harness: Harness[S], why: str) -> None:
        """Has a load under way end; nothing of it is served."""
        if harness.given_up:
            return
        harness.given_up = True
        _log.info("the load of %s is given up: %s", harness.servable_id, why)
        if harness.stop is not None:
            self.stops.append(harness.stop)

    def _begin_replacing(self, harness: Harness[S]) -> None:
        servable_id = harness.servable_id
        version = self.aspired[servable_id]
        _log.info("%s is served from %s until it is loaded from %s", servable_id, harness.aspired.place, version.place)
        self.table.create_successor(servable_id, version)

    def _dismiss(self, successor: Harness[S]) -> None:
        """What was to take a version's place is not wanted any more."""
        self.table.drop_successor(successor)
        if successor.under_way:
            self.give_up(successor, NOT_WANTED)

    def begin_load(self, harness: Harness[S]) -> None:
        """Has a version loaded as soon as a thread is free."""
        harness.begin_load()
        self._submit_load(harness)

    def begin_unload(self, harness: Harness[S]) -> None:
        """Has a version answer no more, and unloaded once nobody holds it."""
        harness.begin_unload(ends_at_s=self._clock() + self._max_unload_wait_s)
        self.table.refresh_latest(harness.servable_id.name)
        if harness.quiescent:
            self._submit_unload(harness)
        else:
            self._wake()

    def states(self, name: str) -> tuple[ServableState, ...]:
        """What is known of a model's versions, the highest first; what is wanted again follows what is unloaded."""
        return tuple(
            replace(state, successor=State.START)
            if state.state is State.UNLOADING and state.servable_id in self.aspired
            else state
            for state in self.table.states(name)
        )

    def snapshots(self, name: str) -> list[VersionSnapshot]:
        """What the policy decides of a model by."""
        return [
            VersionSnapshot(
                version=harness.servable_id.version,
                state=harness.state,
                aspired=harness.servable_id in self.aspired,
                moved=self._has_moved(harness),
            )
            for harness in self.table.of(name)
        ]

    def _has_moved(self, harness: Harness[S]) -> bool:
        version = self.aspired.get(harness.servable_id, harness.aspired)
        return version.stands_elsewhere(harness.aspired) and self.table.successor(harness.servable_id) is None

    def succeed(self, successor: Harness[S]) -> None:
        """What stands elsewhere takes its predecessor's place, which is unloaded."""
        servable_id = successor.servable_id
        before = self.table.find(servable_id.name, servable_id.version)
        assert before is not None
        self.table.succeed(successor)
        _log.info("%s is served from %s instead of %s", servable_id, successor.aspired.place, before.aspired.place)
        if before.state is State.AVAILABLE:
            self.begin_unload(before)
        elif before.under_way:
            self.give_up(before, NOT_WANTED)
        elif before.state is State.LOADING:
            before.abandon()

    def loads_of(self, servable_id: ServableId) -> bool:
        """Whether a load of a version is under way."""
        both = (self.table.find(servable_id.name, servable_id.version), self.table.successor(servable_id))
        return any(harness is not None and harness.under_way for harness in both)
