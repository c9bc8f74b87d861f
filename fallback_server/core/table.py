"""The manager's table: every model's versions, the one that answers, and what is remembered of those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Generic, TypeVar

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import ModelNotFound, VersionNotReady
from fallback_server.core.harness import Harness
from fallback_server.core.loader import Servable
from fallback_server.core.servable import ServableId, ServableState, State

S = TypeVar("S", bound=Servable)

MAX_REMEMBERED = 256
"""How many unloaded versions stay visible as END; the oldest are forgotten first."""


class VersionTable(Generic[S]):
    """Guards no threads: the manager calls it under its lock.

    A version has one harness that counts. Where it has moved, a second one, its successor, loads what stands elsewhere,
    and takes the first one's place.

    Attributes:
        moves: How many times any version's state has changed.
    """

    def __init__(self) -> None:
        self.moves = 0
        self._models: dict[str, dict[int, Harness[S]]] = {}
        self._successors: dict[ServableId, Harness[S]] = {}
        self._latest: dict[str, Harness[S]] = {}
        self._ended: dict[ServableId, ServableState] = {}

    def create(self, servable_id: ServableId, aspired: AspiredVersion) -> Harness[S]:
        """A new harness in START, in place of the one that may have been there."""
        harness: Harness[S] = Harness(servable_id, aspired, on_move=self._note)
        self._place(harness)
        return harness

    def create_successor(self, servable_id: ServableId, aspired: AspiredVersion) -> Harness[S]:
        """A second harness of a version, in START."""
        successor: Harness[S] = Harness(servable_id, aspired, on_move=self._note)
        self._successors[servable_id] = successor
        self._note()
        return successor

    def successor(self, servable_id: ServableId) -> Harness[S] | None:
        """What is to take a version's place; None for nothing."""
        return self._successors.get(servable_id)

    def successors(self, name: str) -> list[Harness[S]]:
        """Those of a model."""
        return [harness for key, harness in self._successors.items() if key.name == name]

    def drop_successor(self, successor: Harness[S]) -> None:
        """Forgets it."""
        del self._successors[successor.servable_id]
        self._note()

    def succeed(self, successor: Harness[S]) -> None:
        """Has it take its predecessor's place, which is known to the caller alone from now on."""
        del self._successors[successor.servable_id]
        self._place(successor)

    def has(self, harness: Harness[S]) -> bool:
        """Whether it is the one that counts of its version, or its successor."""
        servable_id = harness.servable_id
        found = self.find(servable_id.name, servable_id.version)
        return harness is found or harness is self._successors.get(servable_id)

    def drop(self, harness: Harness[S]) -> None:
        """Forgets a harness in END; its state stays visible for a while."""
        servable_id = harness.servable_id
        harnesses = self._models[servable_id.name]
        del harnesses[servable_id.version]
        if not harnesses:
            del self._models[servable_id.name]
        self._ended[servable_id] = harness.snapshot
        while len(self._ended) > MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._note()

    def refresh_latest(self, name: str) -> None:
        """To be called whenever a version of the model has begun or ceased to answer."""
        answering = self.available(name)
        if answering:
            self._latest[name] = self._models[name][answering[-1]]
        else:
            self._latest.pop(name, None)

    def find(self, name: str, version: int | None) -> Harness[S] | None:
        """A version's harness; that of the latest that answers when none is named."""
        return self._latest.get(name) if version is None else self._models.get(name, {}).get(version)

    def of(self, name: str) -> list[Harness[S]]:
        """The harnesses of a model."""
        return list(self._models.get(name, {}).values())

    def names(self) -> tuple[str, ...]:
        """The models of which there is a harness."""
        return tuple(self._models)

    def available(self, name: str) -> tuple[int, ...]:
        """The versions that answer, ascending."""
        harnesses = self._models.get(name, {}).items()
        return tuple(sorted(number for number, harness in harnesses if harness.state is State.AVAILABLE))

    def coming(self, name: str) -> tuple[int, ...]:
        """The versions that are being loaded, or about to be, ascending."""
        harnesses = self._models.get(name, {}).items()
        return tuple(sorted(number for number, one in harnesses if one.state in {State.START, State.LOADING}))

    def states(self, name: str) -> tuple[ServableState, ...]:
        """What is known of a model's versions, the highest first."""
        ended = {key.version: state for key, state in self._ended.items() if key.name == name}
        known = ended | {number: self._state(harness) for number, harness in self._models.get(name, {}).items()}
        return tuple(known[number] for number in sorted(known, reverse=True))

    def all_names(self) -> tuple[str, ...]:
        """The models of which anything is known, in the alphabet's order."""
        return tuple(sorted(self._models.keys() | {key.name for key in self._ended}))

    def __iter__(self) -> Iterator[Harness[S]]:
        for harnesses in self._models.values():
            yield from harnesses.values()
        yield from self._successors.values()

    def __bool__(self) -> bool:
        return bool(self._models)

    def why_not(self, name: str, version: int | None) -> ModelNotFound | VersionNotReady:
        """Why there is no handle."""
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

    def _place(self, harness: Harness[S]) -> None:
        servable_id = harness.servable_id
        self._ended.pop(servable_id, None)
        self._models.setdefault(servable_id.name, {})[servable_id.version] = harness
        self._note()

    def _state(self, harness: Harness[S]) -> ServableState:
        state, successor = harness.snapshot, self._successors.get(harness.servable_id)
        if successor is None or state.state is not State.AVAILABLE:
            return state
        here, there = harness.aspired.place, successor.aspired.place
        if successor.state is State.END:
            note = f"it is served from {here} as before: {there} can't be loaded: {successor.error}"
        else:
            note = f"it is served from {here} while {there} is loaded"
        return replace(state, note=note, successor=successor.state)

    def _note(self) -> None:
        self.moves += 1


def first_instant(harnesses: Iterator[Harness[S]], is_aspired: Callable[[ServableId], bool]) -> float | None:
    """The earliest instant at which a load is due again, or the end of what runs; None where none is."""
    instants = [
        {State.END: harness.retry_at_s, State.UNLOADING: harness.ends_at_s}.get(harness.state, harness.reload_at_s)
        for harness in harnesses
        if harness.state is not State.END or is_aspired(harness.servable_id)
    ]
    return min((instant for instant in instants if instant is not None), default=None)
