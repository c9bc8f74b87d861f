"""The packages that devices may fetch: where each lies, what is in it, and its files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from converter.artifact import ManifestInvalid, Package, PackageError, PackageNotFound, installed, version_path
from converter.artifact.schema import MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE, FileEntry
from fallback_server.core.errors import ExecutionFailed, InvalidInput, ModelNotFound, PreconditionFailed
from fallback_server.core.printable import quoted
from fallback_server.core.target import ModelTarget
from fallback_server.model_views import ModelView
from fallback_server.package_info import IN_VERSION

_log = logging.getLogger(__name__)

_MAX_KEPT = 256
"""Packages that are remembered as they were read, and of which was said what is wrong with them."""

_Stamp = tuple[int, ...]


class Models(Protocol):
    """What is served: `Control`."""

    def model(self, name: str) -> ModelView | None:
        """One model as it stands; None where nothing is known of it."""
        ...

    def folder(self, name: str, version: int) -> Path | None:
        """Where a version lies that should be served; None for none such."""
        ...


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A package that can be fetched.

    Attributes:
        path: Its directory.
        model: Whose.
        version: Which.
        digest: `sha256:` and the manifest's digest.
        files: All of its files by path, the manifest, its digest and its signature too.
    """

    path: Path
    model: str
    version: int
    digest: str
    files: Mapping[str, FileEntry] = field(repr=False)


class Shelf:
    """Finds packages beside what is served, and in a folder of packages. Thread-safe; reads the disk.

    Args:
        models: What is served.
        repository: Holds NAME/VERSION/ of packages, of models that are served and of others; None for none.
    """

    def __init__(self, models: Models, repository: Path | None = None) -> None:
        self._models = models
        self._repository = repository
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[_Stamp, Delivered]] = {}
        self._told: dict[Path, str] = {}

    def find(self, target: ModelTarget) -> Delivered:
        """The package of a version, by number, by a label of the server's, or of what answers if neither is given.

        Raises:
            InvalidInput: no name, or an unknown label.
            ModelNotFound: no such model or version, or no whole package of it.
            PreconditionFailed: the version that is loaded was published with another package.
        """
        name = target.name
        if not name:
            raise InvalidInput("ModelSpec has no name specified.")
        view = self._models.model(name)
        version = self._version(target, view)
        published = _published(view, version)
        others: list[str] = []
        for path in self._places(name, version):
            found = self._open(path)
            if found is None:
                continue
            if (found.model, found.version) != (name, version):
                others.append(f"{found.model}/{found.version}")
            elif published not in ("", found.digest):
                others.append(found.digest)
            else:
                return found
        if others:
            wanted = f"{quoted(name)} version {version}" + (f", published with {published}" if published else "")
            raise PreconditionFailed(f"the package that is here is not that of {wanted}: {', '.join(others)}")
        raise ModelNotFound(f"there is no package of model {quoted(name)} version {version} here")

    def open(self, target: ModelTarget, digest: str, path: str, offset: int) -> BinaryIO:
        """A file of the package, which the caller closes, from the offset on.

        Raises:
            InvalidInput: the package has no such file, or the file no such offset.
            ModelNotFound: as `find`.
            PreconditionFailed: as `find`; or the package is another than the digest's, or the file not the manifest's.
        """
        package = self.find(target)
        if package.digest != digest:
            raise PreconditionFailed(
                f"the package of {package.model}/{package.version} is {package.digest}, not {quoted(digest)}"
            )
        entry = package.files.get(path)
        if entry is None:
            raise InvalidInput(f"package {package.model}/{package.version} has no file {quoted(path)}")
        if not 0 <= offset <= entry.size_bytes:
            raise InvalidInput(f"offset {offset} is beyond {quoted(path)}, which has {entry.size_bytes} bytes")
        try:
            descriptor = _open_within(package.path, path)
        except OSError as error:
            _log.warning("%s can't be delivered: %s", package.path / path, error.strerror or error)
            raise ExecutionFailed(f"{quoted(path)} of {package.model}/{package.version} can't be read") from error
        file = os.fdopen(descriptor, "rb")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size_bytes:
            file.close()
            raise PreconditionFailed(f"{quoted(path)} of {package.model}/{package.version} is not the manifest's")
        file.seek(offset)
        return file

    def _version(self, target: ModelTarget, view: ModelView | None) -> int:
        if target.version is not None:
            return target.version
        if target.label is not None:
            version = view.labels.get(target.label) if view else None
            if version is None:
                raise InvalidInput(f"Unrecognized servable version label: {quoted(target.label)}")
            return version
        if view is not None and view.default_version:
            return view.default_version
        versions = self._stocked(target.name) if view is None else []
        if not versions:
            raise ModelNotFound(f"Could not find any versions of model {quoted(target.name)}")
        return versions[-1]

    def _stocked(self, name: str) -> list[int]:
        """The versions in the repository of a model that is not served."""
        try:
            return installed(self._repository).get(name, []) if self._repository else []
        except OSError as error:
            self._tell_once(self._repository or Path(), str(error))
            return []

    def _places(self, name: str, version: int) -> list[Path]:
        places = []
        folder = self._models.folder(name, version)
        if folder is not None:
            places += [folder / IN_VERSION, folder]
        if self._repository is not None:
            # What can be no package's name or number may be served all the same.
            with contextlib.suppress(ManifestInvalid):
                places.append(version_path(self._repository, name, version))
        return places

    def _open(self, path: Path) -> Delivered | None:
        """The package there; None where there is none, or no whole one."""
        try:
            stamp = _stamp(path)
            with self._lock:
                known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            delivered = _read(path)
        except (PackageNotFound, FileNotFoundError, NotADirectoryError):
            return None
        except (PackageError, OSError) as error:
            self._tell_once(path, str(error))
            return None
        with self._lock:
            while len(self._read) >= _MAX_KEPT:
                del self._read[next(iter(self._read))]
            self._read[path] = (stamp, delivered)
        return delivered

    def _tell_once(self, path: Path, text: str) -> None:
        with self._lock:
            if self._told.get(path) == text:
                return
            while len(self._told) >= _MAX_KEPT:
                del self._told[next(iter(self._told))]
            self._told[path] = text
        _log.warning("%s can't be delivered: %s", path, text)


def _published(view: ModelView | None, version: int) -> str:
    """The digest of the package that the loaded version was published with; empty where that is not known."""
    for one in view.versions if view else ():
        if one.state.servable_id.version == version and one.servable is not None and one.servable.package is not None:
            return one.servable.package.fingerprint
    return ""


def _open_within(folder: Path, path: str) -> int:
    """A descriptor of a file below a folder, reached through no link, whatever is put in its way meanwhile.

    Args:
        folder: May be a link itself: where packages lie is the operator's.
        path: Of the manifest, which has checked it.

    Raises:
        OSError: there is none, or a link is on the way.
    """
    *folders, name = PurePosixPath(path).parts
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> _Stamp:
    """Of the manifest, and of the signature beside it, which comes and goes without it."""
    found = [(path / MANIFEST).stat()]
    with contextlib.suppress(FileNotFoundError):
        found.append((path / MANIFEST_SIGNATURE).stat())
    return tuple(number for one in found for number in (one.st_ino, one.st_mtime_ns, one.st_size))


def _read(path: Path) -> Delivered:
    # Digests are for whoever fetches; here it must be whole, so that nobody fetches half of it in vain.
    package = Package.open(path, verify=False)
    files = dict(package.manifest.files)
    own = {name: (path / name).read_bytes() for name in (MANIFEST, MANIFEST_DIGEST)}
    if package.signed is not None:
        own[MANIFEST_SIGNATURE] = package.signed
    for name, data in own.items():
        files[name] = FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if files[MANIFEST].sha256 != package.digest.removeprefix("sha256:"):
        raise PackageNotFound(f"{path}: replaced while it was read")
    manifest = package.manifest
    return Delivered(
        path=path,
        model=manifest.model,
        version=manifest.version,
        digest=package.digest,
        files=dict(sorted(files.items())),
    )
