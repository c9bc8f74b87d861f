"""What is in an archive, one member after the other, in bounded memory. Where it may go is decided elsewhere."""

from __future__ import annotations

import contextlib
import enum
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from converter.artifact.tar_headers import HeaderCheck
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.printable import cause, quoted

CHUNK_BYTES = 1 << 20

MAX_HEADER_BYTES = 1 << 20
"""What the headers of one member of a tar may take: they hold names, and are read into memory."""

MAX_HEADERS_BYTES = 256 << 20
"""What those of all members may take: two and a half thousand bytes for each of a hundred thousand."""

MAX_DIRECTORY_BYTES = 64 << 20
"""What the directory of a zip may take: it is read into memory, several times as large."""

MAX_WINDOW_BYTES = 1 << 27
"""What a zstd stream may ask the reader to remember; `zstd --long` goes up to here by default."""

_MAX_LINK_BYTES = 4096
_MAX_TRAILING_BYTES = 64 << 20
_ZIP_TAIL_BYTES = 65_557
"""A zip's end record with the longest comment."""


class Kind(enum.Enum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    """A symbolic one."""
    OTHER = "other"
    """A hard link, a device, a pipe, a sparse file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member.

    Attributes:
        name: As the archive says it.
        kind: What it is.
        link: Where a link points, as the archive says it.
        chunks: A file's bytes. To be read to its end before the next member is asked for.
    """

    name: str
    kind: Kind
    link: str = ""
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))


def read_members(archive: Path) -> Generator[Member, None, None]:
    """The members of a `.tar.gz`, `.tgz`, `.tar.zst` or `.zip`, in its order.

    Raises:
        ArchiveRefused: it is damaged, or asks for more memory than is given.
        OSError: it can't be read.
    """
    with _named(archive), archive.open("rb") as file:
        if archive.name.endswith(".zip"):
            yield from _zip_members(archive, file)
        elif archive.name.endswith(".tar.zst"):
            import zstandard  # noqa: PLC0415  rarely needed

            reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            with reader.stream_reader(file, read_across_frames=True, closefd=False) as stream:
                yield from _tar_members(_Forward(archive, cast("IO[bytes]", stream), zstandard.ZstdError))
        else:
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield from _tar_members(_Forward(archive, cast("IO[bytes]", stream), zlib.error))


def claimed_bytes(archive: Path) -> int:
    """How much an archive says that it holds, or its own size where it says nothing: a lower bound, not to be trusted.

    Raises:
        ArchiveRefused: it is damaged.
        OSError: it can't be read.
    """
    if not archive.name.endswith(".zip"):
        return archive.stat().st_size
    with _named(archive), archive.open("rb") as file:
        _check_directory(archive, file)
        with zipfile.ZipFile(file) as opened:
            return sum(info.file_size for info in opened.infolist())


class _Forward:
    """A decompressed stream as tarfile wants to read it: forward alone, and never much at a time.

    tarfile reads a member's extended headers whole, however long they say they are, and one after the other: they are
    checked before. What the members themselves hold goes past it.

    Args:
        archive: Named in errors.
        stream: The decompressed bytes.
        damage: What it raises, beside EOFError and OSError, where it is damaged.

    Attributes:
        archive: See above.
        last: What tarfile read last.
    """

    def __init__(self, archive: Path, stream: IO[bytes], damage: type[Exception]) -> None:
        self.archive = archive
        self._stream = stream
        self._damage = damage
        self._at = 0
        self._budget_bytes = MAX_HEADER_BYTES
        self._left_bytes = MAX_HEADERS_BYTES
        self._headers = HeaderCheck()
        self.last = b""

    def renew(self) -> None:
        """The next member begins."""
        self._budget_bytes = MAX_HEADER_BYTES

    def take(self, size_bytes: int) -> bytes:
        """Up to so many bytes of a member."""
        try:
            data = self._stream.read(size_bytes)
        except (EOFError, gzip.BadGzipFile, self._damage) as error:
            raise ArchiveRefused(f"{self.archive} is truncated or damaged: {cause(error)}") from error
        self._at += len(data)
        return data

    def read(self, size_bytes: int = -1) -> bytes:
        """Bytes of a header, for tarfile."""
        self._budget_bytes -= size_bytes
        if size_bytes < 0 or self._budget_bytes < 0:
            raise ArchiveRefused(f"{self.archive}: a member's headers take more than {MAX_HEADER_BYTES} bytes")
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ArchiveRefused(f"{self.archive}: its members' headers take more than {MAX_HEADERS_BYTES} bytes")
        self.last = self._whole(size_bytes)
        self._headers.see(self.last)
        return self.last

    def _whole(self, size_bytes: int) -> bytes:
        parts = []
        while size_bytes > 0 and (data := self.take(size_bytes)):
            parts.append(data)
            size_bytes -= len(data)
        return b"".join(parts)

    def seek(self, position: int) -> int:
        """Skips the padding behind a member, for tarfile: all else has been read when it asks."""
        if not 0 <= position - self._at <= tarfile.BLOCKSIZE:
            raise ArchiveRefused(f"{self.archive} is damaged: a header leads out of the members' order")
        self._whole(position - self._at)
        return self._at

    def tell(self) -> int:
        """How far it has been read."""
        return self._at


def _tar_members(forward: _Forward) -> Iterator[Member]:
    archive = forward.archive
    with tarfile.open(fileobj=cast("IO[bytes]", forward), mode="r:") as opened:
        while (info := opened.next()) is not None:
            # tarfile remembers every member, and nobody asks it.
            opened.members = []  # type: ignore[attr-defined]
            kind = _tar_kind(info)
            if kind is Kind.FILE:
                yield Member(name=info.name, kind=kind, chunks=_tar_chunks(info, forward))
            else:
                yield Member(name=info.name, kind=kind, link=info.linkname)
            forward.renew()
    if forward.last != bytes(tarfile.BLOCKSIZE):
        raise ArchiveRefused(f"{archive} is truncated: its end is missing")
    # The checksum stands behind the last byte. A tape's padding goes up to a record; more is no padding.
    trailing_bytes = 0
    while data := forward.take(CHUNK_BYTES):
        trailing_bytes += len(data)
        if data.strip(b"\0"):
            raise ArchiveRefused(f"{archive}: something follows its end")
        if trailing_bytes > _MAX_TRAILING_BYTES:
            raise ArchiveRefused(f"{archive}: more than {_MAX_TRAILING_BYTES} bytes follow its end")


def _tar_kind(info: tarfile.TarInfo) -> Kind:
    # A sparse member may look like a plain one, and be called sparse by its extended header alone.
    if info.issparse() or any(key.startswith("GNU.sparse") for key in info.pax_headers) or info.size < 0:
        return Kind.OTHER
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return Kind.FILE
    if info.isdir():
        return Kind.FOLDER
    return Kind.LINK if info.issym() else Kind.OTHER


def _tar_chunks(info: tarfile.TarInfo, forward: _Forward) -> Iterator[bytes]:
    left_bytes = info.size
    while left_bytes:
        data = forward.take(min(left_bytes, CHUNK_BYTES))
        if not data:
            raise ArchiveRefused(
                f"{forward.archive} is truncated: {left_bytes} bytes of {quoted(info.name)} are missing"
            )
        left_bytes -= len(data)
        yield data


def _zip_members(archive: Path, file: IO[bytes]) -> Iterator[Member]:
    _check_directory(archive, file)
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if not info.filename:  # zipfile cuts names at a 0, and would fail at what is left.
                raise ArchiveRefused(f"{archive}: holds a file without a name")
            if info.is_dir():
                yield Member(name=info.filename, kind=Kind.FOLDER)
            elif stat.S_ISLNK(mode):
                with opened.open(info) as source:
                    link = source.read(_MAX_LINK_BYTES).decode(errors="surrogateescape")
                yield Member(name=info.filename, kind=Kind.LINK, link=link)
            elif mode and stat.S_IFMT(mode) and not stat.S_ISREG(mode):
                yield Member(name=info.filename, kind=Kind.OTHER)
            else:
                yield Member(name=info.filename, kind=Kind.FILE, chunks=_zip_chunks(archive, opened, info))


def _zip_chunks(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with _named(archive), opened.open(info) as source:
        while data := source.read(CHUNK_BYTES):
            yield data


def _check_directory(archive: Path, file: IO[bytes]) -> None:
    """Refuses a zip whose directory is too large to be read: its end record tells (APPNOTE.TXT, 4.3.14 to 4.3.16)."""
    end = file.seek(0, 2)
    start = file.seek(max(0, end - _ZIP_TAIL_BYTES))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise ArchiveRefused(f"{archive} is truncated, damaged or no .zip")
    size = struct.unpack_from("<L", tail, at + 12)[0]
    if size == 0xFFFFFFFF and at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
        file.seek(min(struct.unpack_from("<Q", tail, at - 12)[0], start + at))
        record = file.read(56)
        size = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else size
    if size > MAX_DIRECTORY_BYTES:
        raise ArchiveRefused(f"{archive}: its directory takes {size} bytes; at most {MAX_DIRECTORY_BYTES} are read")
    file.seek(0)


@contextlib.contextmanager
def _named(archive: Path) -> Iterator[None]:
    """What the libraries raise of damaged archives, by one name. What the file system says stays as it is."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveRefused(f"{archive} is truncated or damaged: {cause(error)}") from error
    except (ValueError, OverflowError, struct.error, RecursionError) as error:
        # Damaged numbers and names in headers, and headers that follow headers without end.
        raise ArchiveRefused(f"{archive} is damaged: {cause(error)}") from error
    except (RuntimeError, NotImplementedError) as error:
        raise ArchiveRefused(
            f"{archive} can't be read: {cause(error)}"
        ) from error  # Encrypted, or packed in an unknown way.
