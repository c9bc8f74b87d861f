"""Packages on disk: opened with every digest checked, published all at once or not at all.

A package is the directory `NAME/VERSION/` with `manifest.json`, `manifest.sha256` (that file's own digest, in
sha256sum's form) and the files that the manifest lists. As an archive it is `NAME-VERSION.tar.gz`, holding the same
tree under `NAME/VERSION/`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from converter.artifact.digest import file_entry
from converter.artifact.errors import (
    DigestMismatch,
    ManifestInvalid,
    PackageError,
    PackageExists,
    PackageNotFound,
    UnsafeArchive,
)
from converter.artifact.schema import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Variant,
    check_name,
    check_path,
    check_version,
    decode,
    encode,
)

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"

MAX_ARCHIVE_MEMBERS = 1_000
"""A package has a handful of files; an archive of more is refused before anything is written."""

MAX_UNPACKED_BYTES = 16 * 2**30
"""What an archive may unpack to, so that a small file can't fill a disk."""

_COPY_BYTES = 1 << 20
_STAGING_PREFIX = ".staging-"


@dataclass(frozen=True)
class Package:
    """An opened package: immutable, and what its manifest says.

    Attributes:
        path: Its directory.
        manifest: The checked manifest.
        digest: `sha256:` and the manifest's digest; since the manifest holds every file's, it stands for the whole.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Package:
        """Opens the package in the directory `path`.

        Args:
            path: The directory `NAME/VERSION`; its own name does not matter here.
            verify: Check every file's size and SHA-256. Without it only sizes are checked: for a package that this
                process has just written.

        Raises:
            PackageNotFound: no directory, or no manifest in it.
            FormatTooNew, ManifestInvalid: see `schema.decode`.
            DigestMismatch: a file is missing, truncated, altered or no plain file.
        """
        root = Path(path)
        data = _read_manifest(root)
        digest = hashlib.sha256(data).hexdigest()
        manifest = decode(data)
        _check_manifest_digest(root, digest)
        for name, entry in manifest.files.items():
            file = _plain_file(root, name)
            found = file_entry(file) if verify else None
            size_bytes = found.size_bytes if found else file.stat().st_size
            if size_bytes != entry.size_bytes:
                raise DigestMismatch(f"{file}: {size_bytes} bytes, the manifest says {entry.size_bytes}")
            if found and found.sha256 != entry.sha256:
                raise DigestMismatch(f"{file}: SHA-256 {found.sha256}, the manifest says {entry.sha256}")
        return cls(path=root, manifest=manifest, digest=f"sha256:{digest}")

    def file(self, variant: Variant) -> Path:
        """Where the variant's file lies."""
        return self.path / variant.file

    def __str__(self) -> str:
        return f"{self.manifest.model}/{self.manifest.version}"


def _read_manifest(root: Path) -> bytes:
    path = root / MANIFEST
    if not root.is_dir():
        raise PackageNotFound(f"{root}: no such directory")
    if not path.is_file() or path.is_symlink():
        raise PackageNotFound(f"{root}: holds no {MANIFEST}, so it is no package")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{path}: {path.stat().st_size} bytes, at most {MAX_MANIFEST_BYTES} are read")
    return path.read_bytes()


def _check_manifest_digest(root: Path, digest: str) -> None:
    path = root / MANIFEST_DIGEST
    try:
        stated = path.read_text("ascii", errors="replace").split()[0]
    except (OSError, IndexError) as error:
        raise DigestMismatch(f"{path}: the manifest's digest can't be read: {error}") from error
    if stated != digest:
        raise DigestMismatch(f"{root / MANIFEST}: SHA-256 {digest}, {MANIFEST_DIGEST} says {stated}")


def _plain_file(root: Path, name: str) -> Path:
    """The file `name` in the package, reached through no link: a link could point outside, or change."""
    path = root
    for part in PurePosixPath(check_path(name)).parts:
        path = path / part
        if path.is_symlink():
            raise DigestMismatch(f"{path}: a link where the manifest says a file")
    if not path.is_file():
        raise DigestMismatch(f"{path}: missing")
    return path


def publish(
    files: Mapping[str, Path], manifest: Manifest, output: str | os.PathLike[str], *, replace: bool = False
) -> Package:
    """Writes `output/NAME/VERSION/` and `output/NAME-VERSION.tar.gz`; whoever looks sees all of it or nothing.

    The directory is made aside and moved into place by one rename, after the archive has been.

    Args:
        files: By path in the package, where their bytes are now. `manifest.files` must describe just these.
        manifest: What is written as the manifest.
        output: The folder of packages; made if absent.
        replace: Whether a version that is already there gives way.

    Raises:
        PackageExists: the version is there, and `replace` is False.
        ManifestInvalid: `files` and `manifest.files` differ.
        OSError: the disk is full or not writable; nothing is published then.
    """
    if set(files) != set(manifest.files):
        raise ManifestInvalid(f"files to publish {sorted(files)} differ from the manifest's {sorted(manifest.files)}")
    root = Path(output)
    target = version_path(root, manifest.model, manifest.version)
    _refuse_existing(target, replace=replace)
    root.mkdir(parents=True, exist_ok=True)
    with _staging(root) as staging:
        tree = staging / manifest.model / str(manifest.version)
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
        _pack(tree, PurePosixPath(manifest.model, str(manifest.version)), archive)
        archive.replace(archive_path(root, manifest.model, manifest.version))
        _move_into_place(tree, target, replace=replace)
    return Package.open(target, verify=False)


def install(source: str | os.PathLike[str], store: str | os.PathLike[str], *, replace: bool = False) -> Package:
    """Copies a package, a directory or a `.tar.gz`, into `store/NAME/VERSION/`, verified, by one rename at the end.

    Raises:
        PackageNotFound: nothing there.
        UnsafeArchive: see `errors`; an archive with several packages too.
        PackageExists: the version is there, and `replace` is False.
        PackageError: what `Package.open` refuses.
    """
    origin, root = Path(source), Path(store)
    if not origin.exists():
        raise PackageNotFound(f"{origin}: no such file or directory")
    root.mkdir(parents=True, exist_ok=True)
    with _staging(root) as staging:
        if origin.is_dir():
            package = Package.open(origin, verify=False)
            tree = _copy(package, staging / "tree")
        else:
            tree = unpack(origin, staging)
        manifest = Package.open(tree).manifest
        target = version_path(root, manifest.model, manifest.version)
        _refuse_existing(target, replace=replace)
        _sync(tree)
        _move_into_place(tree, target, replace=replace)
    return Package.open(target, verify=False)


def _copy(package: Package, destination: Path) -> Path:
    """Copies what the manifest lists and nothing that happens to lie beside it."""
    for name in (MANIFEST, MANIFEST_DIGEST, *package.manifest.files):
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package.path / name, target, follow_symlinks=False)
    return destination


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Unpacks a package's archive into `folder` and returns the directory of the package in it; verifies no digest.

    Raises:
        UnsafeArchive: no readable `.tar.gz`, or one that holds anything but one package of plain files.
    """
    written = 0
    roots: set[tuple[str, ...]] = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for count, member in enumerate(tar, start=1):
                if count > MAX_ARCHIVE_MEMBERS:
                    raise UnsafeArchive(f"{archive}: more than {MAX_ARCHIVE_MEMBERS} members")
                if member.isdir():
                    continue
                path = _member_path(archive, member)
                roots.add(path.parts[:2])
                written += member.size
                if written > max_bytes:
                    raise UnsafeArchive(f"{archive}: unpacks to more than {max_bytes} bytes")
                stream = tar.extractfile(member)
                if stream is None:
                    raise UnsafeArchive(f"{archive}: {member.name!r} has no content")
                _write(stream, folder / path)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The disk's or the file system's word, not the archive's.
        raise UnsafeArchive(f"{archive}: truncated or no .tar.gz: {error}") from error
    except zlib.error as error:
        raise UnsafeArchive(f"{archive}: damaged: {error}") from error
    if len(roots) != 1:
        raise UnsafeArchive(f"{archive}: holds {len(roots)} packages; one is expected, as NAME/VERSION/...")
    return folder.joinpath(*roots.pop())


def _member_path(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    if not member.isreg():
        raise UnsafeArchive(f"{archive}: {member.name!r} is a link or a device; only files are allowed")
    try:
        path = PurePosixPath(check_path(member.name))
    except ManifestInvalid as error:
        raise UnsafeArchive(f"{archive}: {error}") from error
    if len(path.parts) < 3:
        raise UnsafeArchive(f"{archive}: {member.name!r} does not lie under NAME/VERSION/")
    return path


def _write(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": an archive that names a file twice is refused instead of the later one winning.
    try:
        with path.open("xb") as out:
            shutil.copyfileobj(stream, out, _COPY_BYTES)
    except FileExistsError as error:
        raise UnsafeArchive(f"the archive names {path.name!r} twice") from error


def version_path(root: Path, model: str, version: int) -> Path:
    """Where a version lies under a folder of packages."""
    return root / check_name(model) / str(check_version(version))


def archive_path(root: Path, model: str, version: int) -> Path:
    """Where a version's archive lies beside it."""
    return root / f"{check_name(model)}-{check_version(version)}.tar.gz"


def _pack(tree: Path, prefix: PurePosixPath, archive: Path) -> None:
    """Equal trees give equal archives: no times, no owners, sorted names."""
    with archive.open("wb") as raw:
        with (
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                info = tarfile.TarInfo(str(prefix / path.relative_to(tree).as_posix()))
                info.size = path.stat().st_size
                info.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
        raw.flush()
        os.fsync(raw.fileno())


def _refuse_existing(target: Path, *, replace: bool) -> None:
    if target.exists() and not replace:
        raise PackageExists(f"{target}: this version is already there; a version never changes (or replace it)")


def _move_into_place(tree: Path, target: Path, *, replace: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    replaced = tree.parent / "replaced"
    if replace and target.exists():
        # Into the staging folder, which goes away: a rename can't land on a directory that is not empty.
        target.rename(replaced)
    try:
        tree.rename(target)
    except OSError as error:
        if target.exists():
            raise PackageExists(f"{target}: published by another program meanwhile") from error
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync_directory(target.parent)


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder beside the target, so that the last step is a rename in one file system. It is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
    try:
        yield folder
    finally:
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


def installed(root: str | os.PathLike[str]) -> dict[str, list[int]]:
    """The versions that lie under a folder of packages, ascending, by model. Reads directory names only.

    What is no `NAME/VERSION` with a manifest (archives, staging folders, stray files) is passed over.
    """
    found: dict[str, list[int]] = {}
    base = Path(root)
    if not base.is_dir():
        return found
    for model in sorted(base.iterdir()):
        with contextlib.suppress(PackageError, NotADirectoryError):
            check_name(model.name)
            versions = sorted(_version_of(path) for path in model.iterdir() if (path / MANIFEST).is_file())
            if numbered := [version for version in versions if version]:
                found[model.name] = numbered
    return found


def _version_of(path: Path) -> int:
    """The version that a directory's name says, or 0 if it says none."""
    return int(path.name) if path.name.isascii() and path.name.isdigit() and path.name[0] != "0" else 0
