"""Which versions should be served: what stands on disk, once it has been written to its end."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fallback_server.core.aspired import AspiredVersion, Fingerprint
from fallback_server.core.model_config import MAX_MODELS, ModelConfig, PolicyKind, VersionPolicy
from fallback_server.core.printable import printable
from fallback_server.core.scan import (
    Entry,
    Tree,
    read_archive,
    read_folders,
    read_lack,
    read_restores,
    read_tree,
    read_versions,
)
from fallback_server.core.servable import ServableId

_log = logging.getLogger(__name__)

_LISTED = 10
"""Versions in a message."""

_WARNING_CHARS = 10_000
"""Paths have up to 4096 bytes each."""


class Packed(Protocol):
    """Knows where archives are unpacked; see `Unpacker`."""

    def tidy(self, in_use: Collection[ServableId], withdrawn: Mapping[ServableId, Path]) -> None:
        """Deletes what was unpacked and is needed no more."""

    def restore(self, versions: Mapping[ServableId, AspiredVersion]) -> None:
        """Has what was unpacked unpacked again where its folder is gone. Returns at once."""

    def is_withdrawn(self, folder: Path) -> bool:
        """Whether a folder is but what came out of an archive beside it, and that is gone."""
        ...

    def folder(self, model: str, archive: Path, version: int) -> Path:
        """Where an archive's version will stand."""
        ...

    def origin(self, folder: Path) -> tuple[Fingerprint, str] | None:
        """The fingerprint of the archive that a folder was unpacked from, and the digest of the tree that it gave."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSnapshot:
    """One poll's result.

    Attributes:
        aspired: The complete set of what should be served: what is missing in it should be unloaded.
        unsettled: What stands on disk but may still be being written.
        incomplete: What of that rests, and what it lacks; or what keeps it from being read.
        lacks: Model -> why nothing of it, or nothing but what was found before, is aspired.
        generation: How often the configuration had been set when this poll began.
    """

    aspired: Mapping[ServableId, AspiredVersion]
    unsettled: frozenset[ServableId]
    incomplete: Mapping[ServableId, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0


class FileSystemSource:
    """Reads configured base paths, and a repository whose children are base paths. One thread polls.

    A version is taken once it is complete (where its graph reads variables, those too), and its tree has been the same
    at two polls or has not changed for `settle_s` by its own times, so that what stood there before the start is taken
    at the first poll. Of those that can be taken the model's version policy chooses: a new version that is still being
    copied displaces none.

    What can't be read (a share that is not mounted) unloads nothing: its versions stay as last stated. A model whose
    folder vanished from a repository that can be read is gone, and so are its versions. A version with anything in it
    that can't be read, or is neither file nor folder, is not taken; a warning and the snapshot say what is in the way.

    An archive is its version: with it goes what was unpacked from it, unless somebody has changed that since; and what
    was unpacked comes again where that alone is gone.

    Args:
        configs: The models. Each has a name of its own.
        repository: Its folders are base paths, and their names the models'. A configured name wins.
        repository_policy: Which versions of the repository's models are served.
        settle_s: How long a tree must be unchanged to be taken at first sight.
        wall_clock: Seconds since the epoch: file times are told in no other clock.
        packed: Where archives are unpacked; None passes archives over.
    """

    def __init__(
        self,
        *,
        configs: Sequence[ModelConfig] = (),
        repository: Path | None = None,
        repository_policy: VersionPolicy | None = None,
        settle_s: float = 1.0,
        wall_clock: Callable[[], float] = time.time,
        packed: Packed | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._configs = {config.name: config for config in configs}
        self._generation = 0
        self._repository = repository
        self._repository_policy = repository_policy or VersionPolicy(kind=PolicyKind.ALL)
        self._settle_s = settle_s
        self._wall_clock = wall_clock
        self._packed = packed
        self._repository_models: dict[str, Path] = {}
        self._last: dict[str, dict[int, AspiredVersion]] = {}
        self._seen: dict[Path, Fingerprint] = {}
        self._graphs: dict[Path, tuple[Fingerprint, bool]] = {}
        self._look = _Look({}, {})

    def set_configs(self, configs: Sequence[ModelConfig]) -> int:
        """The complete set of configured models, from the next poll on. Any thread.

        Returns:
            The generation that a poll's snapshot has when it knows of this.
        """
        with self._lock:
            self._configs = {config.name: config for config in configs}
            self._generation += 1
            return self._generation

    def selected(self, config: ModelConfig) -> frozenset[int]:
        """The versions that a configuration would serve of what stands on disk, complete or not. Any thread."""
        try:
            return config.version_policy.select(read_versions(config.base_path))
        except OSError:
            return frozenset()

    def poll(self) -> SourceSnapshot:
        """Looks once. Never raises for what it finds on disk."""
        with self._lock:
            configs, generation = self._configs, self._generation
        last, self._last = self._last, {}
        self._look = look = _Look(self._look.told, self._look.unreadable)
        aspired: dict[ServableId, AspiredVersion] = {}
        for name, config in (self._repository_configs() | configs).items():
            kept = self._poll_model(config, last.get(name, {}))
            self._last[name] = kept
            aspired.update({ServableId(name, number): version for number, version in kept.items()})
        self._seen, self._graphs = look.seen, look.graphs
        return SourceSnapshot(
            aspired=aspired,
            unsettled=frozenset(look.unsettled),
            incomplete=look.incomplete,
            lacks=look.lacks,
            generation=generation,
        )

    def tidy(self, in_use: Collection[ServableId]) -> None:
        """Deletes what was unpacked from archives that are gone, and has that again which is gone itself.

        In the thread that polls, after a poll was acted upon.

        Args:
            in_use: What is wanted, or loaded, or being loaded or unloaded.
        """
        if self._packed is None:
            return
        self._packed.tidy(in_use, self._look.withdrawn)
        stated = {
            ServableId(name, number): version
            for name, versions in self._last.items()
            for number, version in versions.items()
            if version.archive is not None
        }
        self._packed.restore(stated)

    def _repository_configs(self) -> dict[str, ModelConfig]:
        if self._repository is None:
            return {}
        try:
            folders = read_folders(self._repository, pass_over=self._pass_over)
            found = sorted((entry.name, Path(entry.path)) for entry in folders)
        except OSError as error:
            self._look.tell("", f"model repository {self._repository} can't be read, nothing changes: {error}")
        else:
            self._look.tell("", "" if found else f"model repository {self._repository} holds no models")
            if len(found) > MAX_MODELS:
                first = found[MAX_MODELS][1]
                self._look.tell(
                    "", f"{first} and what follows it by name is passed over: at most {MAX_MODELS} models are served"
                )
            self._repository_models = dict(found[:MAX_MODELS])
        return {
            name: ModelConfig(name=name, base_path=path, version_policy=self._repository_policy)
            for name, path in self._repository_models.items()
        }

    def _pass_over(self, path: Path, why: str) -> None:
        self._look.tell(f"model {path}", f"{path} is passed over as a model: {why}")

    def _poll_model(self, config: ModelConfig, last: dict[int, AspiredVersion]) -> dict[int, AspiredVersion]:
        name, policy = config.name, config.version_policy
        try:
            found = read_versions(config.base_path)
        except OSError as error:
            self._look.tell(name, f"base path of {name} can't be read, nothing of it is unloaded: {error}")
            self._look.lacks[name] = f"base path {config.base_path} can't be read: {error.strerror or error}"
            return last
        self._tell_of(config, found)
        found = {number: entry for number, entry in found.items() if not self._is_withdrawn(config, number, entry)}
        kept: dict[int, AspiredVersion] = {}
        for number in sorted(found, reverse=True):
            if policy.kind is PolicyKind.SPECIFIC and number not in policy.versions:
                continue
            if policy.kind is PolicyKind.LATEST and len(kept) == policy.num_versions:
                break
            servable_id = ServableId(name, number)
            # Being rewritten under its name: it stays what it was until the writing ends.
            taken, before = self._take(servable_id, found[number]), last.get(number)
            if taken is not None or before is not None:
                kept[number] = taken or last[number]
            elsewhere = before is None or before.place.parent != config.base_path
            if taken is None and elsewhere and (found[number].folder is not None or self._packed is not None):
                self._look.unsettled.add(servable_id)
        selected = policy.select(kept)
        if not selected:
            self._look.lacks[name] = self._why_none(config, found)
        return {number: kept[number] for number in selected}

    def _why_none(self, config: ModelConfig, found: Mapping[int, Entry]) -> str:
        place, policy = config.base_path, config.version_policy
        if not found:
            return f"no version in {place}: a version is a folder or an archive that is named by its number"
        if not policy.select(found):
            return f"no version in {place} is one of {policy}; there is {_listed(found)}"
        return f"version {_listed(policy.select(found))} in {place} is not complete, or may still be being written"

    def _is_withdrawn(self, config: ModelConfig, number: int, entry: Entry) -> bool:
        if self._packed is None or entry.folder is None or entry.archive is not None:
            return False
        withdrawn = self._packed.is_withdrawn(entry.folder)
        if withdrawn:
            servable_id = ServableId(config.name, number)
            self._look.withdrawn[servable_id] = entry.folder
            self._look.tell(
                str(entry.folder),
                f"{servable_id} is wanted no more: the archive that {entry.folder} was unpacked from is gone",
            )
        return withdrawn

    def _tell_of(self, config: ModelConfig, found: Mapping[int, Entry]) -> None:
        name, policy = config.name, config.version_policy
        hint = f"no versions of {name} under {config.base_path}: a version is a folder whose name is a number"
        self._look.tell(name, "" if found else hint)
        if found and policy.kind is PolicyKind.SPECIFIC:
            absent = sorted(set(policy.versions) - set(found))
            self._look.tell(
                f"{name} specific",
                f"{name} is to be served in {policy}, and {config.base_path} has no {absent}" if absent else "",
            )
        for number, entry in found.items():
            for other in entry.others:
                self._look.tell(
                    str(other), f"{other} is passed over: version {number} of {name} is {entry.folder or entry.archive}"
                )

    def _take(self, servable_id: ServableId, entry: Entry) -> AspiredVersion | None:
        """The version as it should be served; None while it may still be being written."""
        try:
            if entry.folder is not None:
                return self._take_folder(servable_id, entry.folder, entry.archive)
            if entry.archive is not None and self._packed is not None:
                return self._take_archive(servable_id, entry.archive, self._packed)
        except OSError as error:
            # Something vanished or moved while it was read: the next poll sees it whole. If not, it must be told.
            self._look.tell_again(servable_id, str(error), entry.folder or entry.archive)
        return None

    def _take_archive(self, servable_id: ServableId, archive: Path, packed: Packed) -> AspiredVersion | None:
        fingerprint, newest_s = read_archive(archive)
        if not self._rests(archive, fingerprint, newest_s):
            return None
        folder = packed.folder(servable_id.name, archive, servable_id.version)
        return AspiredVersion(path=folder, fingerprint=fingerprint, archive=archive)

    def _take_folder(self, servable_id: ServableId, folder: Path, archive: Path | None) -> AspiredVersion | None:
        tree = read_tree(folder)
        origin = None if self._packed is None else self._packed.origin(folder)
        if origin is not None and origin[1] == tree.digest:
            # It was moved here whole. The archive stands for it, so that a newer one is seen as a change.
            fingerprint = origin[0]
            if archive is not None:
                found, newest_s = read_archive(archive)
                if self._rests(archive, found, newest_s):
                    fingerprint = found
                elif found != fingerprint:
                    # It may still be being written: what can be taken is what came out of the one before.
                    archive = None
            return AspiredVersion(path=folder, fingerprint=fingerprint, archive=archive)
        if archive is not None and self._packed is not None:
            self._look.tell(str(archive), f"{archive} is not unpacked: {folder} is there, and not from it")
        if not self._rests(folder, tree.fingerprint, tree.newest_s):
            return None
        if lack := self._lack(folder, tree):
            self._look.incomplete[servable_id] = printable(lack)
            self._look.tell(str(folder), f"{servable_id} at {folder} is not loaded while it is incomplete: {lack}")
            return None
        return AspiredVersion(path=folder, fingerprint=tree.fingerprint)

    def _rests(self, path: Path, fingerprint: Fingerprint, newest_s: float) -> bool:
        self._look.seen[path] = fingerprint
        return self._seen.get(path) == fingerprint or newest_s < self._wall_clock() - self._settle_s

    def _lack(self, folder: Path, tree: Tree) -> str | None:
        return read_lack(folder, tree, reads_variables=functools.partial(self._reads_variables, tree.fingerprint))

    def _reads_variables(self, fingerprint: Fingerprint, folder: Path) -> bool:
        """Whether the graph does. It is read through once, not at every poll."""
        known = self._graphs.get(folder)
        if known is None or known[0] != fingerprint:
            known = (fingerprint, read_restores(folder))
        self._look.graphs[folder] = known
        return known[1]


def _listed(versions: Collection[int]) -> str:
    """The highest of them."""
    highest = sorted(versions, reverse=True)[:_LISTED]
    return ", ".join(map(str, sorted(highest))) + (" and more" if len(versions) > _LISTED else "")


class _Look:
    """What one poll sees and tells; the poll before it is known by what it told."""

    def __init__(self, told_before: Mapping[str, str], unreadable_before: Mapping[ServableId, str]) -> None:
        self.seen: dict[Path, Fingerprint] = {}
        self.graphs: dict[Path, tuple[Fingerprint, bool]] = {}
        self.unsettled: set[ServableId] = set()
        self.incomplete: dict[ServableId, str] = {}
        self.withdrawn: dict[ServableId, Path] = {}
        self.told: dict[str, str] = {}
        self.unreadable: dict[ServableId, str] = {}
        self.lacks: dict[str, str] = {}
        self._told_before = told_before
        self._unreadable_before = unreadable_before

    def tell(self, topic: str, warning: str) -> None:
        """Logs a warning when it is new, not at every poll."""
        if not warning:
            return
        self.told[topic] = warning = printable(warning, max_chars=_WARNING_CHARS)
        if self._told_before.get(topic) != warning:
            _log.warning("%s", warning)

    def tell_again(self, servable_id: ServableId, why: str, path: Path | None) -> None:
        """Tells what keeps a version from being read once it has done so twice."""
        self.unreadable[servable_id] = why
        if self._unreadable_before.get(servable_id) == why:
            self.incomplete[servable_id] = printable(why)
            self.tell(str(path), f"{servable_id} at {path} can't be read, and nothing new of it is taken: {why}")
