"""A version that is installed and is not what it was any more: whether it is so, and which package it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from converter.artifact import DigestMismatch, ManifestInvalid, Package, PackageError
from converter.artifact.digest import nothing
from converter.artifact.package import MAX_DIGEST_BYTES
from converter.artifact.schema import MANIFEST, MANIFEST_DIGEST, MAX_MANIFEST_BYTES, decode

_SHA256 = re.compile(rb"[0-9a-f]{64}")


def tells_damage(error: BaseException | None) -> bool:
    """Whether a package's error is of bytes that are others, or gone; not of one that can't be read, or is too new."""
    return isinstance(error, DigestMismatch | ManifestInvalid)


def is_damaged(path: Path, *, may_end: Callable[[], None] = nothing) -> bool:
    """Whether the version that lies there is damaged; every file is read.

    Args:
        path: Its directory.
        may_end: Called again and again, many times a second; what it raises ends this.
    """
    try:
        Package.open(path, may_end=may_end)
    except PackageError as error:
        return tells_damage(error)
    return False


def digests(path: Path) -> set[str]:
    """The digests, as `sha256:...`, that the version there may have had: none where nothing tells it any more."""
    found = set()
    if digest := _SHA256.match(_head(path / MANIFEST_DIGEST, MAX_DIGEST_BYTES)):
        found.add(f"sha256:{digest[0].decode()}")
    try:
        data = _head(path / MANIFEST, MAX_MANIFEST_BYTES)
        decode(data)
        found.add(f"sha256:{hashlib.sha256(data).hexdigest()}")
    except PackageError:
        pass  # It is what is damaged.
    return found


def _head(path: Path, size_bytes: int) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size_bytes)
    except OSError:
        return b""
