"""A folder of packages: `NAME/VERSION/`, and for each model the labels that point to versions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from converter.artifact import Package, PackageError, installed, version_path
from edge_runtime.errors import InvalidConfig, PackageRefused

LABELS = "labels.json"
"""Beside a model's versions: `{"stable": 1, "canary": 2}`."""


class Store:
    """Reads a store. Whoever installs into it moves whole versions into place, so that none is seen half."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes the folder.

        Raises:
            InvalidConfig: there is none.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise InvalidConfig(f"store {self.path}: no such directory")

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def installed(self) -> dict[str, list[int]]:
        """The versions by model, ascending. Reads directory names only."""
        return installed(self.path)

    def labels(self, model: str) -> dict[str, int]:
        """The model's labels; empty where none were given.

        Raises:
            InvalidConfig: the file can't be read as `{"label": version}`.
        """
        path = self.path / model / LABELS
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise InvalidConfig(f"{path}: labels must be a JSON object of version numbers: {error}") from error

    def label(self, model: str, label: str, version: int) -> None:
        """Points a label to an installed version, by one rename: a reader sees the old labels or the new ones.

        Raises:
            InvalidConfig: the version is not installed, or the label is empty.
        """
        versions = self.installed().get(model, [])
        if version not in versions:
            raise InvalidConfig(f"label {label!r}: {model}/{version} is not installed; there are {versions}")
        if not label:
            raise InvalidConfig("a label needs a name")
        labels = {**self.labels(model), label: version}
        folder = self.path / model
        descriptor, name = tempfile.mkstemp(prefix=".labels-", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(labels, order="sorted"))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(folder / LABELS)

    def open(self, model: str, version: int) -> Package:
        """The package, every digest verified.

        Raises:
            PackageRefused: it is damaged or not what its place says; the cause is the package error.
        """
        path = version_path(self.path, model, version)
        try:
            package = Package.open(path)
        except PackageError as error:
            raise PackageRefused(f"{model}/{version}: {error}") from error
        found = package.manifest
        if (found.model, found.version) != (model, version):
            raise PackageRefused(f"{path} holds {found.model}/{found.version}, not {model}/{version}")
        return package
