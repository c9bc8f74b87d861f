"""Writes what an archive holds into an empty folder, so that no archive does harm: not outside, and not by its size."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.members import Kind, Member, claimed_bytes, read_members
from fallback_server.core.printable import cause, quoted

_MAX_DEPTH = 32
_MAX_NAME_BYTES = 1024
_FREE_BYTES = 64 << 20
"""What stays free on the disk, and how much is written between two looks at it."""

_MEMBER_BYTES = 512
"""What a member counts for beside its content where only the beginning is read, so that empty ones end too."""

_PASSED_OVER = ("__MACOSX", ".DS_Store")
_PASSED_OVER_PREFIX = "._"

_ITS_NAMES = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
"""What the file system says of names that can't be: the archive's fault, and not the disk's."""


@dataclass(frozen=True, kw_only=True)
class UnpackOptions:
    """What an archive may unpack to. All of it is measured at what is written, not at what headers say.

    Attributes:
        max_bytes: In bytes.
        max_entries: In files, folders and links.
        max_ratio: Bytes written for each byte of the archive, once `ratio_from_bytes` are written.
        ratio_from_bytes: See `max_ratio`: small models of equal numbers pack very well.
    """

    max_bytes: int = 16 << 30
    max_entries: int = 100_000
    max_ratio: float = 1000.0
    ratio_from_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_entries", "max_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def is_passed_over(name: str) -> bool:
    """Whether it is what macOS puts into archives beside what was packed: resource forks, and how a folder looks."""
    return name in _PASSED_OVER or name.startswith(_PASSED_OVER_PREFIX)


def unpack(archive: Path, folder: Path, options: UnpackOptions) -> None:
    """Writes an archive's files, folders and inner links below an empty folder, all of it down to the disk.

    Raises:
        ArchiveRefused: it is damaged, holds what may not be, or more than may be.
        OSError: it can't be read, or the disk can't be written or is full.
    """
    _Unpacking(archive, folder, options).run()


def try_unpacking(archive: Path, folder: Path, options: UnpackOptions, *, max_bytes: int) -> bool:
    """Does with the beginning of an archive what `unpack` does, but leaves the files' content out: they are holes.

    Args:
        archive: The archive.
        folder: Is empty.
        options: What it may unpack to.
        max_bytes: So much of what it holds is read, each member counted for `_MEMBER_BYTES` beside its content.

    Returns:
        Whether that was all.

    Raises:
        ArchiveRefused: as `unpack` does, as far as it was read.
        OSError: it can't be read, or the folder can't be written.
    """
    try:
        _Trial(archive, folder, options, max_bytes).run()
    except _Enough:
        return False
    return True


class _Unpacking:
    """One archive's way to the disk."""

    def __init__(self, archive: Path, folder: Path, options: UnpackOptions) -> None:
        self._archive = archive
        self._folder = folder
        self._options = options
        self._archive_bytes = max(1, archive.stat().st_size)
        self._written_bytes = 0
        self._looked_at_bytes = 0
        self._names: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def run(self) -> None:
        claimed = claimed_bytes(self._archive)
        if claimed > self._options.max_bytes:
            raise self._too_large(claimed)
        self._check_disk(claimed)
        try:
            for member in read_members(self._archive):
                self._write(member)
            self._make_links()
        except OSError as error:
            if error.errno not in _ITS_NAMES:
                raise
            raise ArchiveRefused(f"{self._archive}: holds a name that can't be: {cause(error)}") from error
        self._sync()

    def _sync(self) -> None:
        for folder, _, _ in os.walk(self._folder):
            sync_folder(Path(folder))

    def _write(self, member: Member) -> None:
        path = self._path(member.name)
        if path is None:
            for _ in member.chunks:
                self._count(len(_))
            return
        if member.kind is Kind.FOLDER:
            (self._folder / path).mkdir(parents=True, exist_ok=True)
            self._note(path, again=True)
            return
        self._note(path)
        if member.kind is Kind.LINK:
            # Made when all files are written, so that none is written through a link.
            self._links[path] = member.link
        elif member.kind is Kind.FILE:
            self._write_file(self._folder / path, member.chunks)
        else:
            raise ArchiveRefused(
                f"{self._archive}: {quoted(member.name)} is a hard link, a device, a pipe or sparse; "
                f"only files, folders and links within the archive are taken"
            )

    def _write_file(self, path: Path, chunks: Iterator[bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for chunk in chunks:
                self._count(len(chunk))
                self._put(file, chunk)
            self._put_down(file)

    def _put(self, file: IO[bytes], chunk: bytes) -> None:
        file.write(chunk)

    def _put_down(self, file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())

    def _note(self, path: PurePosixPath, *, again: bool = False) -> None:
        if path in self._names and not again:
            raise ArchiveRefused(f"{self._archive}: holds {quoted(str(path))} twice")
        if path in self._links or any(parent in self._links for parent in path.parents):
            raise ArchiveRefused(f"{self._archive}: {quoted(str(path))} lies behind a link of the archive")
        self._names.add(path)
        if len(self._names) > self._options.max_entries:
            raise ArchiveRefused(f"{self._archive}: holds more than {self._options.max_entries} files and folders")

    def _count(self, size_bytes: int) -> None:
        """Before so many bytes are written."""
        written = self._written_bytes = self._written_bytes + size_bytes
        if written > self._options.max_bytes:
            raise self._too_large(written)
        ratio = self._options.max_ratio
        if written > self._options.ratio_from_bytes and written > ratio * self._archive_bytes:
            raise ArchiveRefused(
                f"{self._archive}: its {self._archive_bytes} bytes unpack to more than {ratio:.0f} times as many"
            )
        if written - self._looked_at_bytes > _FREE_BYTES:
            self._looked_at_bytes = written
            self._check_disk(_FREE_BYTES)

    def _make_links(self) -> None:
        for path, link in self._links.items():
            if not link or link.startswith("/") or "\0" in link:
                raise ArchiveRefused(
                    f"{self._archive}: the link {quoted(str(path))} leads to {quoted(link)}, out of the archive"
                )
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).symlink_to(link)
        root = self._folder.resolve()
        for path, link in self._links.items():
            # Where it leads through all other links, as the file system sees it.
            try:
                target = (self._folder / path).resolve(strict=True)
            except (OSError, RuntimeError) as error:
                raise ArchiveRefused(
                    f"{self._archive}: the link {quoted(str(path))} leads nowhere: {cause(error)}"
                ) from error
            if not target.is_relative_to(root):
                raise ArchiveRefused(
                    f"{self._archive}: the link {quoted(str(path))} leads to {quoted(link)}, out of the archive"
                )

    def _path(self, name: str) -> PurePosixPath | None:
        """Where a member may be written; None where it is to be passed over."""
        if name.startswith("/") or "\0" in name or "\\" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise ArchiveRefused(f"{self._archive}: {quoted(name)} is no relative path")
        path = PurePosixPath(name)
        if ".." in path.parts or len(path.parts) > _MAX_DEPTH:
            raise ArchiveRefused(f"{self._archive}: {quoted(name)} leads out of the archive, or too deep")
        if not path.parts or is_passed_over(path.parts[0]):
            return None
        return path

    def _check_disk(self, wanted_bytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < wanted_bytes + _FREE_BYTES:
            raise OSError(
                errno.ENOSPC,
                f"{free} bytes are free, {wanted_bytes} are needed for {self._archive} and {_FREE_BYTES} stay free",
                str(self._folder),
            )

    def _too_large(self, size_bytes: int) -> ArchiveRefused:
        bound = self._options.max_bytes
        return ArchiveRefused(f"{self._archive}: unpacks to {size_bytes} bytes or more; at most {bound} are allowed")


class _Enough(Exception):
    """As much was read as was to be."""


class _Trial(_Unpacking):
    """Names, links and sizes alone."""

    def __init__(self, archive: Path, folder: Path, options: UnpackOptions, max_bytes: int) -> None:
        super().__init__(archive, folder, options)
        self._left_bytes = max_bytes

    def _write(self, member: Member) -> None:
        self._take(_MEMBER_BYTES)
        super()._write(member)

    def _put(self, file: IO[bytes], chunk: bytes) -> None:
        file.seek(len(chunk), os.SEEK_CUR)

    def _put_down(self, file: IO[bytes]) -> None:
        file.truncate()

    def _count(self, size_bytes: int) -> None:
        super()._count(size_bytes)
        self._take(size_bytes)

    def _take(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise _Enough

    def _check_disk(self, wanted_bytes: int) -> None:
        """Nothing is written that takes much of it."""

    def _sync(self) -> None:
        """Nothing of it is to last."""


def sync_folder(folder: Path) -> None:
    """Has a folder's entries written to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
