"""Keys that vouch for packages, and signatures of packages that are there already."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converter.artifact import Package, PackageNotFound, archive_path, install, placing, version_path
from converter.artifact.archive import pack
from converter.artifact.schema import MANIFEST_SIGNATURE
from converter.artifact.signing import SigningKey
from converter.errors import OptionInvalid

_PRIVATE, _PUBLIC = 0o600, 0o644
_SUFFIX = ".pub"


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What was signed.

    Attributes:
        package: As `NAME/VERSION`.
        digest: The package's.
        key: The id of the key.
        files: What was written.
    """

    package: str
    digest: str
    key: str
    files: tuple[Path, ...]


def keygen(path: Path) -> tuple[SigningKey, Path]:
    """Makes a key at `path`, which its owner alone may read, and `path.pub` for devices; the key, and that path.

    Raises:
        OptionInvalid: one of them is there already.
        SigningUnavailable: `cryptography` is not installed.
        OSError: they can't be written.
    """
    public = path.with_name(path.name + _SUFFIX)
    for each in (path, public):
        if os.path.lexists(each):
            raise OptionInvalid(f"{each}: is there already; a key is never overwritten")
    key = SigningKey.make()
    with contextlib.ExitStack() as undoing:
        undoing.callback(_write_new(path, key.pem, _PRIVATE).unlink)
        _write_new(public, key.public.pem, _PUBLIC)
        undoing.pop_all()
    return key, public


def sign(path: Path, key: SigningKey) -> Signed:
    """Signs a package that is there, after checking its digests; an earlier signature gives way.

    Of a version in a folder of packages the archive beside it is signed too.

    Args:
        path: Its directory or its `.tar.gz`.
        key: Whose signature it gets.

    Raises:
        PackageError: there is none, or a damaged one.
        OSError: it can't be written.
    """
    if path.is_dir():
        # By its real name: a link to a version has no archive beside it, and the version has.
        return _sign_directory(path.resolve(), key)
    if not path.is_file():
        raise PackageNotFound(f"{path}: no such file or directory")
    path = path.resolve()  # A link stays one, and leads to what is signed.
    with placing.staging(path.parent) as staging:
        package, archive = _signed_archive(path, staging, key)
        _replace(archive, path)
        placing.sync_directory(path.parent)
    return _told(package, key, path)


def _sign_directory(path: Path, key: SigningKey) -> Signed:
    package = Package.open(path)
    model, version = package.manifest.model, package.manifest.version
    root = path.parent.parent
    beside = archive_path(root, model, version)
    published = path == version_path(root, model, version) and beside.is_file()
    folder = root if published else path.parent
    with placing.staging(folder) as staging:
        signature = staging / MANIFEST_SIGNATURE
        _write_new(signature, key.sign(package.digest), _PUBLIC)
        archive = _signed_archive(path, staging, key)[1] if published else None
        with placing.locked(folder):
            if Package.open(path, verify=False).digest != package.digest:
                raise PackageNotFound(f"{path}: was replaced while it was signed; sign it again")
            # Each by one rename; whoever is killed between them signs again.
            if archive is not None:
                _replace(archive, beside)
            signature.replace(path / MANIFEST_SIGNATURE)
            for changed in (path, folder):
                placing.sync_directory(changed)
    return _told(package, key, path / MANIFEST_SIGNATURE, *([beside] if published else []))


def _signed_archive(source: Path, staging: Path, key: SigningKey) -> tuple[Package, Path]:
    """A package's archive with its signature, in the staging folder."""
    copied = staging / "copied"
    copied.mkdir()
    package = install(source, copied)
    (package.path / MANIFEST_SIGNATURE).unlink(missing_ok=True)
    _write_new(package.path / MANIFEST_SIGNATURE, key.sign(package.digest), _PUBLIC)
    archive = staging / "signed.tar.gz"
    pack(package.path, PurePosixPath(package.manifest.model, str(package.manifest.version)), archive)
    return package, archive


def _replace(archive: Path, target: Path) -> None:
    """Whoever could read the archive that was there can read this one, and nobody else."""
    archive.chmod(stat.S_IMODE(target.stat().st_mode))
    archive.replace(target)


def _told(package: Package, key: SigningKey, *files: Path) -> Signed:
    return Signed(package=str(package), digest=package.digest, key=key.public.id, files=files)


def _write_new(path: Path, data: bytes, mode: int) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with _or_none(path), os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextlib.contextmanager
def _or_none(path: Path) -> Iterator[None]:
    """No file rather than a part of one."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
