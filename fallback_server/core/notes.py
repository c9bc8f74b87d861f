"""What stands in the hidden folder beside versions that came in archives: a note for each, and staging folders.

All who write in it hold a lock on it while they make or remove a staging folder, or move a version into or out of its
place, and another on their own staging folder for as long as they live: several servers may share a base path.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fallback_server.core.aspired import Fingerprint
from fallback_server.core.scan import ARCHIVE_SUFFIXES, archive_fingerprint
from fallback_server.core.unpacking import sync_folder

NOTES = ".unpacked"
"""Hidden, so that no source takes it for a version."""

_STAGING = "staging-"
_MAX_NOTE_BYTES = 16_384
"""It holds the archive's path, which may have 4096 bytes. A longer note is none: its version is unpacked anew."""

_FRESH_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What came out of an archive.

    Attributes:
        archive: The archive's name.
        size_bytes: Of the archive.
        mtime_ns: Of the archive.
        tree: The digest of what came out of it.
        origin: The archive's path.
        inode: Of the folder, which tells it from its copies; 0 where that is not known.
        beside: Whether the folder stands beside the archive.
    """

    archive: str
    size_bytes: int
    mtime_ns: int
    tree: str
    origin: str = ""
    inode: int = 0
    beside: bool = False

    @property
    def fingerprint(self) -> Fingerprint:
        """The archive's."""
        return archive_fingerprint(self.size_bytes, self.mtime_ns)

    def gone(self) -> Path | None:
        """The archive where that is gone; None where it is not, or where that can't be seen."""
        if not self.origin:
            return None
        archive = Path(self.origin)
        base_path = archive.parent
        seen = base_path.is_dir() or base_path.parent.is_dir()
        return archive if seen and not os.path.lexists(archive) else None


def note_path(folder: Path) -> Path:
    """Where the note of a version's folder is."""
    return folder.parent / NOTES / f"{folder.name}.json"


def read_note(folder: Path) -> Note | None:
    """The note of a version's folder. One that can't be read is none."""
    try:
        with note_path(folder).open("rb") as file:
            read = json.loads(file.read(_MAX_NOTE_BYTES))
        return Note(
            archive=str(read["archive"]),
            size_bytes=int(read["size_bytes"]),
            mtime_ns=int(read["mtime_ns"]),
            tree=str(read["tree"]),
            origin=str(read.get("origin", "")),
            inode=int(read.get("inode", 0)),
            beside=read.get("beside") is True,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def write_note(folder: Path, note: Note, staging: Path) -> None:
    """Puts a note in place of the one that may be there, whole and down to the disk."""
    staged, path = staging / "note", note_path(folder)
    with staged.open("wb") as file:
        file.write(json.dumps(asdict(note)).encode())
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock on a folder, against other threads and processes; it ends with the process if not before.

    Raises:
        BlockingIOError: another holds it, and it was not to be waited for.
        OSError: the folder is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging(notes: Path, *, wait: bool = True) -> Iterator[Path]:
    """A locked folder in the same file system as the versions; gone afterwards, and by another writer after a kill.

    Raises:
        BlockingIOError: another makes or removes one, and that was not to be waited for.
        OSError: the folder can't be written.
    """
    with contextlib.ExitStack() as held:
        with locked(notes, wait=wait):
            sweep(notes)
            # Until it is locked, another would take it for a leftover.
            folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=notes))
            held.enter_context(locked(folder))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def sweep(notes: Path) -> None:
    """Removes the staging folders that nobody holds, and the notes of versions that are gone. Under the lock on it."""
    for folder in notes.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError), locked(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    for note in notes.glob("*.json"):
        places = (note.stem, *(note.stem + suffix for suffix in ARCHIVE_SUFFIXES))
        gone = not any((notes.parent / place).exists() for place in places)
        with contextlib.suppress(OSError):
            # A fresh one may be of a version that is about to be moved into place.
            if gone and time.time() - note.stat().st_mtime > _FRESH_S:
                note.unlink()
