"""What an operator, and the transports, may ask of the set of models: who gets which version, and what is served."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fallback_server.change_log import difference, refusals_told, told
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import InvalidInput, ModelNotFound, PreconditionFailed
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.manager import Manager
from fallback_server.core.model_config import ModelConfig, check_configs
from fallback_server.core.rollback import Move, Rollback
from fallback_server.core.router import Router
from fallback_server.core.routes import heaviest
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.source import FileSystemSource, SourceSnapshot
from fallback_server.core.target import ModelTarget
from fallback_server.core.watchers import Watchers
from fallback_server.model_views import ModelView, VersionView
from fallback_server.served_model import ServedModel

__all__ = ["Control", "ModelView", "Rollback", "VersionView"]

_PATIENCE_POLLS = 3
"""How many polls a configuration is given for versions that may still be being written."""


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
        self._reloading = threading.Lock()
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
        # Files that were changed under a version's number show when it is loaded anew.
        manager.on_loss = self._look_soon

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means; see `Router.acquire`."""
        return self._router.acquire(target, client_key)

    def standing(self, target: ModelTarget) -> Standing[ServedModel] | None:
        """The version that every request of a target gets; see `Router.standing`."""
        return self._router.standing(target)

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

    def model(self, name: str) -> ModelView | None:
        """One model as it stands; None where nothing is known of it."""
        return self._view(name) if self._is_known(name) else None

    def folder(self, name: str, version: int) -> Path | None:
        """Where a version lies that should be served; None for none such."""
        found = self._aspired.get(ServableId(name, version))
        return None if found is None or name in self._withheld else found.path

    def configs(self) -> tuple[ModelConfig, ...]:
        """What is configured now."""
        return tuple(self._configs.values())

    def lack(self, name: str) -> str:
        """Why nothing, or nothing new, of a model is found on disk; empty where there is, or nobody has looked."""
        return self._snapshot.lacks.get(name, "")

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
            default_version=heaviest(routes, sorted(loaded), self._manager.coming(name)),
            traffic=dict(routes.traffic) if routes.hold is None else {},
            hold=routes.hold,
            shadow=routes.shadow,
            waiting_labels=routes.waits(),
            note=self.lack(name),
        )

    def configure(self, configs: Sequence[ModelConfig], *, who: str = "", from_file: bool = False) -> None:
        """Replaces the complete set of models, or changes nothing. Looks at the disk for labels, and waits for no load.

        What an operator has done to labels, splits and defaults stays, but for what is configured otherwise than
        before; see `Router.configure`. A label for a version that this configuration brings is moved as soon as that
        is available.

        Args:
            configs: The models.
            who: Has asked for it, for the log; empty for nobody outside.
            from_file: Whether they are this server's own, read again. As at the start labels may then point to versions
                that are neither available nor brought, and move when those are; and a repository's models are served
                as well.

        Raises:
            ConfigRefused: see `check_configs`.
            PreconditionFailed: they are not, and a repository says what is served: the set would not be complete.
            LabelRefused: a label would point to a version that is not available, and that is not brought.
        """
        with refusals_told("configuration", who), self._configuring:
            check_configs(configs)
            if self._repository is not None and not from_file:
                raise PreconditionFailed(
                    f"this server serves whatever is in --model_repository={self._repository}: it takes no other "
                    "complete set of models; put folders into that, or take them out"
                )
            brought = {
                config.name: self._source.selected(config) if config.labels else frozenset()
                for config in configs
                if config != self._configs.get(config.name)
            }
            self._router.configure(configs, before=self._configs, brought=brought, labels_may_wait=from_file)
            changes = difference(self._configs, configs)
            self._take(configs)
        told(logging.INFO, f"configuration: {changes}", who)
        self._on_change()

    def reload(self, *, who: str = "") -> tuple[str, ...]:
        """Reads the configuration again where it is in a file, applies it, and looks at the disk.

        Labels may wait in it as they may at the start, so that what a start accepts is not refused here.

        Returns:
            The models' names: those that are configured now, and those that were found before on disk.

        Raises:
            ConfigRefused: see `configure`; what was, stays.
        """
        before = self._configs.keys()
        if self._read_configs is not None:
            # What was read first must not be applied last.
            with self._reloading:
                with refusals_told("configuration", who):
                    configs = self._read_configs()
                self.configure(configs, who=who, from_file=True)
        else:
            told(logging.INFO, "the disk is looked at", who)
            with self._configuring:
                self._take(self.configs())
        found = {servable_id.name for servable_id in self._aspired}
        return tuple(sorted((found - before) | self._configs.keys()))

    def _take(self, configs: Sequence[ModelConfig]) -> None:
        with self._changed:
            self._configs = {config.name: config for config in configs}
            self._generation = self._source.set_configs(tuple(configs))
            self._polls = 0
        self.wake()

    def wanted(self) -> tuple[str, ...]:
        """The models that should be served: configured, or found, and not taken out of service."""
        with self._aspiring:
            found = {servable_id.name for servable_id in self._aspired}
            return tuple(sorted((found | self._configs.keys()) - self._withheld))

    def wait_configured(self, *, timeout_s: float) -> bool:
        """Waits until the configuration was looked for on disk: what it brings is on its way, or known to be amiss."""
        with self._changed:
            return self._changed.wait_for(self._is_looked_for, timeout_s)

    def _is_looked_for(self) -> bool:
        writing = self._snapshot.unsettled - self._snapshot.incomplete.keys()
        return self._polls > 0 and (not writing or self._polls >= _PATIENCE_POLLS)

    def set_label(self, name: str, label: str, version: int | None, *, who: str = "") -> int:
        """Moves a label; None takes it away. `who` has asked for it, for the log; likewise below.

        Returns:
            Where it pointed before; 0 for nowhere.

        Raises:
            InvalidInput: no label, one that can't be, or too many.
            ModelNotFound: nothing is known of the model.
            LabelRefused: the version is not available.
        """
        what = f"label {label} of model {name}: {'taken away' if version is None else f'version {version}'}"
        with refusals_told(what, who):
            self._check_known(name)
            previous = self._router.set_label(name, label, version)
        told(logging.INFO, f"{what}; before: {previous or 'nowhere'}", who)
        self._on_change()
        return previous

    def set_traffic(self, name: str, traffic: Mapping[int, float], *, who: str = "") -> Move:
        """Splits the requests that name neither version nor label, and ends a rollback of them.

        It holds until it is set again, the configuration says otherwise than now, or the server ends.

        Args:
            name: The model.
            traffic: Version -> weight; empty: the highest version that is available answers.
            who: Has asked for it.

        Returns:
            Who answered before, and who answers now.

        Raises:
            ConfigRefused: a weight is out of its bounds.
            ModelNotFound: nothing is known of the model.
            PreconditionFailed: a version that has a weight is not available.
        """
        what = f"model {name}: requests that name no version"
        with refusals_told(what, who):
            self._check_known(name)
            move = self._router.set_traffic(name, traffic)
        told(logging.INFO, f"{what}: {dict(move.after)}; before: {dict(move.before)}", who)
        self._on_change()
        return move

    def rollback(self, name: str, label: str = "", *, undo: bool = False, who: str = "") -> Rollback:
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
            who: Has asked for it.

        Raises:
            InvalidInput: the model has no such label.
            ModelNotFound: nothing is known of the model.
            PreconditionFailed: no earlier version is available; or there is nothing that could be taken back.
        """
        with refusals_told(f"rollback of model {name}", who):
            self._check_known(name)
            done = self._router.rollback(name, label, undo=undo)
        told(logging.WARNING, f"model {name}: {'the rollback was taken back' if undo else 'rolled back'}: {done}", who)
        self._on_change()
        return done

    def unload(self, name: str, *, who: str = "") -> None:
        """Takes a model out of service, until `load` or the server's end.

        Raises:
            ModelNotFound: nothing is known of it.
        """
        with refusals_told(f"unload of model {name}", who):
            self._check_known(name)
        told(logging.WARNING, f"model {name} is taken out of service", who)
        self._withhold(name, withheld=True)

    def load(self, name: str, *, who: str = "") -> None:
        """Takes a model back into service, and tries its failed loads again at once.

        Raises:
            ModelNotFound: nothing is known of it.
        """
        with refusals_told(f"load of model {name}", who):
            self._check_known(name)
        told(logging.INFO, f"model {name} is taken into service, and its failed loads are tried again", who)
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
        before = self._snapshot
        changed = (snapshot.incomplete, snapshot.lacks) != (before.incomplete, before.lacks)
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
            looked = self._is_looked_for()
        self._router.forget(self._is_known)
        if looked:
            self._router.warn_of_waiting_labels()

    def on_the_way(self) -> frozenset[ServableId]:
        """See `Manager.on_the_way`."""
        return self._manager.on_the_way()

    def wait_idle(self, *, timeout_s: float) -> bool:
        """See `Manager.wait_idle`."""
        return self._manager.wait_idle(timeout_s=timeout_s)

    def _wanted(self) -> dict[ServableId, AspiredVersion]:
        return {key: version for key, version in self._aspired.items() if key.name not in self._withheld}

    def _look_soon(self) -> None:
        self.wake()

    def _on_change(self) -> None:
        """A version came or went, or an operator did something."""
        self._router.follow()
        self._watchers.tell()
