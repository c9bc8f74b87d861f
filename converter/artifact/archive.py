"""A package as a `.tar.gz`: packed so that equal packages are equal archives, unpacked so that no archive does harm."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from converter.artifact.errors import ManifestInvalid, UnsafeArchive
from converter.artifact.schema import check_path

MAX_ARCHIVE_MEMBERS = 1_000
"""A package has a handful of files; an archive of more is refused before anything is written."""

MAX_UNPACKED_BYTES = 16 * 2**30
"""What an archive may unpack to, so that a small file can't fill a disk."""

_COPY_BYTES = 1 << 20

_NOT_THE_DISKS_WORD = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
)
"""Errors of the file system that the archive's own names cause; others (disk full) are passed on as they are."""


def pack(tree: Path, prefix: PurePosixPath, archive: Path) -> None:
    """Writes the files of `tree` under `prefix`. Equal trees give equal archives: no times, no owners, sorted names."""
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


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Unpacks a package's archive into `folder` and returns the directory of the package in it; verifies no digest.

    Raises:
        UnsafeArchive: no readable `.tar.gz`, or one that holds anything but one package of plain files.
        OSError: the disk is full or not writable.
    """
    roots: set[tuple[str, ...]] = set()
    with _named_errors(archive), gzip.open(archive, "rb") as zipped:
        bounded = cast("IO[bytes]", _Bounded(cast("IO[bytes]", zipped), archive, max_bytes))
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            for count, member in enumerate(tar, start=1):
                if count > MAX_ARCHIVE_MEMBERS:
                    raise UnsafeArchive(f"{archive}: more than {MAX_ARCHIVE_MEMBERS} members")
                if member.isdir():
                    continue
                path = _member_path(archive, member)
                roots.add(path.parts[:2])
                if member.size > max_bytes:
                    raise UnsafeArchive(f"{archive}: unpacks to more than {max_bytes} bytes")
                stream = tar.extractfile(member)
                if stream is None:
                    raise UnsafeArchive(f"{archive}: {member.name!r} has no content")
                _write(stream, folder / path)
    if len(roots) != 1:
        raise UnsafeArchive(f"{archive}: holds {len(roots)} packages; one is expected, as NAME/VERSION/...")
    return folder.joinpath(*roots.pop())


class _Bounded:
    """Reads a decompressed stream, as far as `max_bytes`, a little at a time.

    tarfile reads a member's extended header whole, whatever size it claims, and skips what it does not need by
    decompressing it: both would let a small file take all memory or hours.
    """

    def __init__(self, stream: IO[bytes], archive: Path, max_bytes: int) -> None:
        self._stream = stream
        self._archive = archive
        # Headers and padding: 512 bytes each, and the blocks of zeros at the end.
        self._max_bytes = max_bytes + (MAX_ARCHIVE_MEMBERS + 1) * 4_096

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _COPY_BYTES:
            raise UnsafeArchive(f"{self._archive}: a header claims {size} bytes")
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._max_bytes:
            raise UnsafeArchive(f"{self._archive}: unpacks to more than {self._max_bytes} bytes")


@contextlib.contextmanager
def _named_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError, struct.error) as error:
        # The last three: tarfile lets them through where a header's numbers or names are damaged.
        raise UnsafeArchive(f"{archive}: truncated, damaged or no .tar.gz: {error}") from error
    except OSError as error:
        if error.errno is not None and error.errno not in _NOT_THE_DISKS_WORD:
            raise
        raise UnsafeArchive(f"{archive}: damaged, or holds a name that can't be: {error}") from error


def _member_path(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise UnsafeArchive(f"{archive}: {member.name!r} is a link, a device or sparse; only plain files are allowed")
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
    with path.open("xb") as out:
        shutil.copyfileobj(stream, out, _COPY_BYTES)
