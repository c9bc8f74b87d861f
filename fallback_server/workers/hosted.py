"""What a worker has loaded, and which of it answers a request: as the first process says, or nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import ServerError
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.harness import Harness, Loaded
from fallback_server.core.routes import Routes
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.served_model import ServedModel
from fallback_server.workers.epoch import Epoch
from fallback_server.workers.messages import View
from fallback_server.workers.views import ModelRoutes, as_routes, resolved


class Elsewhere(ServerError):
    """A request that only the first process answers. No caller sees it: the request is passed on."""


class Place(Loaded[ServedModel]):
    """One load, and who holds it.

    Args:
        servable_id: Which version.
        servable: What was loaded.

    Attributes:
        harness: For handles.
        dropped: Whether it is closed as soon as nobody holds it.
    """

    __slots__ = ("dropped", "harness")

    def __init__(self, servable_id: ServableId, servable: ServedModel) -> None:
        super().__init__(servable)
        self.harness: Harness[ServedModel] = Harness(servable_id, AspiredVersion(path=Path(), fingerprint=()))
        self.dropped = False


class _Model(NamedTuple):
    told: ModelRoutes
    routes: Routes
    places: Mapping[int, Place]


class _Table(NamedTuple):
    """All that is known at one epoch. Replaced whole, never changed."""

    epoch: int
    models: Mapping[str, _Model]


class HostedVersions:
    """The data plane's `Versions` in a worker. Thread-safe.

    Args:
        epoch: The first process's.
        draw: Random numbers in [0, 1).

    Attributes:
        moves: How many times what is known, or what is loaded, has changed.
    """

    def __init__(self, epoch: Epoch, *, draw: Callable[[], float] = random.random) -> None:
        self.moves = 0
        self._epoch = epoch
        self._draw = draw
        self._lock = threading.Lock()
        self._places: dict[int, Place] = {}
        self._told: dict[str, ModelRoutes] = {}
        self._told_epoch = -1
        self._table = _Table(-1, {})

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means.

        Raises:
            Elsewhere: it is not here; or what is known of it may not hold any more.
        """
        table = self._table
        model = table.models.get(target.name)
        if model is None or table.epoch != self._epoch.value:
            raise Elsewhere
        version = resolved(model.told, model.routes, target, client_key=client_key, draw=self._draw)
        place = None if version is None else model.places.get(version)
        if place is None:
            raise Elsewhere
        with self._lock:
            if place.dropped:
                raise Elsewhere
            place.holders += 1
        return ServableHandle(place.harness, place, self._release)

    def standing(self, target: ModelTarget) -> Standing[ServedModel] | None:
        """The version that every request of a target gets, as long as what is known holds; see `Router.standing`."""
        with self._lock:
            table, moves = self._table, self.moves
        model = table.models.get(target.name)
        if model is None or target.version == 0:
            return None
        if target.version is None and target.label is None and not model.routes.latest_answers:
            return None
        try:
            handle = self.acquire(target)
        except Elsewhere:
            return None
        # Not the table: that keeps what is loaded.
        known, epoch = table.epoch, self._epoch
        with handle:
            return handle.standing(lock=self._lock, changes=self, moves=moves, steady=lambda: epoch.value == known)

    def shadow(self, name: str, answered: int) -> None:
        """None: where requests also run on a shadow, the first process answers them."""

    def host(self, number: int, place: Place) -> None:
        """Takes what was loaded; it answers when a view says so."""
        with self._lock:
            self._places[number] = place
            self._refresh()

    def drop(self, number: int) -> None:
        """Lets go of what was loaded, once nobody holds it; of what was not there nothing."""
        with self._lock:
            place = self._places.pop(number, None)
            if place is None:
                return
            place.dropped = True
            self._refresh()
            idle = not place.holders
        if idle:
            place.servable.close()

    def take(self, view: View) -> None:
        """Answers as a view says from now on."""
        with self._lock:
            for name in view.gone:
                self._told.pop(name, None)
            self._told.update(view.models)
            self._told_epoch = view.epoch
            self._refresh()

    def places(self) -> dict[int, Place]:
        """What is loaded, by the numbers of the loads."""
        with self._lock:
            return dict(self._places)

    def _refresh(self) -> None:
        """Under the lock. A model of which a version is not loaded here is answered by the first process as a whole."""
        self.moves += 1
        models: dict[str, _Model] = {}
        before = self._table.models
        for name, told in self._told.items():
            places = {version: self._places.get(number) for version, number in told.versions.items()}
            found = {version: place for version, place in places.items() if place is not None}
            if len(found) < len(places):
                continue
            known = before.get(name)
            same = known is not None and known.told is told
            models[name] = _Model(told, known.routes if known is not None and same else as_routes(told), found)
        self._table = _Table(self._told_epoch, models)

    def _release(self, harness: Harness[ServedModel], loaded: Loaded[ServedModel]) -> None:
        del harness
        assert isinstance(loaded, Place)
        with self._lock:
            loaded.release()
            ends = loaded.dropped and not loaded.holders
        if ends:
            loaded.servable.close()
