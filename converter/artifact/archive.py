"""A package as a `.tar.gz`: packed so that equal packages are equal archives, unpacked so that no archive does harm."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from converter.artifact.errors import DigestMismatch, FormatTooNew, ManifestInvalid, UnsafeArchive
from converter.artifact.package import MAX_DIGEST_BYTES
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_DIGEST,
    MANIFEST_SIGNATURE,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    OWN_FILES,
    Manifest,
    check_path,
    decode,
)
from converter.artifact.signing import MAX_SIGNATURE_BYTES
from converter.artifact.tar_headers import HeaderCheck

MAX_ARCHIVE_MEMBERS = MAX_FILES + 6
"""A package's files and folders, its manifest, digest and signature, and `./NAME/VERSION/`; an archive of more is
refused when that is seen."""

MAX_UNPACKED_BYTES = 16 * 2**30
"""What an archive may unpack to, so that a small file can't fill a disk."""

_MAX_HEADER_BYTES = 1 << 20
"""What one member's headers may take together: they hold a path, and are read into memory."""

_MAX_HEADERS_BYTES = 8 << 20
"""What the headers of all members may take: several thousand bytes each, where a path and its times take two."""

_COPY_BYTES = 1 << 20

_MAX_FILLING_BYTES = 16 << 20
"""What may follow an archive's end, in zeros: GNU tar fills up to 10 KiB unless told otherwise."""

_SHOWN = 80
"""Characters of a name in a refusal: the archive has written it."""

_OWN_BYTES = {
    MANIFEST: MAX_MANIFEST_BYTES,
    MANIFEST_DIGEST: MAX_DIGEST_BYTES,
    MANIFEST_SIGNATURE: MAX_SIGNATURE_BYTES,
}
"""What the files may have that no manifest lists."""

_NOT_THE_DISKS_WORD = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
)
"""Errors of the file system that the archive's own names cause; others (disk full) are passed on as they are."""


def pack(tree: Path, prefix: PurePosixPath, archive: Path) -> None:
    """Writes the files of `tree` under `prefix`. Equal trees give equal archives: no times, no owners, sorted names.

    The manifest comes first, so that whoever unpacks knows what is to follow.
    """
    first = [tree / name for name in OWN_FILES]

    def order(path: Path) -> tuple[int, Path]:
        return (first.index(path) if path in first else len(first), path)

    with archive.open("wb") as raw:
        with (
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted((path for path in tree.rglob("*") if path.is_file()), key=order):
                info = tarfile.TarInfo(str(prefix / path.relative_to(tree).as_posix()))
                info.size = path.stat().st_size
                info.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
        raw.flush()
        os.fsync(raw.fileno())


def unpack(
    archive: Path,
    folder: Path,
    *,
    max_bytes: int = MAX_UNPACKED_BYTES,
    check: Callable[[Manifest], None] = lambda _manifest: None,
) -> Path:
    """Unpacks a package's archive into `folder` and returns the directory of the package in it; verifies no digest.

    Args:
        archive: The `.tar.gz`.
        folder: Where to.
        max_bytes: What all members together may take, until the manifest has come; then what it lists is the bound.
        check: Is told of the manifest as soon as it has come; what it raises ends the unpacking. From then on a member
            that the manifest does not list, or not with this size, is refused before it is written.

    Raises:
        UnsafeArchive: no readable `.tar.gz`, or one that holds anything but one package of plain files.
        ManifestInvalid, FormatTooNew: see `schema.decode`.
        DigestMismatch: a member has another size than the manifest says.
        OSError: the disk is full or not writable.
    """
    manifest: Manifest | None = None
    roots: set[tuple[str, ...]] = set()
    made: set[PurePosixPath] = set()
    with _named_errors(archive), gzip.open(archive, "rb") as zipped:
        source = _Source(cast("IO[bytes]", zipped), archive, max_bytes)
        with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r:") as tar:
            for count, member in enumerate(iter(tar.next, None), start=1):
                # tarfile remembers every member with all that its headers say, and nobody asks it.
                tar.members = []  # type: ignore[attr-defined]
                if count > MAX_ARCHIVE_MEMBERS:
                    raise UnsafeArchive(f"{archive}: more than {MAX_ARCHIVE_MEMBERS} members")
                _check_plain(archive, member)
                if not member.isdir():
                    path = _member_path(archive, member)
                    roots.add(path.parts[:2])
                    made.update((path, *path.parents))
                    if len(made) > MAX_ARCHIVE_MEMBERS:
                        raise UnsafeArchive(f"{archive}: more than {MAX_ARCHIVE_MEMBERS} files and folders")
                    name = PurePosixPath(*path.parts[2:]).as_posix()
                    _check_listed(archive, name, member.size, manifest)
                    source.copy(member.size, folder / path)
                    if name == MANIFEST and manifest is None:
                        manifest = _manifest(archive, folder / path)
                        with _passing():
                            check(manifest)
                        source.expect_listed()
                source.expect_header()
        source.check_end()
    if len(roots) != 1:
        raise UnsafeArchive(f"{archive}: holds {len(roots)} packages; one is expected, as NAME/VERSION/...")
    return folder.joinpath(*roots.pop())


class _Source:
    """A decompressed stream that tarfile reads headers from, and whose members are copied without it.

    tarfile reads a member's extended headers whole, whatever size they claim and however many follow each other, and
    expands what they call sparse: a small file could take all memory or fill the disk. So headers have a budget and are
    checked first, the stream only goes forward, and what is written is counted where it is written.
    """

    def __init__(self, stream: IO[bytes], archive: Path, max_bytes: int) -> None:
        self._stream = stream
        self._archive = archive
        self._max_bytes = max_bytes
        self._written_bytes = 0
        self._header_bytes = 0
        self._headers_bytes = 0
        self._headers = HeaderCheck()
        self._last = b""

    def expect_header(self) -> None:
        """From here on the next member's headers are read."""
        self._header_bytes = 0

    def expect_listed(self) -> None:
        """From here on each member is known before it comes."""
        self._max_bytes = MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        """Bytes of a header."""
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise UnsafeArchive(f"{self._archive}: a header claims {size} bytes")
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise UnsafeArchive(f"{self._archive}: a member's headers take more than {_MAX_HEADER_BYTES} bytes")
        self._headers_bytes += size
        if self._headers_bytes > _MAX_HEADERS_BYTES:
            raise UnsafeArchive(f"{self._archive}: its members' headers take more than {_MAX_HEADERS_BYTES} bytes")
        self._last = self._stream.read(size)
        self._headers.see(self._last)
        return self._last

    def seek(self, position: int) -> int:
        """Skips the rest of a block; nothing larger is ever skipped in an archive of plain files and folders."""
        if not 0 <= position - self._stream.tell() <= tarfile.BLOCKSIZE:
            raise UnsafeArchive(f"{self._archive}: a header leads to byte {position}, out of the members' order")
        return self._stream.seek(position)

    def check_end(self) -> None:
        """Whether it ends as archives do: so it is known to be whole, and nothing is hidden behind it.

        The checksum stands behind the last byte. A tape's records are filled up with zeros.
        """
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise UnsafeArchive(f"{self._archive}: truncated: its end is missing")
        for _ in range(_MAX_FILLING_BYTES // _COPY_BYTES):
            if not (data := self._stream.read(_COPY_BYTES)):
                return
            if data.strip(b"\0"):
                raise UnsafeArchive(f"{self._archive}: something follows its end")
        raise UnsafeArchive(f"{self._archive}: more than {_MAX_FILLING_BYTES} bytes follow its end")

    def tell(self) -> int:
        """How far the stream has been read."""
        return self._stream.tell()

    def copy(self, size_bytes: int, path: Path) -> None:
        """Writes the next `size_bytes` bytes to a new file."""
        if self._written_bytes + size_bytes > self._max_bytes:
            raise UnsafeArchive(
                f"{self._archive}: unpacks to more than {self._max_bytes} bytes, which is all that it may take here"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": an archive that names a file twice is refused instead of the later one winning.
        with _new(path, self._archive) as out:
            left_bytes = size_bytes
            while left_bytes:
                data = self._stream.read(min(left_bytes, _COPY_BYTES))
                if not data:
                    raise UnsafeArchive(f"{self._archive}: truncated: {left_bytes} bytes of {path.name!r} are missing")
                self._written_bytes += out.write(data)
                left_bytes -= len(data)


def _new(path: Path, archive: Path) -> IO[bytes]:
    try:
        return path.open("xb")
    except FileExistsError as error:
        raise UnsafeArchive(f"{archive}: holds {path.name!r} twice, or as a file and a folder") from error


class _RefusedError(Exception):
    """Whoever was told of the manifest refuses it; the cause is what is raised."""


@contextlib.contextmanager
def _passing() -> Iterator[None]:
    """Has an error pass as it is, of whatever kind it is."""
    try:
        yield
    except Exception as error:
        raise _RefusedError from error


@contextlib.contextmanager
def _named_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except _RefusedError as refused:
        error = cast("Exception", refused.__cause__)
        raise error from error.__cause__
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnsafeArchive(f"{archive}: truncated, damaged or no .tar.gz: {error}") from error
    except (ValueError, OverflowError, struct.error, RecursionError) as error:
        # tarfile lets them through where a header's numbers or names are damaged, or headers follow headers.
        raise UnsafeArchive(f"{archive}: truncated, damaged or no .tar.gz: {error}") from error
    except OSError as error:
        if error.errno is not None and error.errno not in _NOT_THE_DISKS_WORD:
            raise
        raise UnsafeArchive(f"{archive}: damaged, or holds a name that can't be: {error}") from error


def _check_plain(archive: Path, member: tarfile.TarInfo) -> None:
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
    # A sparse member may have a plain file's type and be called sparse by its extended header alone.
    if not plain or member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        raise UnsafeArchive(
            f"{archive}: {member.name[:_SHOWN]!r} is a link, a device or sparse; only plain files are allowed"
        )
    if member.size < 0:
        raise UnsafeArchive(f"{archive}: {member.name[:_SHOWN]!r} claims {member.size} bytes")


def _manifest(archive: Path, path: Path) -> Manifest:
    try:
        return decode(path.read_bytes())
    except (ManifestInvalid, FormatTooNew) as error:
        raise type(error)(f"{archive}: {error}") from error


def _check_listed(archive: Path, name: str, size_bytes: int, manifest: Manifest | None) -> None:
    """Whether the package may have such a file; of an archive whose manifest comes later only its own are known."""
    if (own_bytes := _OWN_BYTES.get(name)) is not None:
        if size_bytes > own_bytes:
            raise UnsafeArchive(f"{archive}: {name} has {size_bytes} bytes, at most {own_bytes} are read")
    elif manifest is not None:
        entry = manifest.files.get(name)
        if entry is None:
            raise UnsafeArchive(f"{archive}: holds {name!r}, which the manifest does not list")
        if entry.size_bytes != size_bytes:
            raise DigestMismatch(f"{archive}: {name} has {size_bytes} bytes, the manifest says {entry.size_bytes}")


def _member_path(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    try:
        path = PurePosixPath(check_path(member.name))
    except ManifestInvalid as error:
        raise UnsafeArchive(f"{archive}: {error}") from error
    if len(path.parts) < 3:
        raise UnsafeArchive(f"{archive}: {member.name[:_SHOWN]!r} does not lie under NAME/VERSION/")
    return path
