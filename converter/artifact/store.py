"""A folder of packages: published into and installed into all at once or not at all.

See `placing` for how: a staging folder, a lock, a rename at the end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from converter.artifact import placing
from converter.artifact.archive import MAX_UNPACKED_BYTES, pack, unpack
from converter.artifact.digest import nothing
from converter.artifact.errors import ManifestInvalid, PackageError, PackageExists, PackageNotFound, UnsafeArchive
from converter.artifact.package import Package, manifest_digest_text
from converter.artifact.room import check_room, naming, room_bytes
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_DIGEST,
    MANIFEST_SIGNATURE,
    MAX_VERSION,
    OWN_FILES,
    Manifest,
    check_name,
    check_path,
    check_version,
    encode,
)

_CHANGE = "a version never changes: give --replace, or another version"


def version_path(root: Path, model: str, version: int) -> Path:
    """Where a version lies under a folder of packages."""
    return root / check_name(model) / str(check_version(version))


def archive_path(root: Path, model: str, version: int) -> Path:
    """Where a version's archive lies beside it."""
    return root / f"{check_name(model)}-{check_version(version)}.tar.gz"


def check_free(root: Path, model: str, version: int, *, replace: bool) -> None:
    """Whether a version may be published there. What a killed writer left half-way is put in order first.

    Raises:
        PackageExists: the version or its archive is there and `replace` is False, or what is there is neither a
            package's directory nor a file that could be its archive.
    """
    if root.is_dir():
        with contextlib.suppress(OSError), placing.locked(root):
            placing.sweep(root)
    _refuse_version(root, model, version, replace=replace)


def check_place(path: Path, *, replace: bool) -> None:
    """Whether a copy of a package may be put there.

    Raises:
        PackageExists: a package is there and `replace` is False, or something that is no package.
    """
    if not os.path.lexists(path):
        return
    try:
        manifest = Package.open(path, verify=False).manifest
        held = f"{manifest.model} version {manifest.version}"
    except PackageNotFound as error:
        raise PackageExists(f"{path}: is there, and is no package that could be replaced: {error}") from error
    except PackageError:
        held = "a damaged package"
    if not replace:
        raise PackageExists(f"{path}: holds {held} already; --replace replaces it")


def publish(
    files: Mapping[str, Path],
    manifest: Manifest,
    output: str | os.PathLike[str],
    *,
    replace: bool = False,
    beside: Mapping[str, bytes | None] | None = None,
    copy_to: Path | None = None,
    sign: Callable[[str], bytes] | None = None,
    before_moving: Callable[[], None] = lambda: None,
) -> Package:
    """Writes `output/NAME/VERSION/` and `output/NAME-VERSION.tar.gz`; whoever looks sees all of it or nothing.

    All is made aside; then the copy, the archive and what else lies beside it are moved into place, and after them, by
    one rename, the directory: a version that is there has its archive.

    Args:
        files: By path in the package, where their bytes are now. `manifest.files` must describe just these.
        manifest: What is written as the manifest.
        output: The folder of packages; made if absent.
        replace: Whether a version that is already there gives way. The new one takes its place in a single step, but
            on a file system that can't exchange two names it is absent for the instant between two renames.
        beside: By name in `output`, files that are published with it; None for one that goes away with it.
        copy_to: Where a copy of the directory is put with it; the folder above that folder is there.
        sign: Makes `manifest.sig` of the package's digest, as `signing.SigningKey.sign`; None for none.
        before_moving: Called when everything is written and nothing is moved yet.

    Raises:
        PackageExists: the version or its archive is there, or something at `copy_to`, and `replace` is False.
        ManifestInvalid: `files` and `manifest.files` differ.
        OSError: the disk is full or not writable, or the output is a file; nothing is published then.
    """
    if set(files) != set(manifest.files):
        raise ManifestInvalid(f"files to publish {sorted(files)} differ from the manifest's {sorted(manifest.files)}")
    root, model, version = Path(output), manifest.model, manifest.version
    target, archive = version_path(root, model, version), archive_path(root, model, version)
    check_free(root, model, version, replace=replace)
    _make_folder(root)
    with placing.staging(root) as staging, contextlib.ExitStack() as copy:
        tree = staging / placing.TREE
        _write(tree, files, manifest, sign)
        aside = staging / placing.BESIDE
        aside.mkdir()
        for name, data in (beside or {}).items():
            if data is not None:
                (aside / name).write_bytes(data)
        _sync(aside)
        pack(tree, PurePosixPath(model, str(version)), aside / archive.name)
        copied = copy.enter_context(_copied(tree, copy_to)) if copy_to else None
        with placing.locked(root), contextlib.ExitStack() as locks:
            placing.sweep(root)
            _refuse_version(root, model, version, replace=replace)
            _make_folder(target.parent)
            going = _going(root, beside or {})
            places = [placing.Place(root=root, folder=staging, target=target, beside=(archive.name, *going))]
            if copied and copy_to:
                locks.enter_context(placing.locked(copy_to.parent))
                placing.sweep(copy_to.parent)
                check_place(copy_to, replace=replace)
                places.insert(0, placing.Place(root=copy_to.parent, folder=copied, target=copy_to))
            before_moving()
            with placing.moved(*places):
                for folder in {root, *(place.target.parent for place in places)}:
                    placing.sync_directory(folder)
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
    with staged(source, store) as package:
        return place(package, store, replace=replace)


@contextlib.contextmanager
def staged(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    link: bool = False,
    max_bytes: int = MAX_UNPACKED_BYTES,
    check: Callable[[Manifest], None] = lambda _manifest: None,
    may_end: Callable[[], None] = nothing,
) -> Iterator[Package]:
    """A verified copy of a package in a staging folder of the store, for `place`; gone afterwards.

    It can be looked at and run there. What is to lie beside it is written to `placing.BESIDE`/NAME in the same folder.

    Args:
        source: A directory or a `.tar.gz`.
        store: The folder of packages; made if absent.
        link: Whether a directory's files get second names here, which take no room, and are copied only where the file
            system has no such thing. For a source that is the caller's alone and goes away: what is written into its
            files later is written into the installed ones too. It stays as it is, whenever the process ends.
        max_bytes: What an archive may unpack to; never more than the disk has room for.
        check: Is told of the manifest before anything else is copied or unpacked, if it comes first in the archive as
            in those that are published; what it raises ends that.
        may_end: Called again and again, many times a second, while a directory is copied and verified; what it raises
            ends that.

    Raises:
        PackageNotFound, UnsafeArchive, PackageError, OSError: as `install`.
    """
    origin, root = Path(source), Path(store)
    if not origin.is_dir() and not origin.is_file():
        raise PackageNotFound(f"{origin}: no such file or directory")
    _make_folder(root)
    with placing.staging(root) as staging:
        tree = staging / placing.TREE
        with naming(root):
            if origin.is_dir():
                given = Package.open(origin, verify=False, may_end=may_end)
                _check(root, given.manifest, check, writes=not link)
                _copy(given, tree, link=link, may_end=may_end)
            else:
                unpacked = staging / "unpacked"  # A model may be called as what else lies in staging.
                bound = min(max_bytes, room_bytes(root))
                unpack(origin, unpacked, max_bytes=bound, check=lambda found: _check(root, found, check)).rename(tree)
            package = _opened(origin, tree, may_end)
            _sync(tree, may_end)
        yield package


def place(
    package: Package, store: str | os.PathLike[str], *, replace: bool = False, beside: Sequence[str] = ()
) -> Package:
    """Moves a staged package into `store/NAME/VERSION/`, and the files beside it, all at once.

    Args:
        package: As `staged` gave it.
        store: As it was given.
        replace: Whether the version that is there gives way.
        beside: Names of the staged files beside it, which go beside the version; what is there of these names and was
            not staged goes away.

    Raises:
        PackageExists, OSError: as `install`.
    """
    root, model, folder = Path(store), package.manifest.model, package.path.parent
    target = version_path(root, model, package.manifest.version)
    with naming(root), placing.locked(root), contextlib.ExitStack() as locks:
        placing.sweep(root)
        refuse_existing(target, replace=replace)
        _make_folder(target.parent)
        locks.enter_context(placing.locked(target.parent))
        names = tuple(f"{model}/{name}" for name in beside)
        with placing.moved(placing.Place(root=root, folder=folder, target=target, beside=names)):
            placing.sync_directory(target.parent)
            placing.sync_directory(root)
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


def _copy(package: Package, destination: Path, *, link: bool = False, may_end: Callable[[], None] = nothing) -> None:
    """Copies or links what the manifest lists, and its signature, and nothing that happens to lie beside it."""
    for name in (MANIFEST, MANIFEST_DIGEST, *package.manifest.files):
        may_end()
        source, target = package.path / name, destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            _link(source, target, may_end)
        else:
            placing.copy(source, target, may_end)
    if package.signed is not None:
        (destination / MANIFEST_SIGNATURE).write_bytes(package.signed)


def _link(source: Path, target: Path, may_end: Callable[[], None]) -> None:
    """As a copy would be: of this user, and with the rights that a new file has."""
    status = source.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        placing.copy(source, target, may_end)
    elif placing.link(source, target, may_end):
        # Those of the folder, which was made just now, less those to search it.
        rights = stat.S_IMODE(target.parent.stat().st_mode) & 0o666
        if stat.S_IMODE(status.st_mode) != rights:
            target.chmod(rights)


def _check(root: Path, manifest: Manifest, check: Callable[[Manifest], None], *, writes: bool = True) -> None:
    check(manifest)
    if writes:
        check_room(root, sum(entry.size_bytes for entry in manifest.files.values()))


def _opened(origin: Path, tree: Path, may_end: Callable[[], None]) -> Package:
    try:
        package = Package.open(tree, may_end=may_end)
    except PackageError as error:
        # Whoever installs knows the source, and the copy is gone when this is read.
        raise type(error)(str(error).replace(str(tree), str(origin))) from error.__cause__
    manifest = package.manifest
    listed = {*OWN_FILES, *manifest.files}
    found = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if not path.is_dir()}
    if found - listed:
        raise UnsafeArchive(f"{origin}: holds {min(found - listed)!r}, which the manifest does not list")
    return package


def _refuse_version(root: Path, model: str, version: int, *, replace: bool) -> None:
    refuse_existing(version_path(root, model, version), replace=replace)
    archive = archive_path(root, model, version)
    if archive.is_dir():
        raise PackageExists(f"{archive}: is a directory, where the package's archive would be")
    if os.path.lexists(archive) and not replace:
        raise PackageExists(f"{archive}: this version's archive is already there; {_CHANGE}")


def refuse_existing(target: Path, *, replace: bool) -> None:
    """Whether a version may be put there.

    Raises:
        PackageExists: it is there and `replace` is False, or what is there is no directory.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise PackageExists(f"{target}: is no directory, where the package's would be")
    if not replace:
        raise PackageExists(f"{target}: this version is already there; {_CHANGE}")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # Says that something is there, where what is wrong is that it is no folder.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def _going(root: Path, beside: Mapping[str, bytes | None]) -> list[str]:
    """The names that are moved; what is to go away and is no file stays."""
    going = []
    for name, data in beside.items():
        path = root / name
        folder = path.is_dir() and not path.is_symlink()
        if folder and data is not None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not folder:
            going.append(name)
    return going


def _write(tree: Path, files: Mapping[str, Path], manifest: Manifest, sign: Callable[[str], bytes] | None) -> None:
    for name, source in files.items():
        destination = tree / check_path(name)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    data = encode(manifest)
    (tree / MANIFEST).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (tree / MANIFEST_DIGEST).write_text(manifest_digest_text(digest), "ascii")
    if sign is not None:
        (tree / MANIFEST_SIGNATURE).write_bytes(sign(f"sha256:{digest}"))
    _sync(tree)
    Package.open(tree)


@contextlib.contextmanager
def _copied(tree: Path, target: Path) -> Iterator[Path]:
    """The staging folder, beside the target, in which a copy of the tree is ready."""
    folder = target.parent
    try:
        folder.mkdir()
        made = True
    except FileExistsError:
        made = False
    try:
        _make_folder(folder)
        with placing.staging(folder) as staging:
            copy = staging / placing.TREE
            _copy(Package.open(tree, verify=False), copy)
            _sync(copy)
            Package.open(copy)
            yield staging
    finally:
        if made:
            with contextlib.suppress(OSError):  # It is not empty where the copy was put into it.
                folder.rmdir()


def _sync(tree: Path, may_end: Callable[[], None] = nothing) -> None:
    """Has the bytes on the disk before the rename is: a power cut must not leave a published empty file."""
    for path in tree.rglob("*"):
        may_end()
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            placing.sync_directory(path)
    placing.sync_directory(tree)
