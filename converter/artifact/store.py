"""A folder of packages: published into and installed into all at once or not at all.

Whoever writes does so in a staging folder beside the target and moves the outcome into place by a rename, under a
lock on the folder of packages; readers take no lock. A staging folder whose writer was killed is removed by the next
writer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from converter.artifact.archive import pack, unpack
from converter.artifact.errors import ManifestInvalid, PackageExists, PackageNotFound, UnsafeArchive
from converter.artifact.package import Package
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_DIGEST,
    MAX_VERSION,
    Manifest,
    check_name,
    check_path,
    check_version,
    encode,
)

_STAGING_PREFIX = ".staging-"


def version_path(root: Path, model: str, version: int) -> Path:
    """Where a version lies under a folder of packages."""
    return root / check_name(model) / str(check_version(version))


def archive_path(root: Path, model: str, version: int) -> Path:
    """Where a version's archive lies beside it."""
    return root / f"{check_name(model)}-{check_version(version)}.tar.gz"


def publish(
    files: Mapping[str, Path], manifest: Manifest, output: str | os.PathLike[str], *, replace: bool = False
) -> Package:
    """Writes `output/NAME/VERSION/` and `output/NAME-VERSION.tar.gz`; whoever looks sees all of it or nothing.

    Both are made aside; then the archive is moved into place and after it, by one rename, the directory: a version
    that is there has its archive.

    Args:
        files: By path in the package, where their bytes are now. `manifest.files` must describe just these.
        manifest: What is written as the manifest.
        output: The folder of packages; made if absent.
        replace: Whether a version that is already there gives way. It is absent for the instant between two renames.

    Raises:
        PackageExists: the version is there, and `replace` is False.
        ManifestInvalid: `files` and `manifest.files` differ.
        OSError: the disk is full or not writable, or the output is a file; nothing is published then.
    """
    if set(files) != set(manifest.files):
        raise ManifestInvalid(f"files to publish {sorted(files)} differ from the manifest's {sorted(manifest.files)}")
    root = Path(output)
    target = version_path(root, manifest.model, manifest.version)
    _refuse_existing(target, replace=replace)
    _make_folder(root)
    with _staging(root) as staging:
        tree = staging / "tree"
        for name, source in files.items():
            destination = tree / check_path(name)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, destination)
        data = encode(manifest)
        (tree / MANIFEST).write_bytes(data)
        (tree / MANIFEST_DIGEST).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n", "ascii")
        _sync(tree)
        Package.open(tree)
        archive = staging / "package.tar.gz"
        pack(tree, PurePosixPath(manifest.model, str(manifest.version)), archive)
        with _locked(root):
            _refuse_existing(target, replace=replace)
            with _archive_in_place(archive, archive_path(root, manifest.model, manifest.version), staging):
                _move_into_place(tree, target, staging)
            _sync_directory(root)
    return Package.open(target, verify=False)


def install(source: str | os.PathLike[str], store: str | os.PathLike[str], *, replace: bool = False) -> Package:
    """Copies a package, a directory or a `.tar.gz`, into `store/NAME/VERSION/`, verified, by one rename at the end.

    Raises:
        PackageNotFound: nothing there.
        UnsafeArchive: see `errors`; an archive with several packages, or with files that the manifest does not list.
        PackageExists: the version is there, and `replace` is False.
        PackageError: what `Package.open` refuses.
        OSError: the package can't be read, the store can't be written (NotADirectoryError: it is a file), or the disk
            is full; nothing is installed then.
    """
    origin, root = Path(source), Path(store)
    if not origin.is_dir() and not origin.is_file():
        raise PackageNotFound(f"{origin}: no such file or directory")
    _make_folder(root)
    with _staging(root) as staging:
        if origin.is_dir():
            tree = _copy(Package.open(origin, verify=False), staging / "tree")
        else:
            tree = unpack(origin, staging / "unpacked")  # A model may be called as what else lies in staging.
        manifest = Package.open(tree).manifest
        _refuse_unlisted(origin, tree, manifest)
        target = version_path(root, manifest.model, manifest.version)
        _sync(tree)
        with _locked(root):
            _refuse_existing(target, replace=replace)
            _move_into_place(tree, target, staging)
            _sync_directory(root)
    return Package.open(target, verify=False)


def installed(
    root: str | os.PathLike[str], *, passed_over: Callable[[Path, OSError], None] = lambda _path, _error: None
) -> dict[str, list[int]]:
    """The versions that lie under a folder of packages, ascending, by model. Reads directory names only.

    What is no `NAME/VERSION` with a manifest (archives, staging folders, stray files) is not counted.

    Args:
        root: The folder of packages; one that is not there holds nothing.
        passed_over: Is told of each model or version that can't be looked at (no permission, a failing disk); it does
            not hide the others.

    Raises:
        OSError: the folder of packages itself can't be read.
    """
    found: dict[str, list[int]] = {}
    base = Path(root)
    if not base.is_dir():
        return found
    for model in sorted(base.iterdir()):
        with contextlib.suppress(ManifestInvalid), _passing_over(model, passed_over):
            check_name(model.name)
            versions = [_version_of(path, passed_over) for path in model.iterdir()]
            if numbered := sorted(version for version in versions if version):
                found[model.name] = numbered
    return found


def _version_of(path: Path, passed_over: Callable[[Path, OSError], None]) -> int:
    """The version that a directory's name says, or 0 if it says none or holds no manifest."""
    if not (path.name.isascii() and path.name.isdigit() and path.name[0] != "0"):
        return 0
    if len(path.name) > len(str(MAX_VERSION)) or int(path.name) > MAX_VERSION:
        return 0
    with _passing_over(path, passed_over):
        if (path / MANIFEST).is_file():
            return int(path.name)
    return 0


@contextlib.contextmanager
def _passing_over(path: Path, passed_over: Callable[[Path, OSError], None]) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass  # No folder, or removed while it was looked at.
    except OSError as error:
        passed_over(path, error)


def _copy(package: Package, destination: Path) -> Path:
    """Copies what the manifest lists and nothing that happens to lie beside it."""
    for name in (MANIFEST, MANIFEST_DIGEST, *package.manifest.files):
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package.path / name, target, follow_symlinks=False)
    return destination


def _refuse_unlisted(origin: Path, tree: Path, manifest: Manifest) -> None:
    listed = {MANIFEST, MANIFEST_DIGEST, *manifest.files}
    found = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if not path.is_dir()}
    if found - listed:
        raise UnsafeArchive(f"{origin}: holds {min(found - listed)!r}, which the manifest does not list")


def _refuse_existing(target: Path, *, replace: bool) -> None:
    if target.exists() and not replace:
        raise PackageExists(f"{target}: this version is already there; a version never changes (or replace it)")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # Says that something is there, where what is wrong is that it is no folder.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def _move_into_place(tree: Path, target: Path, staging: Path) -> None:
    """Renames `tree` to `target`; what is there goes into the staging folder, and comes back if this fails."""
    _make_folder(target.parent)
    replaced = staging / "replaced"
    if target.exists():
        target.rename(replaced)
    try:
        tree.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync_directory(target.parent)


@contextlib.contextmanager
def _archive_in_place(archive: Path, target: Path, staging: Path) -> Iterator[None]:
    """Has the archive in place while the body runs; where the body fails, what was there before comes back."""
    replaced = staging / "replaced.tar.gz"
    if target.exists():
        target.rename(replaced)
    archive.rename(target)
    try:
        yield
    except BaseException:
        target.unlink()
        if replaced.exists():
            replaced.rename(target)
        raise


@contextlib.contextmanager
def _locked(root: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the exclusive lock on a directory, which ends with the process if not before; False if it is held."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder beside the target, so that the last step is a rename in one file system. It is gone afterwards."""
    with contextlib.ExitStack() as held:
        with _locked(root):
            _sweep(root)
            folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            held.enter_context(_locked(folder))
        yield folder


def _sweep(root: Path) -> None:
    """Removes staging folders whose writers are gone: a living one holds the lock on its folder."""
    for folder in root.glob(f"{_STAGING_PREFIX}*"):
        with contextlib.suppress(OSError), _locked(folder, wait=False) as abandoned:
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)


def _sync(tree: Path) -> None:
    """Has the bytes on the disk before the rename is: a power cut must not leave a published empty file."""
    for path in tree.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_directory(path)
    _sync_directory(tree)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
