"""Puts versions in place that come in archives: whole, verified, and at one instant.

Beside the versions of a base path stands `.unpacked/`. It holds a staging folder while an archive is unpacked, and a
note for each version that came out of one: which archive, and what the tree looked like. A version's folder appears by
one rename, after its note, so that at whatever point the process is killed there is no half version: without the folder
the archive is unpacked anew, and staging folders of writers that are gone are removed.

The archive is the version. What was unpacked from it, and that nobody has changed or copied there, goes with it once
nobody has it loaded (see `Unpacker.tidy`), and comes again where it alone is gone (see `Unpacker.restore`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from fallback_server.core.aspired import AspiredVersion, Fingerprint
from fallback_server.core.completeness import GRAPHS, missing
from fallback_server.core.errors import ArchiveRefused, LoadFailed
from fallback_server.core.notes import NOTES, Note, locked, note_path, read_note, staging, sweep, write_note
from fallback_server.core.printable import quoted
from fallback_server.core.scan import Tree, read_archive, read_lack, read_tree
from fallback_server.core.servable import ServableId
from fallback_server.core.unpacking import UnpackOptions, is_passed_over, sync_folder, try_unpacking, unpack

_log = logging.getLogger(__name__)

_PACKAGE = ("manifest.json", "manifest.sha256")
"""What tells a package of the converter's, whose digests can be verified."""

_SHOWN = 3
_NONE: Mapping[ServableId, Path] = MappingProxyType({})


class Unpacker:
    """Unpacks archives beside them, or in a folder of its own. Thread-safe.

    Args:
        unpack_dir: Holds MODEL/VERSION for archives whose base path can't be written; None unpacks beside them.
        options: What an archive may unpack to.
    """

    def __init__(self, *, unpack_dir: Path | None = None, options: UnpackOptions | None = None) -> None:
        self._unpack_dir = unpack_dir
        self._options = options or UnpackOptions()
        self._swept: set[Path] = set()
        self._told: set[Path] = set()
        self._changed = threading.Condition()
        self._busy: set[Path] = set()
        self._restoring: threading.Thread | None = None
        self._lost: dict[Path, Fingerprint] = {}

    def folder(self, model: str, archive: Path, version: int) -> Path:
        """See `Packed`."""
        if self._unpack_dir is None:
            return archive.parent / str(version)
        return _place(self._unpack_dir, model, version)

    def origin(self, folder: Path) -> tuple[Fingerprint, str] | None:
        """See `Packed`. A note that can't be read is none."""
        note = read_note(folder)
        return None if note is None else (note.fingerprint, note.tree)

    def is_withdrawn(self, folder: Path) -> bool:
        """See `Packed`."""
        note = read_note(folder)
        if note is None or not note.beside or os.path.lexists(folder.parent / note.archive):
            return False
        try:
            return _is_as_unpacked(folder, note)
        except OSError:
            return False

    def prepare(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """Has a version stand at its path, unpacked if need be. In a load thread; may take minutes.

        Raises:
            ArchiveRefused: the archive is damaged, unsafe, or holds no such version.
            LoadFailed: the archive is being changed, or the version's folder is taken.
            OSError: the disk is full, or the folder can't be written.
        """
        if version.archive is not None:
            with self._alone(version.path):
                self._prepare(servable_id, version, version.archive)

    def _prepare(self, servable_id: ServableId, version: AspiredVersion, archive: Path) -> None:
        folder = version.path
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
        with staging(notes) as staged:
            self._unpack(servable_id, version, archive, staged)

    def tidy(self, in_use: Collection[ServableId], withdrawn: Mapping[ServableId, Path] = _NONE) -> None:
        """Deletes what was unpacked and whose archive is gone; in a folder of its own, also that of former runs.

        Never what is in use, nor what somebody has changed by hand since; and only where the archive can be seen to be
        gone: a base path that is not there, with the folder above it, is taken for a share that is not mounted. To be
        called by the thread that says which versions are wanted, so that none of them becomes wanted meanwhile.

        Args:
            in_use: What is wanted, or loaded, or being loaded or unloaded.
            withdrawn: Folders beside which the archives are gone; see `is_withdrawn`.
        """
        for servable_id, folder in withdrawn.items():
            if servable_id not in in_use and folder not in self._told:
                self._tidy(folder)
        if self._unpack_dir is None:
            return
        used = {_place(self._unpack_dir, each.name, each.version) for each in in_use}
        for notes in sorted(self._unpack_dir.glob(f"*/{NOTES}")):
            if notes not in self._swept:
                with contextlib.suppress(OSError), locked(notes, wait=False):
                    sweep(notes)
                    self._swept.add(notes)
            for path in sorted(notes.glob("*.json")):
                folder = notes.parent / path.stem
                if folder not in used and folder not in self._told:
                    self._tidy(folder)

    def restore(self, versions: Mapping[ServableId, AspiredVersion]) -> None:
        """Has versions unpacked again that had been, and whose folders are gone. In a thread, one after the other.

        Returns at once. What has never been unpacked is left to its load; what fails is told of, and left to the next.

        Args:
            versions: What is wanted.
        """
        self._lost = {path: lost for path, lost in self._lost.items() if not os.path.lexists(path)}
        if self._restoring is not None and self._restoring.is_alive():
            return
        for servable_id, version in versions.items():
            path = version.path
            if os.path.lexists(path) or self._lost.get(path) == version.fingerprint or not _was_unpacked(version):
                continue
            with self._changed:
                if path in self._busy:
                    continue
            job = functools.partial(self._restore, servable_id, version)
            self._restoring = threading.Thread(target=job, name=f"restore-{servable_id.version}", daemon=True)
            self._restoring.start()
            return

    def _restore(self, servable_id: ServableId, version: AspiredVersion) -> None:
        """In a thread of its own."""
        try:
            self.prepare(servable_id, version)
        except Exception as error:  # noqa: BLE001  what is loaded is loaded: the next load tells of it in its state
            self._lost[version.path] = version.fingerprint
            _log.warning("%s is gone, and %s can't be unpacked again: %s", version.path, version.archive, error)

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Waits until nobody else puts this folder in place."""
        with self._changed:
            self._changed.wait_for(lambda: folder not in self._busy)
            self._busy.add(folder)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(folder)
                self._changed.notify_all()

    def _tidy(self, folder: Path) -> None:
        """Deletes one version and its note, or its note where that is left alone. Waits for nobody."""
        note = read_note(folder)
        if note is None:
            return
        archive = note.gone() if not note.beside else folder.parent / note.archive
        try:
            if archive is None or os.path.lexists(archive):
                return
            if not folder.is_dir():
                note_path(folder).unlink()
                return
            if not _is_as_unpacked(folder, note):
                self._told.add(folder)
                _log.warning("%s stays: it was changed since it was unpacked from %s, which is gone", folder, archive)
                return
            with staging(folder.parent / NOTES, wait=False) as staged, locked(folder.parent / NOTES, wait=False):
                # At one instant: whoever is killed from here on leaves a staging folder, and no half version.
                folder.rename(staged / "removed")
                note_path(folder).unlink()
            _log.info("%s was deleted: %s is gone", folder, archive)
        except BlockingIOError:
            _log.debug("%s is deleted later: another is at work beside it", folder)
        except OSError as error:
            self._told.add(folder)
            _log.warning("%s can't be deleted, and stays: %s", folder, error)

    def _unpack(self, servable_id: ServableId, version: AspiredVersion, archive: Path, staged: Path) -> None:
        tree, folder = staged / "tree", version.path
        tree.mkdir()
        unpack(archive, tree, self._options)
        root = _root(servable_id, archive, tree)
        _verify(archive, root)
        fingerprint = _read_again(archive)
        if fingerprint != version.fingerprint:
            raise LoadFailed(f"{archive} changed while it was unpacked")
        ((_, size_bytes, mtime_ns),) = fingerprint
        note = Note(
            archive=archive.name,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            tree=read_tree(root).digest,
            origin=str(archive.absolute()),
            inode=root.stat().st_ino,
            beside=archive.parent == folder.parent,
        )
        with locked(folder.parent / NOTES):
            if folder.is_dir():
                before = read_note(folder)
                if before is None or before.tree != read_tree(folder).digest:
                    raise LoadFailed(f"{folder} appeared while {archive} was unpacked")
                # It came from an earlier archive, and nothing of it was changed since.
                folder.rename(staged / "replaced")
            write_note(folder, note, staged)
            try:
                root.rename(folder)
            except OSError as error:
                if not folder.is_dir():
                    raise
                raise LoadFailed(f"{folder} appeared while {archive} was unpacked: {error}") from error
            sync_folder(folder.parent)
        _log.info("%s was unpacked from %s", servable_id, archive)


def check(servable_id: ServableId, archive: Path, folder: Path, options: UnpackOptions, *, max_bytes: int) -> None:
    """Whether an archive holds a version that may be unpacked, as far as its beginning and its files' names tell.

    Args:
        servable_id: The version.
        archive: The archive.
        folder: Is empty, and stays small: gets the files without their content.
        options: What it may unpack to.
        max_bytes: How much of it is read.

    Raises:
        ArchiveRefused: it does not.
        OSError: it can't be read, or the folder can't be written.
    """
    if try_unpacking(archive, folder, options, max_bytes=max_bytes):
        root = _root(servable_id, archive, folder)
        tree = read_tree(root)
        if lack := missing(tree.files, num_shards=None):
            raise _lacking(archive, root, tree, lack)


def _root(servable_id: ServableId, archive: Path, tree: Path) -> Path:
    """The version's own folder in what was unpacked: the top, or the only folder in it where that is named for it."""
    name, version = servable_id.name, servable_id.version
    root = tree
    for _ in range(2):
        inside = _inside(root)
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            break
        top = inside[0].name
        if top not in (name, f"{name}-{version}") and not (top.isascii() and top.isdigit() and int(top) == version):
            raise ArchiveRefused(
                f"{archive}: holds a folder {quoted(top)}; the version's files, or a folder called {version}, {name} "
                f"or {name}-{version}, are expected"
            )
        root = inside[0]
    return root


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_passed_over(path.name))


def _verify(archive: Path, root: Path) -> None:
    tree = read_tree(root)
    if all(name in tree.files for name in _PACKAGE):
        from converter.artifact import Package, PackageError  # noqa: PLC0415  most archives are no packages

        try:
            Package.open(root)
        except PackageError as error:
            raise ArchiveRefused(f"{archive}: {error}") from error
    if lack := read_lack(root, tree):
        raise _lacking(archive, root, tree, lack)


def _lacking(archive: Path, root: Path, tree: Tree, lack: str) -> ArchiveRefused:
    inside = [] if any(name in tree.files for name in GRAPHS) else [quoted(path.name) for path in _inside(root)]
    more = ", ..." if len(inside) > _SHOWN else ""
    found = f"; beside each other are {', '.join(inside[:_SHOWN])}{more}" if len(inside) > 1 else ""
    return ArchiveRefused(f"{archive}: {lack}{found}")


def _place(unpack_dir: Path, model: str, version: int) -> Path:
    # A name that begins with a dot would be hidden, or another folder altogether.
    return unpack_dir / (f"_{model}" if model.startswith((".", "_")) else model) / str(version)


def _is_as_unpacked(folder: Path, note: Note) -> bool:
    """Whether a folder is the very one that a note tells of: nobody's copy, with nothing changed in it."""
    return folder.stat().st_ino == note.inode and read_tree(folder).digest == note.tree


def _was_unpacked(version: AspiredVersion) -> bool:
    note = read_note(version.path)
    return note is not None and note.fingerprint == version.fingerprint


def _read_again(archive: Path) -> Fingerprint:
    try:
        fingerprint, _ = read_archive(archive)
    except FileNotFoundError as error:
        raise LoadFailed(f"{archive} was taken away while it was unpacked") from error
    return fingerprint
