"""XNNPACK's packed weights, kept between starts.

XNNPACK lays a model's weights out anew for the CPU that it runs on, in memory of each engine's own. Out of a file,
engines of a model share one copy of them, which the system may drop and read again.

XNNPACK believes such a file: bytes that have changed give wrong answers, and a disk that is full while the file is
written aborts the process (both seen with LiteRT 2.3). So it never writes into the folder. It packs into memory; what
it packed is written beside its place and renamed; and the file's name says the checksum that it must have.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)

MAX_TOTAL_BYTES = 256 * 2**20
"""Of a folder. A MobileNetV2 in float32 takes 14 MB; all that a small board runs fits in."""

_SUFFIX = ".xnnpack"
_CHUNK_BYTES = 2**20
_CPU_LINES = ("flags", "Features", "CPU implementer", "CPU part", "model name")
"""Of /proc/cpuinfo: what the layout of packed weights depends on, on x86 and on ARM."""


class Kept(NamedTuple):
    """One file of the folder, as a snapshot.

    Attributes:
        name: Its name.
        size_bytes: Its size.
        used_s: When it was last used, on the file system's clock.
    """

    name: str
    size_bytes: int
    used_s: float


def superfluous(kept: Sequence[Kept], max_total_bytes: int) -> list[str]:
    """What must go so that the rest fits: those used longest ago, never the last that was used."""
    total = sum(one.size_bytes for one in kept)
    gone = []
    for one in sorted(kept, key=lambda one: (one.used_s, one.name))[:-1]:
        if total <= max_total_bytes:
            break
        gone.append(one.name)
        total -= one.size_bytes
    return gone


class WeightCache:
    """A folder of packed weights. Processes may share it; nothing in it is ever changed, only added and deleted."""

    def __init__(self, folder: Path, library_version: str, max_total_bytes: int = MAX_TOTAL_BYTES) -> None:
        """Takes the folder, which is made when the first file is kept.

        Args:
            folder: Where; nobody else may read or write it.
            library_version: Of the interpreter library; another one packs anew.
            max_total_bytes: What the folder may hold.
        """
        self._folder = folder
        self._version = library_version
        self._max_total_bytes = max_total_bytes

    def open(self, content: bytes) -> int | None:
        """Opens the packed weights of a file, checked; None if there are none. Files that are damaged are deleted.

        Args:
            content: The TFLite file.

        Returns:
            A file descriptor, to be closed by the caller: whatever happens to the folder, it stays what was checked.
        """
        key = self._key(content)
        for path in sorted(self._folder.glob(f"{key}-*{_SUFFIX}")):
            try:
                opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                _log.warning("packed weights %s can't be read: %s", path, error)
                continue
            if self._is_whole(path, opened, key):
                return opened
            os.close(opened)
            _log.warning("packed weights %s are damaged, and are made again", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return None

    def keep(self, content: bytes, packed: int) -> None:
        """Writes what was packed for a file into the folder, where every process finds it from now on.

        Args:
            content: The TFLite file.
            packed: A file descriptor of the packed weights; its position is not used.

        Raises:
            OSError: they can't be written, because the disk is full, for example.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._folder / f".{secrets.token_hex(8)}.partial"
        try:
            size_bytes, checksum = _copied(packed, partial)
            partial.rename(self._folder / _name(self._key(content), size_bytes, checksum))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._trim()

    @staticmethod
    def _is_whole(path: Path, opened: int, key: str) -> bool:
        """Whether it is what its name says; its use is noted if so."""
        try:
            if path.name != _name(key, *_measured(opened)):
                return False
        except OSError:
            return False
        with contextlib.suppress(OSError):  # a folder that can't be written serves as well
            os.utime(opened)
        return True

    def _key(self, content: bytes) -> str:
        digest = hashlib.sha256(content)
        digest.update(f"\0{self._version}\0{_cpu()}".encode())
        return digest.hexdigest()

    def _trim(self) -> None:
        """Deletes what is too much. A process that still uses such a file keeps what it has mapped."""
        kept = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                kept.append(Kept(path.name, status.st_size, status.st_mtime))
        for name in superfluous(kept, self._max_total_bytes):
            (self._folder / name).unlink(missing_ok=True)


def may_pack() -> bool:
    """Whether weights can be packed into memory here: XNNPACK aborts where the process may write no large files."""
    import resource  # noqa: PLC0415  for the worker processes of large models only

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY and hasattr(os, "memfd_create")


def _name(key: str, size_bytes: int, checksum: int) -> str:
    return f"{key}-{size_bytes}-{checksum:08x}{_SUFFIX}"


def _measured(opened: int) -> tuple[int, int]:
    """The size and the CRC-32 of a file: it guards against damage, the folder's mode against malice."""
    size_bytes = checksum = 0
    while chunk := os.pread(opened, _CHUNK_BYTES, size_bytes):
        size_bytes += len(chunk)
        checksum = zlib.crc32(chunk, checksum)
    return size_bytes, checksum


def _copied(packed: int, partial: Path) -> tuple[int, int]:
    """Writes the packed weights to a new file that reaches the disk before this returns; its size and CRC-32."""
    size_bytes = checksum = 0
    # Nobody may write to it: XNNPACK would, in place, if it came to think that it must be packed again.
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:  # noqa: PTH123  a descriptor
        while chunk := os.pread(packed, _CHUNK_BYTES, size_bytes):
            file.write(chunk)
            size_bytes += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
        file.flush()
        os.fsync(file.fileno())
    return size_bytes, checksum


def _cpu() -> str:
    """What of this CPU decides how weights are packed: a card may be moved to another board."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123  read in part
        for line in file:
            name = line.partition(":")[0].strip()
            if name in _CPU_LINES:
                lines.append(line.strip())
    return "\n".join([platform.machine(), *sorted(set(lines))])
