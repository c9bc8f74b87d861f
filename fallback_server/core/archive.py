"""Puts versions in place that come in archives: whole, verified, and at one instant.

Beside the versions of a base path stands `.unpacked/`. It holds a staging folder while an archive is unpacked, and a
note for each version that came out of one: which archive, and what the tree looked like. A version's folder appears by
one rename, after its note, so that at whatever point the process is killed there is no half version: without the folder
the archive is unpacked anew, and staging folders of writers that are gone are removed.

What was unpacked beside its archive belongs to the base path from then on. What was unpacked into a folder of the
server's own is deleted once its archive is gone and nobody has it loaded: see `Unpacker.tidy`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fallback_server.core.aspired import AspiredVersion, Fingerprint
from fallback_server.core.errors import ArchiveRefused, LoadFailed
from fallback_server.core.scan import ARCHIVE_SUFFIXES, read_archive, read_lack, read_tree
from fallback_server.core.servable import ServableId
from fallback_server.core.unpacking import UnpackOptions, sync_folder, unpack

_log = logging.getLogger(__name__)

NOTES = ".unpacked"
"""Hidden, so that no source takes it for a version."""

_STAGING = "staging-"
_MAX_NOTE_BYTES = 16_384
"""It holds the archive's path, which may have 4096 bytes. A longer note is none: its version is unpacked anew."""

_FRESH_S = 600.0
_PACKAGE = ("manifest.json", "manifest.sha256")
"""What tells a package of the converter's, whose digests can be verified."""


_making = threading.Lock()
"""Held while a staging folder is made and not locked yet: another thread would take it for a leftover."""


class Unpacker:
    """Unpacks archives beside them, or in a folder of its own. Thread-safe for different versions.

    Args:
        unpack_dir: Holds MODEL/VERSION for archives whose base path can't be written; None unpacks beside them.
        options: What an archive may unpack to.
    """

    def __init__(self, *, unpack_dir: Path | None = None, options: UnpackOptions | None = None) -> None:
        self._unpack_dir = unpack_dir
        self._options = options or UnpackOptions()
        self._swept: set[Path] = set()
        self._told: set[Path] = set()

    def folder(self, model: str, archive: Path, version: int) -> Path:
        """See `Packed`."""
        if self._unpack_dir is None:
            return archive.parent / str(version)
        return _place(self._unpack_dir, model, version)

    def origin(self, folder: Path) -> tuple[Fingerprint, str] | None:
        """See `Packed`. A note that can't be read is none."""
        try:
            note = _read_note(_note_path(folder))
            fingerprint = ((str(note["archive"]), int(note["size_bytes"]), int(note["mtime_ns"])),)
            return fingerprint, str(note["tree"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def prepare(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """Has a version stand at its path, unpacked if need be. In a load thread; may take minutes.

        Raises:
            ArchiveRefused: the archive is damaged, unsafe, or holds no such version.
            LoadFailed: the archive is being changed, or the version's folder is taken.
            OSError: the disk is full, or the folder can't be written.
        """
        archive, folder = version.archive, version.path
        if archive is None:
            return
        if folder.is_dir():
            origin = self.origin(folder)
            if origin is None or origin[1] != read_tree(folder).digest or origin[0] == version.fingerprint:
                # Somebody's own, or what is wanted.
                return
        if not archive.exists():
            raise LoadFailed(f"{archive} is gone")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            notes = folder.parent / NOTES
            notes.mkdir(exist_ok=True)
        except OSError as error:
            if self._unpack_dir is None:
                raise LoadFailed(
                    f"{archive} can't be unpacked beside it: {error}; give --unpack_dir=DIR to unpack it elsewhere"
                ) from error
            raise
        with _staging(notes) as staging:
            self._unpack(servable_id, version, archive, staging)

    def tidy(self, in_use: Collection[ServableId]) -> None:
        """Deletes what was unpacked into a folder of its own and whose archive is gone, also that of former runs.

        Never what is in use, nor what somebody has changed by hand since; and only where the archive can be seen to be
        gone: a base path that is not there, with the folder above it, is taken for a share that is not mounted. To be
        called by the thread that says which versions are wanted, so that none of them becomes wanted meanwhile.

        Args:
            in_use: What is wanted, or loaded, or being loaded or unloaded.
        """
        if self._unpack_dir is None:
            return
        used = {_place(self._unpack_dir, each.name, each.version) for each in in_use}
        for notes in sorted(self._unpack_dir.glob(f"*/{NOTES}")):
            if notes not in self._swept:
                self._swept.add(notes)
                _sweep(notes)
            for note in sorted(notes.glob("*.json")):
                folder = notes.parent / note.stem
                if folder not in used and folder not in self._told:
                    self._tidy(folder, note)

    def _tidy(self, folder: Path, note: Path) -> None:
        try:
            archive = _gone(note)
            if archive is None:
                return
            if folder.is_dir():
                origin = self.origin(folder)
                if origin is None or origin[1] != read_tree(folder).digest:
                    self._told.add(folder)
                    _log.warning(
                        "%s stays: it was changed since it was unpacked from %s, which is gone", folder, archive
                    )
                    return
                with _staging(note.parent) as staging:
                    # At one instant: whoever is killed from here on leaves a staging folder, and no half version.
                    folder.rename(staging / "removed")
                    note.unlink()
                _log.info("%s was deleted: %s is gone", folder, archive)
            else:
                note.unlink()
        except OSError as error:
            self._told.add(folder)
            _log.warning("%s can't be deleted, and stays: %s", folder, error)

    def _unpack(self, servable_id: ServableId, version: AspiredVersion, archive: Path, staging: Path) -> None:
        tree = staging / "tree"
        tree.mkdir()
        unpack(archive, tree, self._options)
        root = _root(servable_id, archive, tree)
        _verify(archive, root)
        fingerprint, _ = read_archive(archive)
        if fingerprint != version.fingerprint:
            raise LoadFailed(f"{archive} changed while it was unpacked")
        ((name, size_bytes, mtime_ns),) = fingerprint
        note = {
            "archive": name,
            "size_bytes": size_bytes,
            "mtime_ns": mtime_ns,
            "tree": read_tree(root).digest,
            "from": str(archive.absolute()),
        }
        folder = version.path
        if folder.is_dir():
            # It came from an earlier archive, and nothing of it was changed since.
            folder.rename(staging / "replaced")
        _write_note(_note_path(folder), staging / "note", json.dumps(note).encode())
        try:
            root.rename(folder)
        except OSError as error:
            if self.origin(folder) is None or not folder.is_dir():
                raise
            raise LoadFailed(f"{folder} appeared while {archive} was unpacked: {error}") from error
        sync_folder(folder.parent)
        _log.info("%s was unpacked from %s", servable_id, archive)


def _root(servable_id: ServableId, archive: Path, tree: Path) -> Path:
    """The version's own folder in what was unpacked: the top, or the only folder in it where that is named for it."""
    name, version = servable_id.name, servable_id.version
    root = tree
    for _ in range(2):
        inside = list(root.iterdir())
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            break
        top = inside[0].name
        if top not in (name, f"{name}-{version}") and not (top.isascii() and top.isdigit() and int(top) == version):
            raise ArchiveRefused(
                f"{archive}: holds a folder {top!r}; the version's files, or a folder called {version}, {name} or "
                f"{name}-{version}, are expected"
            )
        root = inside[0]
    return root


def _verify(archive: Path, root: Path) -> None:
    tree = read_tree(root)
    if all(name in tree.files for name in _PACKAGE):
        from converter.artifact import Package, PackageError  # noqa: PLC0415  most archives are no packages

        try:
            Package.open(root)
        except PackageError as error:
            raise ArchiveRefused(f"{archive}: {error}") from error
    if lack := read_lack(root, tree):
        raise ArchiveRefused(f"{archive}: {lack}")


def _place(unpack_dir: Path, model: str, version: int) -> Path:
    # A name that begins with a dot would be hidden, or another folder altogether.
    return unpack_dir / (f"_{model}" if model.startswith((".", "_")) else model) / str(version)


def _note_path(folder: Path) -> Path:
    return folder.parent / NOTES / f"{folder.name}.json"


def _read_note(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        note: dict[str, Any] = json.loads(file.read(_MAX_NOTE_BYTES))
    return note


def _gone(note: Path) -> Path | None:
    """The archive that a note tells of, where that is gone; None where it is not, or where that can't be seen."""
    try:
        archive = Path(str(_read_note(note)["from"]))
    except (ValueError, TypeError, KeyError):
        return None
    base_path = archive.parent
    seen = base_path.is_dir() or base_path.parent.is_dir()
    return archive if seen and not archive.exists() else None


def _write_note(path: Path, staged: Path, data: bytes) -> None:
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _staging(notes: Path) -> Iterator[Path]:
    """A locked folder in the same file system as the versions; gone afterwards, and by another writer after a kill."""
    _sweep(notes)
    with _making:
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=notes))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(notes: Path) -> None:
    """Removes the staging folders that nobody holds, and the notes of versions that are gone."""
    for folder in notes.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError), _making:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
    for note in notes.glob("*.json"):
        places = (note.stem, *(note.stem + suffix for suffix in ARCHIVE_SUFFIXES))
        gone = not any((notes.parent / place).exists() for place in places)
        with contextlib.suppress(OSError):
            # A fresh one may be of a version that is about to be moved into place.
            if gone and time.time() - note.stat().st_mtime > _FRESH_S:
                note.unlink()
