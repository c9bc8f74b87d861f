"""What an operator, and the transports, may ask of the set of models: who gets which version, and what is served."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import InvalidInput, ModelNotFound, PreconditionFailed
from fallback_server.core.handle import ServableHandle
from fallback_server.core.manager import Manager
from fallback_server.core.model_config import ModelConfig, Shadow, check_configs
from fallback_server.core.rollback import Move, Rollback
from fallback_server.core.router import Router
from fallback_server.core.routes import Hold, heaviest
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.source import FileSystemSource, SourceSnapshot
from fallback_server.core.target import ModelTarget
from fallback_server.core.watchers import Watchers
from fallback_server.served_model import ServedModel

__all__ = ["Control", "ModelView", "Rollback", "VersionView"]

_log = logging.getLogger(__name__)

_PATIENCE_POLLS = 3
"""How many polls a configuration is given for versions that may still be being written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionView:
    """A version as it stands.

    Attributes:
        state: Its state.
        servable: What is loaded, for its figures, in AVAILABLE alone. It is not held, and may be closed at any time.
    """

    state: ServableState
    servable: ServedModel | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """A model as it stands.

    Attributes:
        name: What requests call it.
        versions: All that are known, the highest first.
        labels: Label -> version.
        default_version: What answers requests that name none; 0 where none does; the heaviest where they are split.
        traffic: Version -> weight, where they are split; empty while a rollback holds.
        hold: The rollback that holds; None for none.
        shadow: What runs requests beside the version that answers; None for none.
    """

    name: str
    versions: tuple[VersionView, ...]
    labels: Mapping[str, int]
    default_version: int
    traffic: Mapping[int, float]
    hold: Hold | None = None
    shadow: Shadow | None = None


class Control:
    """Stands between the source and the manager, and between requests and the versions. Thread-safe.

    The poller looks through it (`poll`, `set_aspired`, `wait_idle`), so that a model can be taken out of service.

    Args:
        manager: Keeps the versions loaded.
        source: Is told the configuration.
        configs: The models at the start; their labels are moved when their versions are available.
        repository: The source's, where there is one.
        clock: Monotonic seconds.
        allow_labels_for_unavailable: Whether a label that is not in use yet may point to a version that is not
            available yet.
        read_configs: Reads the configuration again; None where it is in no file.
        draw: Random numbers in [0, 1).

    Attributes:
        wake: Called when there is a reason to look at the disk at once; set by whoever made the poller.

    Raises:
        ConfigRefused: the configs are no set.
    """

    def __init__(
        self,
        *,
        manager: Manager[ServedModel],
        source: FileSystemSource,
        configs: Sequence[ModelConfig] = (),
        repository: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        allow_labels_for_unavailable: bool = False,
        read_configs: Callable[[], Sequence[ModelConfig]] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        check_configs(configs)
        self.wake: Callable[[], None] = lambda: None
        self._manager = manager
        self._source = source
        self._repository = repository
        self._clock = clock
        self._read_configs = read_configs
        self._router = Router(manager, configs, allow_unavailable=allow_labels_for_unavailable, draw=draw)
        self._watchers = Watchers()
        self._configuring = threading.Lock()
        self._aspiring = threading.Lock()
        self._changed = threading.Condition()
        self._configs = {config.name: config for config in configs}
        self._withheld: frozenset[str] = frozenset()
        self._snapshot = SourceSnapshot(aspired={}, unsettled=frozenset(), generation=-1)
        self._aspired: Mapping[ServableId, AspiredVersion] = {}
        self._polls = 0
        self._generation = source.set_configs(tuple(configs))
        manager.watch(self._on_change)

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means; see `Router.acquire`."""
        return self._router.acquire(target, client_key)

    def shadow(self, name: str, answered: int) -> ServableHandle[ServedModel] | None:
        """Holds a second version that a request also runs on; see `Router.shadow`."""
        return self._router.shadow(name, answered)

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """The states of a model's versions, the highest first; of one alone, when the target names it.

        Raises:
            InvalidInput: no name, or an unknown label.
            ModelNotFound: nothing is known of the model, or of the version.
        """
        if not target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        version = target.version
        if target.label is not None:
            version = self._router.version_of(target.name, target.label)
        states = self._states(target.name)
        if version == 0 and all(state.servable_id.version for state in states):
            version = None  # As in `Router.acquire`.
        if version is not None:
            states = tuple(state for state in states if state.servable_id.version == version)
            if not states:
                raise ModelNotFound(f"Could not find version {version} of model {target.name}")
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return states

    def index(self) -> tuple[ServableState, ...]:
        """Every model's every version, in the names' order, the highest version first."""
        return tuple(state for name in self._names() for state in self._states(name))

    def catalog(self) -> tuple[ModelView, ...]:
        """Every model, in the names' order."""
        return tuple(self._view(name) for name in self._names())

    def configs(self) -> tuple[ModelConfig, ...]:
        """What is configured now."""
        return tuple(self._configs.values())

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Has a callback called after any change of versions, labels, traffic or defaults; the result ends that.

        It is called in any thread, and must not block.
        """
        return self._watchers.add(on_change)

    def _names(self) -> list[str]:
        incomplete = {servable_id.name for servable_id in self._snapshot.incomplete}
        return sorted({*self._manager.names(), *self._configs, *incomplete})

    def _states(self, name: str) -> tuple[ServableState, ...]:
        known = {state.servable_id.version: state for state in self._manager.states(name)}
        for servable_id, lack in self._snapshot.incomplete.items():
            if servable_id.name == name:
                waiting = ServableState(servable_id=servable_id, state=State.START, error=lack)
                known.setdefault(servable_id.version, waiting)
        return tuple(known[version] for version in sorted(known, reverse=True))

    def _view(self, name: str) -> ModelView:
        routes = self._router.of(name)
        loaded = self._manager.peek(name)
        versions = tuple(
            VersionView(state=state, servable=loaded.get(state.servable_id.version)) for state in self._states(name)
        )
        return ModelView(
            name=name,
            versions=versions,
            labels=routes.points(),
            default_version=heaviest(routes, sorted(loaded)),
            traffic=dict(routes.traffic) if routes.hold is None else {},
            hold=routes.hold,
            shadow=routes.shadow,
        )

    def configure(self, configs: Sequence[ModelConfig]) -> None:
        """Replaces the complete set of models, or changes nothing. Looks at the disk for labels, and waits for no load.

        What an operator has done to labels, splits and defaults stays, but for what is configured otherwise than
        before; see `Router.configure`. A label for a version that this configuration brings is moved as soon as that
        is available.

        Raises:
            ConfigRefused: see `check_configs`.
            LabelRefused: a label would point to a version that is not available, and that is not brought.
        """
        check_configs(configs)
        with self._configuring:
            brought = {
                config.name: self._source.selected(config) if config.labels else frozenset()
                for config in configs
                if config != self._configs.get(config.name)
            }
            self._router.configure(configs, before=self._configs, brought=brought)
            with self._changed:
                self._configs = {config.name: config for config in configs}
                self._generation = self._source.set_configs(tuple(configs))
                self._polls = 0
        self.wake()
        self._on_change()

    def reload(self) -> tuple[str, ...]:
        """Reads the configuration again and applies it.

        Returns:
            The models' names.

        Raises:
            PreconditionFailed: it is in no file.
            ConfigRefused, LabelRefused: see `configure`; what was, stays.
        """
        if self._read_configs is not None:
            self.configure(self._read_configs())
        elif self._repository is not None:
            self.wake()
        else:
            raise PreconditionFailed("there is no configuration file to read again")
        return tuple(self._names())

    def wait_configured(self, *, timeout_s: float) -> bool:
        """Waits until the configuration was looked for on disk, and all that it brings is loaded or has failed."""
        end_s = self._clock() + timeout_s
        with self._changed:
            if not self._changed.wait_for(self._is_looked_for, timeout_s):
                return False
        return self._manager.wait_idle(timeout_s=max(0.0, end_s - self._clock()))

    def _is_looked_for(self) -> bool:
        writing = self._snapshot.unsettled - self._snapshot.incomplete.keys()
        return self._polls > 0 and (not writing or self._polls >= _PATIENCE_POLLS)

    def set_label(self, name: str, label: str, version: int | None) -> int:
        """Moves a label; None takes it away.

        Returns:
            Where it pointed before; 0 for nowhere.

        Raises:
            InvalidInput: no label, or too many.
            ModelNotFound: nothing is known of the model.
            LabelRefused: the version is not available.
        """
        self._check_known(name)
        previous = self._router.set_label(name, label, version)
        _log.info("label %s of model %s: %s", label, name, "taken away" if version is None else f"version {version}")
        self._on_change()
        return previous

    def set_traffic(self, name: str, traffic: Mapping[int, float]) -> Move:
        """Splits the requests that name neither version nor label, and ends a rollback of them.

        It holds until it is set again, the configuration says otherwise than now, or the server ends.

        Args:
            name: The model.
            traffic: Version -> weight; empty: the highest version that is available answers.

        Returns:
            Who answered before, and who answers now.

        Raises:
            ConfigRefused: a weight is out of its bounds.
            ModelNotFound: nothing is known of the model.
            PreconditionFailed: a version that has a weight is not available.
        """
        self._check_known(name)
        move = self._router.set_traffic(name, traffic)
        _log.info("model %s: requests that name no version: %s", name, move.after)
        self._on_change()
        return move

    def rollback(self, name: str, label: str = "", *, undo: bool = False) -> Rollback:
        """Has an earlier version answer that is still available, at once.

        Without a label, requests that name neither version nor label, whether they are split or not, and the label
        `stable`, where the model has it, all go back to one version: where `stable` points or pointed before, else the
        next lower one that answers or is available. It holds until it is taken back, labels or traffic are set by an
        operator or configured otherwise than now, or the server ends; and where the traffic was not split, until a
        version becomes available that is higher than all there are.

        Args:
            name: The model.
            label: The label that goes back alone: to where it pointed before, else to the next lower version.
            undo: Takes the latest rollback back instead.

        Raises:
            InvalidInput: the model has no such label.
            ModelNotFound: nothing is known of the model.
            PreconditionFailed: no earlier version is available; or there is nothing that could be taken back.
        """
        self._check_known(name)
        done = self._router.rollback(name, label, undo=undo)
        how = "the rollback was taken back" if undo else f"label {label} was rolled back" if label else "rolled back"
        _log.warning("model %s: %s: version %d -> %d", name, how, done.from_version, done.to_version)
        self._on_change()
        return done

    def unload(self, name: str) -> None:
        """Takes a model out of service, until `load` or the server's end.

        Raises:
            ModelNotFound: nothing is known of it.
        """
        self._check_known(name)
        self._withhold(name, withheld=True)

    def load(self, name: str) -> None:
        """Takes a model back into service, and tries its failed loads again at once.

        Raises:
            ModelNotFound: nothing is known of it.
        """
        self._check_known(name)
        self._withhold(name, withheld=False)
        self._manager.retry(name)
        self.wake()

    def _withhold(self, name: str, *, withheld: bool) -> None:
        with self._aspiring:
            self._withheld = self._withheld | {name} if withheld else self._withheld - {name}
            self._manager.set_aspired(self._wanted())

    def _check_known(self, name: str) -> None:
        if not name:
            raise InvalidInput("ModelSpec has no name specified.")
        if not self._is_known(name):
            raise ModelNotFound(f"Could not find any versions of model {name}")

    def _is_known(self, name: str) -> bool:
        return name in self._configs or name in self._withheld or bool(self._manager.states(name))

    def poll(self) -> SourceSnapshot:
        """See `Source`."""
        snapshot = self._source.poll()
        changed = snapshot.incomplete != self._snapshot.incomplete
        self._snapshot = snapshot
        if changed:
            self._watchers.tell()
        return snapshot

    def set_aspired(self, aspired: Mapping[ServableId, AspiredVersion]) -> None:
        """See `Manager.set_aspired`; what was taken out of service is left out."""
        with self._aspiring:
            self._aspired = aspired
            names = {servable_id.name for servable_id in aspired}
            self._withheld &= names | self._configs.keys()
            self._manager.set_aspired(self._wanted())
        self._source.tidy(self._manager.live() | aspired.keys())
        with self._changed:
            if self._snapshot.generation == self._generation:
                self._polls += 1
            self._changed.notify_all()
        self._router.forget(self._is_known)

    def wait_idle(self, *, timeout_s: float) -> bool:
        """See `Manager.wait_idle`."""
        return self._manager.wait_idle(timeout_s=timeout_s)

    def _wanted(self) -> dict[ServableId, AspiredVersion]:
        return {key: version for key, version in self._aspired.items() if key.name not in self._withheld}

    def _on_change(self) -> None:
        """A version came or went, or an operator did something."""
        self._router.follow()
        self._watchers.tell()
