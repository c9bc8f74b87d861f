"""A folder of packages: `NAME/VERSION/`, and for each model the labels that point to versions. See `docs/store.md`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from converter.artifact import (
    ManifestInvalid,
    Package,
    PackageError,
    check_name,
    installed,
    version_path,
)
from edge_runtime.errors import InvalidConfig, PackageRefused
from edge_runtime.store import files
from edge_runtime.store import labels as labelling
from edge_runtime.store import trust as trusting
from edge_runtime.store.settling import settle

_MAX_WARNINGS = 1_000
"""Paths that are remembered as told."""

_log = logging.getLogger(__name__)


class Store:
    """Reads a store. Whoever installs into it moves whole versions into place, so that none is seen half.

    Every method may be called from any thread and from several processes at once.
    """

    def __init__(self, path: str | os.PathLike[str], *, require_signature: bool = False) -> None:
        """Takes the folder.

        Args:
            path: The folder.
            require_signature: Whether packages need a signature by a key that is trusted, whatever the store says.

        Raises:
            InvalidConfig: there is none.
        """
        self.path = Path(path)
        self.require_signature = require_signature
        self._passed_over: set[Path] = set()
        with files.named("store", self.path):
            if not self.path.is_dir():
                said = "not a directory" if self.path.exists() else "no such directory"
                raise InvalidConfig(f"store {self.path}: {said}")

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def installed(self) -> dict[str, list[int]]:
        """The versions by model, ascending. Reads directory names only.

        A model or version that can't be looked at is passed over, and the log says so once.

        Raises:
            InvalidConfig: the folder itself can't be read.
        """
        with files.named("store", self.path):
            return installed(self.path, passed_over=self._warn_once)

    def labels(self, model: str) -> dict[str, int]:
        """The model's labels; empty where none were given.

        Raises:
            InvalidConfig: the name can't be a model's, or the file can't be read as `{"label": version}`.
        """
        return labelling.read(self.folder(model))

    def label(self, model: str, label: str, version: int, *, verify: bool = False) -> int | None:
        """Points a label to an installed version; which one it pointed to before.

        By one rename: a reader sees the old labels or the new ones. Whoever sets another label of the model at the same
        time waits, so that neither is lost.

        Args:
            model: Whose.
            label: Which.
            version: Where to.
            verify: Open it first, every digest verified.

        Raises:
            InvalidConfig: the version is not installed, the label is not 1 to 128 printable characters, or the labels
                can't be read or written.
            PackageRefused: as `open`, where it is verified.
        """
        labelling.check_label(label)
        self._look_for(model, version)
        if verify:
            self.open(model, version)
        with self._changing(model) as folder:
            return labelling.point(folder, label, version, self.versions(model))

    def roll_back(self, model: str, label: str = labelling.STABLE, *, verify: bool = False) -> tuple[int, int]:
        """Points a label to where it pointed before, as often as that is known; from where, and to where.

        Args:
            model: Whose.
            label: Which.
            verify: As for `label`.

        Raises:
            InvalidConfig: the label is not set, nothing is known of before, that version is not installed any more, or
                the labels can't be read or written.
            PackageRefused: as `open`, where it is verified.
        """
        self._look_for(model)

        def check(version: int) -> None:
            if verify:
                self.open(model, version)

        with self._changing(model) as folder:
            return labelling.roll_back(folder, label, self.versions(model), check=check)

    def versions(self, model: str) -> list[int]:
        """The model's versions, ascending."""
        return self.installed().get(model, [])

    def open(self, model: str, version: int) -> Package:
        """The package, every digest verified, and its signature where one is demanded.

        Raises:
            InvalidConfig: the name or the version can't be a model's, or whom the store trusts can't be read.
            PackageRefused: it is damaged, can't be read, is not what its place says, or no key that is trusted vouches
                for it where one has to; the cause is the package error.
        """
        try:
            path = version_path(self.path, model, version)
        except ManifestInvalid as error:
            raise InvalidConfig(str(error)) from error
        try:
            package = Package.open(path)
            self.trust().check(package)
        except PackageError as error:
            raise PackageRefused(f"{model}/{version}: {error}") from error
        except OSError as error:
            raise PackageRefused(f"{model}/{version}: {path} can't be read: {error.strerror or error}") from error
        found = package.manifest
        if (found.model, found.version) != (model, version):
            raise PackageRefused(f"{path} holds {found.model}/{found.version}, not {model}/{version}")
        return package

    def trust(self) -> trusting.Trust:
        """Whose packages are taken now.

        Raises:
            InvalidConfig: what the store says of it can't be read.
        """
        return trusting.read(self.path, demanded=self.require_signature)

    def folder(self, model: str) -> Path:
        """Where a model's versions and labels lie; a name that would lead elsewhere is refused.

        Raises:
            InvalidConfig: the name can't be a model's.
        """
        try:
            return self.path / check_name(model)
        except ManifestInvalid as error:
            raise InvalidConfig(str(error)) from error

    def _look_for(self, model: str, version: int | None = None) -> None:
        """Refuses what is not installed, before anything is locked or put in order."""
        self.folder(model)
        versions = self.versions(model)
        if version not in versions if version is not None else not versions:
            wanted = model if version is None else f"{model}/{version}"
            raise InvalidConfig(f"{self.path}: {wanted} is not installed; there are {versions or 'none'}")

    @contextlib.contextmanager
    def _changing(self, model: str) -> Iterator[Path]:
        """Holds the lock on the model's folder, which is in order; what was changed is on the disk afterwards."""
        folder = self.folder(model)
        with files.named("labels", folder / labelling.LABELS, missing=True), files.locked(folder) as descriptor:
            settle(folder)
            yield folder
            os.fsync(descriptor)

    def _warn_once(self, path: Path, error: OSError) -> None:
        if path not in self._passed_over and len(self._passed_over) < _MAX_WARNINGS:
            self._passed_over.add(path)
            _log.warning("%s can't be looked at and is passed over: %s", path, error.strerror or error)
