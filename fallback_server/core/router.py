"""Finds the version that a request means, and moves labels and defaults while versions come and go."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from fallback_server.core.errors import (
    InvalidInput,
    LabelRefused,
    ModelNotFound,
    NotReady,
    PreconditionFailed,
    ServerError,
)
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.loader import Servable
from fallback_server.core.manager import Manager
from fallback_server.core.model_config import MAX_ENTRIES, ModelConfig, check_label, check_traffic
from fallback_server.core.rollback import Move, Rollback, rolled_back, taken_back
from fallback_server.core.routes import (
    PLAIN,
    Label,
    Routes,
    default_version,
    settled,
    shadowed,
    shares,
)
from fallback_server.core.target import ModelTarget

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=Servable)

_TRIES = 3
"""How often a request looks again for a version that left while it was being chosen. Each look knows the newest state;
to lose three races in a row takes three changes within microseconds."""


class Router(Generic[S]):
    """Holds the routes of all models. Thread-safe; a request takes no lock but the manager's.

    Args:
        manager: Has the versions.
        configs: The models at the start; their labels are moved once their versions are available.
        allow_unavailable: Whether a label that is not in use yet may point to a version that is not available yet.
        draw: Random numbers in [0, 1).
    """

    def __init__(
        self,
        manager: Manager[S],
        configs: Sequence[ModelConfig],
        *,
        allow_unavailable: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._manager = manager
        self._allow_unavailable = allow_unavailable
        self._draw = draw
        self._lock = threading.Lock()
        # Replaced whole, never changed: requests read it without a lock.
        self._routes: Mapping[str, Routes] = {config.name: _first_routes(config) for config in configs}
        self._silent: frozenset[tuple[str, str, int]] = frozenset()
        self._waiting: frozenset[tuple[str, str, int]] = frozenset()

    def of(self, name: str) -> Routes:
        """A model's routes as they are now."""
        return self._routes.get(name, PLAIN)

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[S]:
        """Holds the version that a request means.

        Args:
            target: The model, and the version or the label that the request names, if any.
            client_key: Who asks: where traffic is split, one key gets one version. Empty: each request is drawn.

        Raises:
            InvalidInput: no name, or an unknown label.
            VersionNotReady: see `Manager.acquire`.
            ModelNotFound: see `Manager.acquire`; or the label's version is gone.
        """
        name = target.name
        if not name:
            raise InvalidInput("ModelSpec has no name specified.")
        # OpenVINO's client sends 0 for "whichever": it names a version only where there is such a one.
        if target.version or (target.version == 0 and 0 in self._manager.available(name)):
            return self._manager.acquire(name, target.version)
        if target.label is not None:
            return self._acquire_label(name, target.label)
        for _ in range(_TRIES):
            routes = self._routes.get(name, PLAIN)
            if routes.latest_answers:
                break
            draw = self._draw() if routes.hold is None and not client_key else 0.0
            available, coming = self._manager.available(name), self._manager.coming(name)
            version = default_version(routes, available, coming=coming, key=client_key, draw=draw)
            try:
                return self._manager.acquire(name, version)
            except (ModelNotFound, NotReady):
                if version in coming:
                    raise
        return self._manager.acquire(name)

    def standing(self, target: ModelTarget) -> Standing[S] | None:
        """The version that every request of a target gets, whoever asks, until something changes.

        None where they don't all get the same, or some run on a second version too; or where none answers.
        """
        routes, moves = self._routes, self._manager.moves
        if target.version is None and target.label is None:
            own = routes.get(target.name, PLAIN)
            if not own.latest_answers or own.shadow is not None:
                return None
        elif target.version == 0:
            return None  # See `acquire`.
        try:
            handle = self.acquire(target)
        except ServerError:
            return None
        with handle:
            return self._manager.standing(handle, moves=moves, steady=lambda: self._routes is routes)

    def shadow(self, name: str, answered: int) -> ServableHandle[S] | None:
        """Holds a second version that a request also runs on, its answer unseen; None for most requests.

        Args:
            name: The model.
            answered: The version that answers.
        """
        routes = self._routes.get(name)
        if routes is None or routes.shadow is None:
            return None
        version = shadowed(routes.shadow, answered, self._draw())
        if version is None:
            return None
        try:
            return self._manager.acquire(name, version)
        except (ModelNotFound, NotReady):
            return None

    def version_of(self, name: str, label: str) -> int:
        """Where a label points, or will.

        Raises:
            InvalidInput: the model has no such label.
        """
        entry = self.of(name).labels.get(label)
        version = None if entry is None else entry.pending if entry.version is None else entry.version
        if version is None:
            raise InvalidInput(f"Unrecognized servable version label: {label}")
        return version

    def configure(
        self,
        configs: Sequence[ModelConfig],
        *,
        before: Mapping[str, ModelConfig],
        brought: Mapping[str, frozenset[int]],
        labels_may_wait: bool = False,
    ) -> None:
        """Takes the routes of a complete set of models, or changes nothing.

        What an operator has done to a model's labels, its split and its default stays, but for what the configuration
        now says otherwise: other labels than before take the place of all labels, another split that of the split, and
        of a default that was rolled back. A rollback that ends so is told in the log.

        Args:
            configs: The models.
            before: Those that were configured until now, by name.
            brought: Name -> the versions that will be served of it; of those models alone whose configuration is
                another than before.
            labels_may_wait: Whether a label may also wait for a version that is not brought.

        Raises:
            LabelRefused: a label would point to a version that is neither available nor brought.
        """
        with self._lock:
            routes = {
                config.name: self._configured(
                    config, before.get(config.name), brought[config.name], may_wait=labels_may_wait
                )
                if config.name in brought
                else self.of(config.name)
                for config in configs
            }
            # What a repository's models were given by an operator stays; a model that was configured is gone.
            kept = {name: each for name, each in self._routes.items() if name not in before}
            ended = [(name, step) for name, each in routes.items() if not each.steps for step in self.of(name).steps]
            self._routes = kept | routes
        for name, step in ended:
            _log.warning(
                "model %s: the rollback from version %d to %d ends: the configuration says otherwise now",
                name,
                step.from_version,
                step.to_version,
            )

    def set_label(self, name: str, label: str, version: int | None) -> int:
        """Moves a label; None takes it away. Returns where it pointed before; 0 for nowhere.

        Raises:
            InvalidInput: no label, one that can't be, or too many.
            LabelRefused: the version is not available.
        """
        if version is not None:
            check_label(name, label)
        with self._lock:
            routes = self.of(name)
            now = routes.labels.get(label)
            if now is None and len(routes.labels) >= MAX_ENTRIES:
                raise InvalidInput(f"model {name} has {MAX_ENTRIES} labels already; no more are kept")
            labels = {other: entry for other, entry in routes.labels.items() if other != label}
            if version is not None:
                labels[label] = self._moved(name, label, version, frozenset())
            # To take back a rollback of this label would now undo what is said here.
            steps = routes.steps if all(label not in step.labels for step in routes.steps) else ()
            self._routes = {**self._routes, name: replace(routes, labels=labels, steps=steps)}
        return 0 if now is None or now.version is None else now.version

    def set_traffic(self, name: str, traffic: Mapping[int, float]) -> Move:
        """Splits the requests that name neither version nor label; empty: the highest version answers them.

        Raises:
            ConfigRefused: a weight is out of its bounds.
            PreconditionFailed: a version that has a weight is not available.
        """
        check_traffic(name, traffic)
        with self._lock:
            routes, available = self.of(name), self._manager.available(name)
            absent = sorted(version for version, weight in traffic.items() if weight > 0 and version not in available)
            if absent:
                raise PreconditionFailed(
                    f"Request to send traffic to version {absent[0]} of model {name}, which is not currently available "
                    f"for inference"
                )
            after = replace(routes, traffic=dict(traffic), hold=None, steps=())
            self._routes = {**self._routes, name: after}
        return Move(label="", before=shares(routes, available), after=shares(after, available))

    def rollback(self, name: str, label: str = "", *, undo: bool = False) -> Rollback:
        """Goes a step back, or takes the latest back; see `Control.rollback`.

        Raises:
            InvalidInput: the model has no such label.
            PreconditionFailed: no earlier version is available; or there is nothing to take back.
        """
        with self._lock:
            available = self._manager.available(name)
            before = self.of(name)
            routes = now = settled(before, available)
            if undo:
                done, routes = taken_back(name, routes, available)
            else:
                coming = (*self._manager.coming(name), *self._manager.aspired(name))
                done, routes = rolled_back(name, label, routes, available, coming)
            self._routes = {**self._routes, name: routes}
        _tell_of_end(name, before, now, available)
        return done

    def follow(self) -> None:
        """Has labels and defaults follow the versions that are available now, and warns of labels that lead nowhere.

        Not of labels of a model that is being unloaded as a whole, nor where the version is on its way.
        """
        ended: list[tuple[str, Routes, Routes, Sequence[int]]] = []
        with self._lock:
            routes = dict(self._routes)
            silent: set[tuple[str, str, int]] = set()
            for name, before in self._routes.items():
                if before.labels or before.hold is not None:
                    available = self._manager.available(name)
                    after = routes[name] = settled(before, available)
                    ended.append((name, before, after, available))
                    silent |= {(name, label, to) for label, to in after.points().items() if to not in available}
            silent -= {each for each in silent if not self._manager.lacks(each[0], each[2])}
            self._routes = routes
            news, self._silent = silent - self._silent, frozenset(silent)
        for each in ended:
            _tell_of_end(*each)
        for name, label, version in sorted(news):
            _log.warning("label %s of model %s points to version %d, which does not answer", label, name, version)

    def warn_of_waiting_labels(self) -> None:
        """Warns once of each label that waits for a version which is not on its way. After the disk was looked at."""
        with self._lock:
            waiting = {
                (name, label, version)
                for name, routes in self._routes.items()
                for label, version in routes.waits().items()
                if self._manager.lacks(name, version)
            }
            news, self._waiting = waiting - self._waiting, frozenset(waiting)
        for name, label, version in sorted(news):
            _log.warning("label %s of model %s waits for version %d, which does not answer", label, name, version)

    def forget(self, is_known: Callable[[str], bool]) -> None:
        """Drops the routes of models of which nothing is known any more."""
        with self._lock:
            if not all(map(is_known, self._routes)):
                self._routes = {name: routes for name, routes in self._routes.items() if is_known(name)}

    def _acquire_label(self, name: str, label: str) -> ServableHandle[S]:
        refused: ServerError | None = None
        for _ in range(_TRIES):
            entry = self.of(name).labels.get(label)
            if entry is None:
                raise InvalidInput(f"Unrecognized servable version label: {label}")
            # One that waits is tried first: the version before it may be unloaded as soon as it is available.
            for version in (entry.pending, entry.version):
                if version is not None:
                    try:
                        return self._manager.acquire(name, version)
                    except (ModelNotFound, NotReady) as error:
                        refused = error
        if isinstance(refused, NotReady):
            raise refused
        raise ModelNotFound(f"Unrecognized servable version label: {label}; {refused}") from refused

    def _configured(
        self, config: ModelConfig, before: ModelConfig | None, brought: frozenset[int], *, may_wait: bool
    ) -> Routes:
        now = self.of(config.name)
        known = before is not None and before.base_path == config.base_path
        same_labels = known and before is not None and before.labels == config.labels
        same_traffic = known and before is not None and before.traffic == config.traffic
        labels = now.labels
        if not same_labels:
            labels = {
                label: self._moved(config.name, label, version, brought, may_wait=may_wait)
                for label, version in config.labels.items()
            }
        return Routes(
            labels=labels,
            traffic=now.traffic if same_traffic else dict(config.traffic),
            hold=now.hold if same_traffic else None,
            shadow=config.shadow,
            steps=now.steps if same_labels and same_traffic else (),
        )

    def _moved(self, name: str, label: str, version: int, brought: frozenset[int], *, may_wait: bool = False) -> Label:
        now = self.of(name).labels.get(label)
        if version in self._manager.available(name) or (now is not None and now.version == version):
            return (now or Label()).moved(version)
        if version in brought or may_wait or (now is None and self._allow_unavailable):
            return replace(now or Label(), pending=version)
        raise LabelRefused(
            f"Request to assign label to version {version} of model {name}, which is not currently available for "
            f"inference"
        )


def _tell_of_end(name: str, before: Routes, after: Routes, available: Sequence[int]) -> None:
    if before.hold is not None and after.hold is None:
        _log.warning(
            "model %s: the rollback to version %d ends: version %d is newer than all there were",
            name,
            before.hold.version,
            available[-1],
        )


def _first_routes(config: ModelConfig) -> Routes:
    labels = {label: Label(pending=version) for label, version in config.labels.items()}
    return Routes(labels=labels, traffic=dict(config.traffic), shadow=config.shadow)
