"""A package on disk, opened with every digest checked.

A package is the directory `NAME/VERSION/` with `manifest.json`, `manifest.sha256` (that file's own digest, in
sha256sum's form), a `manifest.sig` where somebody vouches for it (see `signing`), and the files that the manifest
lists. As an archive it is `NAME-VERSION.tar.gz`, holding the same
tree under `NAME/VERSION/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converter.artifact.digest import file_entry, nothing
from converter.artifact.errors import DigestMismatch, ManifestInvalid, PackageNotFound, PackageUnreadable
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_DIGEST,
    MANIFEST_SIGNATURE,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    Variant,
    check_path,
    decode,
)
from converter.artifact.signing import MAX_SIGNATURE_BYTES

MAX_DIGEST_BYTES = 4_096
"""One line of 64 hexadecimal digits and a name."""


@dataclass(frozen=True)
class Package:
    """An opened package: immutable, and what its manifest says.

    Attributes:
        path: Its directory.
        manifest: The checked manifest.
        digest: `sha256:` and the manifest's digest; since the manifest holds every file's, it stands for the whole.
        signed: What its `manifest.sig` held when it was opened, which nobody has verified; None where it has none. See
            `signing.verify`.
    """

    path: Path
    manifest: Manifest
    digest: str
    signed: bytes | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, verify: bool = True, may_end: Callable[[], None] = nothing
    ) -> Package:
        """Opens the package in the directory `path`.

        Args:
            path: The directory `NAME/VERSION`; its own name does not matter here.
            verify: Check every file's size and SHA-256. Without it only sizes are checked: for a package that this
                process has just written, or whose files are read with `read`, which verifies each.
            may_end: Called again and again, many times a second; what it raises ends this.

        Raises:
            PackageNotFound: no directory, or no manifest in it.
            FormatTooNew, ManifestInvalid: see `schema.decode`.
            DigestMismatch: a file is missing, truncated, altered or no plain file.
            PackageUnreadable: the file system refuses to read one.
        """
        root = Path(path)
        data = _read_manifest(root)
        digest = hashlib.sha256(data).hexdigest()
        manifest = decode(data)
        _check_manifest_digest(root, digest)
        signed = _read_signed(root)
        for name, entry in manifest.files.items():
            may_end()
            file = _plain_file(root, name)
            with _readable(file):
                # The size first: a file that has grown is not read to its end.
                _check_size(file, file.stat().st_size, entry)
                if verify:
                    found = file_entry(file, may_end=may_end)
                    _check_size(file, found.size_bytes, entry)
                    _check_sha256(file, found.sha256, entry)
        return cls(path=root, manifest=manifest, digest=f"sha256:{digest}", signed=signed)

    def read(self, name: str) -> bytes:
        """The bytes of the file `name` (a key of `manifest.files`), read once and verified: of just these bytes.

        Whoever runs what this returns runs what was verified, whatever is done to the directory afterwards. Needs
        memory for the file once.

        Raises:
            KeyError: the manifest lists no such file.
            DigestMismatch: it is missing, truncated, altered, no plain file or reached through a link.
            PackageUnreadable: the file system refuses to read it.
        """
        entry = self.manifest.files[name]
        path = _plain_file(self.path, name)
        with _readable(path), path.open("rb") as file:
            # The size first: no more is read, or memory taken, than the manifest says.
            size_bytes = os.fstat(file.fileno()).st_size
            _check_size(path, size_bytes, entry)
            data = file.read(entry.size_bytes)
        _check_size(path, len(data), entry)
        _check_sha256(path, hashlib.sha256(data).hexdigest(), entry)
        return data

    def file(self, variant: Variant) -> Path:
        """Where the variant's file lies."""
        return self.path / variant.file

    def __str__(self) -> str:
        return f"{self.manifest.model}/{self.manifest.version}"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Names the file system's refusals: no permission, a failing disk, a file that went away meanwhile."""
    try:
        yield
    except OSError as error:
        raise PackageUnreadable(f"{path}: can't be read: {error.strerror or error}") from error


def _check_size(path: Path, size_bytes: int, entry: FileEntry) -> None:
    if size_bytes != entry.size_bytes:
        raise DigestMismatch(f"{path}: {size_bytes} bytes, the manifest says {entry.size_bytes}")


def _check_sha256(path: Path, sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise DigestMismatch(f"{path}: SHA-256 {sha256}, the manifest says {entry.sha256}")


def _read_manifest(root: Path) -> bytes:
    path = root / MANIFEST
    with _readable(path):
        if not root.is_dir():
            raise PackageNotFound(f"{root}: no such directory")
        if path.is_symlink() or not path.is_file():
            raise PackageNotFound(f"{root}: holds no {MANIFEST}, so it is no package")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{path}: at most {MAX_MANIFEST_BYTES} bytes are read")
    return data


def manifest_digest_text(sha256: str) -> str:
    """What a package's `manifest.sha256` holds: what `sha256sum` prints of its manifest."""
    return f"{sha256}  {MANIFEST}\n"


def _check_manifest_digest(root: Path, digest: str) -> None:
    path = _plain_file(root, MANIFEST_DIGEST)
    with _readable(path), path.open("rb") as file:
        said = file.read(MAX_DIGEST_BYTES).decode("ascii", errors="replace")
    words = said.split()
    if words[:1] != [digest]:
        raise DigestMismatch(f"{root / MANIFEST}: SHA-256 {digest}, {MANIFEST_DIGEST} says {words[:1]}")
    # To the letter: of packages that are held to be the same every byte is.
    if said != manifest_digest_text(digest):
        raise DigestMismatch(f"{path}: {said[:99]!r} is not what `sha256sum {MANIFEST}` prints")


def _read_signed(root: Path) -> bytes | None:
    if not os.path.lexists(root / MANIFEST_SIGNATURE):
        return None
    path = _plain_file(root, MANIFEST_SIGNATURE)
    with _readable(path), path.open("rb") as file:
        data = file.read(MAX_SIGNATURE_BYTES + 1)
    if len(data) > MAX_SIGNATURE_BYTES:
        raise DigestMismatch(f"{path}: at most {MAX_SIGNATURE_BYTES} bytes are read")
    return data


def _plain_file(root: Path, name: str) -> Path:
    """The file `name` in the package, reached through no link: a link could point outside, or change."""
    path = root
    with _readable(root / name):  # A name may be too long for the file system, a folder may not be searched.
        for part in PurePosixPath(check_path(name)).parts:
            path = path / part
            if path.is_symlink():
                raise DigestMismatch(f"{path}: a link where the manifest says a file")
        if not path.is_file():
            raise DigestMismatch(f"{path}: missing")
    return path
