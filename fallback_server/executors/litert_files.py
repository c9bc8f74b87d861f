"""Where a version's LiteRT form lies, and its bytes: read once, verified, and held so that nobody can change them."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from converter.artifact.errors import PackageError
from converter.artifact.package import Package
from converter.artifact.schema import MANIFEST, Variant
from fallback_server.core.errors import VersionRefused

FILE = "model.tflite"
"""In the version's folder, as TensorFlow Serving names it."""

FLOAT = "float32"
"""The package's variant that a server runs: it has the tensors that callers see."""

PACKAGES = (Path(), Path("assets.extra", "edge_package"))
"""Where a package may lie in a version's folder: it is one itself, or `edge-convert --into` has laid one there."""

_IDENTIFIER = b"TFL3"
_IDENTIFIER_AT = 4

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class SealedFile:
    """A file of memory that holds a model's bytes, and that nobody can change or cut off any more.

    The version's own file could be: a mapping of it would end this process when it is written anew in place. All
    interpreters map this one, in this process and in those that are given its descriptor, and share its pages.

    Args:
        fd: One that `of` has made, here or in another process; this one's to close.

    Attributes:
        fd: Its descriptor; below 0 once it is closed.
        size_bytes: What it holds.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size_bytes = os.fstat(fd).st_size

    @classmethod
    def of(cls, content: bytes, name: str) -> Self:
        """Makes one; the name is for whoever lists the process's memory."""
        fd = os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @property
    def path(self) -> str:
        """Where a library that wants a path finds it, while this is open."""
        return f"/proc/self/fd/{self.fd}"

    def close(self) -> None:
        """Lets go of it; its memory is free when nobody maps it any more. Again: does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, kw_only=True, slots=True)
class LiteRtForm:
    """A version's LiteRT form.

    Attributes:
        content: The file's bytes, verified where a package vouches for them.
        source: What it is called in messages: `model.tflite`, `the package's float32 variant`.
        whole: Signatures whose requests must not be merged, though their first dimension is variable.
    """

    content: bytes
    source: str
    whole: frozenset[str] = frozenset()


def holds_litert(path: Path) -> bool:
    """Whether a version's folder has a LiteRT form; a package counts whatever is in it, so that its load says why."""
    return (path / FILE).is_file() or _package_folder(path) is not None


def size_bytes(path: Path) -> int:
    """The size of the file that `read_form` would read; 0 where that can't be told.

    Raises:
        OSError: it can't be looked at.
    """
    if (path / FILE).is_file():
        return (path / FILE).stat().st_size
    folder = _package_folder(path)
    if folder is None:
        return 0
    try:
        return _float_variant(Package.open(folder, verify=False)).size_bytes
    except (PackageError, VersionRefused):
        return 0  # The load will say what is wrong.


def read_form(path: Path) -> LiteRtForm:
    """Reads a version's LiteRT form: `model.tflite`, else the `float32` variant of its package.

    Raises:
        VersionRefused: there is none, or it is damaged.
        OSError: it can't be read.
    """
    file = path / FILE
    if file.is_file():
        content, source, whole = file.read_bytes(), FILE, frozenset[str]()
    else:
        folder = _package_folder(path)
        if folder is None:
            raise VersionRefused(f"{path} holds no {FILE} and no package")
        try:
            package = Package.open(folder, verify=False)
            variant = _float_variant(package)
            content = package.read(variant.file)  # Just these bytes are verified, and run.
        except PackageError as error:
            raise VersionRefused(f"{path}: its package can't be used: {error}") from error
        file, source = folder / variant.file, f"the package's {FLOAT} variant"
        whole = frozenset(each.name for each in variant.signatures if each.batch_axis != 0)
    if content[_IDENTIFIER_AT : _IDENTIFIER_AT + len(_IDENTIFIER)] != _IDENTIFIER:
        raise VersionRefused(f"{file} is no TFLite file: its identifier is not {_IDENTIFIER.decode()}")
    return LiteRtForm(content=content, source=source, whole=whole)


def _package_folder(path: Path) -> Path | None:
    return next((path / folder for folder in PACKAGES if (path / folder / MANIFEST).is_file()), None)


def _float_variant(package: Package) -> Variant:
    """The variant that has the tensors of the manifest's own signatures, and runs on a CPU.

    Raises:
        VersionRefused: there is none.
    """
    manifest = package.manifest
    for variant in manifest.variants:
        if variant.name == FLOAT and variant.delegate == "cpu" and not variant.segments and not variant.folded:
            return variant
    names = ", ".join(variant.name for variant in manifest.variants)
    raise VersionRefused(f"the package {package} at {package.path} has no {FLOAT} variant to serve; it has {names}")
