"""A package on disk, opened with every digest checked.

A package is the directory `NAME/VERSION/` with `manifest.json`, `manifest.sha256` (that file's own digest, in
sha256sum's form) and the files that the manifest lists. As an archive it is `NAME-VERSION.tar.gz`, holding the same
tree under `NAME/VERSION/`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converter.artifact.digest import file_entry
from converter.artifact.errors import DigestMismatch, ManifestInvalid, PackageNotFound
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_DIGEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    Variant,
    check_path,
    decode,
)

MAX_DIGEST_BYTES = 4_096
"""One line of 64 hexadecimal digits and a name."""


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
    path = _plain_file(root, MANIFEST_DIGEST)
    with path.open("rb") as file:
        words = file.read(MAX_DIGEST_BYTES).decode("ascii", errors="replace").split()
    if words[:1] != [digest]:
        raise DigestMismatch(f"{root / MANIFEST}: SHA-256 {digest}, {MANIFEST_DIGEST} says {words[:1]}")


def _plain_file(root: Path, name: str) -> Path:
    """The file `name` in the package, reached through no link: a link could point outside, or change."""
    path = root
    try:
        for part in PurePosixPath(check_path(name)).parts:
            path = path / part
            if path.is_symlink():
                raise DigestMismatch(f"{path}: a link where the manifest says a file")
        if not path.is_file():
            raise DigestMismatch(f"{path}: missing")
    except OSError as error:  # A name too long for the file system, a folder that can't be searched.
        raise DigestMismatch(f"{path}: can't be reached: {error}") from error
    return path
