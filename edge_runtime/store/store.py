"""A folder of packages: `NAME/VERSION/`, and for each model the labels that point to versions."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from converter.artifact import (
    ManifestInvalid,
    Package,
    PackageError,
    check_name,
    check_version,
    installed,
    version_path,
)
from edge_runtime.errors import InvalidConfig, PackageRefused

LABELS = "labels.json"
"""Beside a model's versions: `{"stable": 1, "canary": 2}`."""

MAX_LABELS_BYTES = 1 << 20
"""Labels are a few names; a larger file is none of labels."""

MAX_LABEL_CHARACTERS = 128

_MAX_WARNINGS = 1_000
"""Paths that are remembered as told."""

_log = logging.getLogger(__name__)


class Store:
    """Reads a store. Whoever installs into it moves whole versions into place, so that none is seen half.

    Every method may be called from any thread and from several processes at once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes the folder.

        Raises:
            InvalidConfig: there is none.
        """
        self.path = Path(path)
        self._passed_over: set[Path] = set()
        with _named("store", self.path):
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
        with _named("store", self.path):
            return installed(self.path, passed_over=self._warn_once)

    def labels(self, model: str) -> dict[str, int]:
        """The model's labels; empty where none were given.

        Raises:
            InvalidConfig: the name can't be a model's, or the file can't be read as `{"label": version}`.
        """
        path = self._folder(model) / LABELS
        try:
            with _named("labels", path):
                # Neither a folder nor a pipe, which would be waited for.
                if path.exists() and not path.is_file():
                    raise InvalidConfig(f"{path}: labels must be a file")
                with path.open("rb") as file:
                    data = file.read(MAX_LABELS_BYTES + 1)
            if len(data) > MAX_LABELS_BYTES:
                raise InvalidConfig(f"{path}: at most {MAX_LABELS_BYTES} bytes of labels are read")
            labels = msgspec.json.decode(data, type=dict[str, int])
            for version in labels.values():
                check_version(version)
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ManifestInvalid) as error:
            raise InvalidConfig(f"{path}: labels must be a JSON object of version numbers: {error}") from error
        return labels

    def label(self, model: str, label: str, version: int) -> None:
        """Points a label to an installed version, by one rename: a reader sees the old labels or the new ones.

        Whoever sets another label of the model at the same time waits, so that neither is lost.

        Raises:
            InvalidConfig: the version is not installed, the label is not 1 to 128 printable characters, or the labels
                can't be read or written.
        """
        folder = self._folder(model)
        if not 1 <= len(label) <= MAX_LABEL_CHARACTERS or not label.isprintable():
            raise InvalidConfig(f"label {label!r}: must be 1 to {MAX_LABEL_CHARACTERS} printable characters")
        versions = self.installed().get(model, [])
        if version not in versions:
            raise InvalidConfig(f"label {label!r}: {model}/{version} is not installed; there are {versions}")
        with _named("labels", folder / LABELS, missing=True), _locked(folder) as descriptor:
            labels = {**self.labels(model), label: version}
            _write(folder / LABELS, msgspec.json.encode(labels, order="sorted"))
            os.fsync(descriptor)

    def open(self, model: str, version: int) -> Package:
        """The package, every digest verified.

        Raises:
            InvalidConfig: the name or the version can't be a model's.
            PackageRefused: it is damaged, can't be read or is not what its place says; the cause is the package error.
        """
        try:
            path = version_path(self.path, model, version)
        except ManifestInvalid as error:
            raise InvalidConfig(str(error)) from error
        try:
            package = Package.open(path)
        except PackageError as error:
            raise PackageRefused(f"{model}/{version}: {error}") from error
        except OSError as error:
            raise PackageRefused(f"{model}/{version}: {path} can't be read: {error.strerror or error}") from error
        found = package.manifest
        if (found.model, found.version) != (model, version):
            raise PackageRefused(f"{path} holds {found.model}/{found.version}, not {model}/{version}")
        return package

    def _folder(self, model: str) -> Path:
        """Where a model's versions and labels lie; a name that would lead elsewhere is refused."""
        try:
            return self.path / check_name(model)
        except ManifestInvalid as error:
            raise InvalidConfig(str(error)) from error

    def _warn_once(self, path: Path, error: OSError) -> None:
        if path not in self._passed_over and len(self._passed_over) < _MAX_WARNINGS:
            self._passed_over.add(path)
            _log.warning("%s can't be looked at and is passed over: %s", path, error.strerror or error)


@contextlib.contextmanager
def _named(what: str, path: Path, *, missing: bool = False) -> Iterator[None]:
    """Names the file system's refusals; that something is absent is passed on, unless `missing` is refused as well."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not missing:
            raise
        raise InvalidConfig(f"{what} {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Holds the exclusive lock on a directory, which ends with the process if not before; gives its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    """Replaces the file by one rename. Readable by all whom the umask allows: the writer is rarely the runtime's user.

    One writer at a time; what a killed one left behind gives way.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
