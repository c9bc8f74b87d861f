"""What stands on disk: the folders and archives of a base path, and everything in a version's tree."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fallback_server.core.aspired import Fingerprint
from fallback_server.core.completeness import (
    GRAPHS,
    HEADER_BYTES,
    INDEX,
    PACKAGE,
    has_no_variables,
    is_package,
    missing,
    missing_of_package,
    read_num_shards,
    restores,
)
from fallback_server.core.model_config import MAX_VERSION
from fallback_server.core.printable import name_fault

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.zst", ".zip")
"""What a version may come packed in."""

MAX_ENTRIES = 1_000_000
"""A version with more files and folders is not looked at to its end."""

MAX_LINKED = 10_000
"""A version with more files and folders behind links to folders is not looked at to its end."""

_READ_THROUGH_LINKS = ("variables/", "assets/", "assets.extra/")
"""What TensorFlow's loader reads, and what may therefore lie elsewhere. Other links to folders may lead anywhere."""

_UNFOLLOWED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
"""What is said of a link that leads nowhere, in a circle, or to where this process may not look."""

_CHUNK_BYTES = 1 << 20

_ARCHIVE = re.compile(r"([0-9]{1,19})(\.tar\.gz|\.tgz|\.tar\.zst|\.zip)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One version number of a base path.

    Attributes:
        folder: Named by the number; None where there is none.
        archive: Named by the number and one of `ARCHIVE_SUFFIXES`; None where there is none.
        others: Further folders and archives of the same number (`007` beside `7`), which are passed over.
    """

    folder: Path | None = None
    archive: Path | None = None
    others: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """What is in a version's folder.

    Attributes:
        fingerprint: Of everything in it.
        newest_s: The newest time of anything, in seconds since the epoch.
        files: Relative path -> size in bytes.
    """

    fingerprint: Fingerprint = field(repr=False)
    newest_s: float
    files: dict[str, int]

    @property
    def digest(self) -> str:
        """One number for the fingerprint, whatever the folder itself is called and when it was moved."""
        return tree_digest(self.fingerprint)


def tree_digest(fingerprint: Fingerprint) -> str:
    """SHA-256 over all but the folder's own entry, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, size, mtime_ns in fingerprint:
        if name != ".":
            digest.update(f"{os.fsencode(name).hex()} {size} {mtime_ns}\n".encode())
    return digest.hexdigest()


def read_versions(base_path: Path) -> dict[int, Entry]:
    """The versions of a base path: children that are named by a number, leading zeros allowed.

    Raises:
        OSError: the base path can't be read.
    """
    found: dict[int, Entry] = {}
    with os.scandir(base_path) as entries:
        children = sorted(entries, key=lambda entry: entry.name)
    for child in children:
        path = Path(child.path)
        if child.name.isascii() and child.name.isdigit() and _is(child, folder=True):
            number, kind = int(child.name), "folder"
        elif (match := _ARCHIVE.fullmatch(child.name)) and _is(child, folder=False):
            number, kind = int(match[1]), "archive"
        else:
            continue
        if number > MAX_VERSION:
            continue
        entry = found.get(number, Entry())
        if getattr(entry, kind) is not None:
            found[number] = Entry(folder=entry.folder, archive=entry.archive, others=(*entry.others, path))
        elif kind == "folder":
            found[number] = Entry(folder=path, archive=entry.archive, others=entry.others)
        else:
            found[number] = Entry(folder=entry.folder, archive=path, others=entry.others)
    return found


def read_folders(
    path: Path, *, pass_over: Callable[[Path, str], None] = lambda _path, _why: None
) -> Iterator[os.DirEntry[str]]:
    """The folders in a folder that are not hidden, and that a model can be called after.

    Args:
        path: The folder.
        pass_over: Told of those that no model can be called after, and why.

    Raises:
        OSError: it can't be read.
    """
    with os.scandir(path) as entries:
        folders = [entry for entry in entries if not entry.name.startswith(".") and _is(entry, folder=True)]
    for entry in folders:
        if fault := name_fault(entry.name):
            pass_over(Path(entry.path), f"its name {fault}")
        else:
            yield entry


def read_tree(path: Path) -> Tree:
    """Everything in a version's folder, as it is told by the file system: nothing is opened.

    The newest time is of mtime and ctime: a copy that keeps mtimes (`cp -p`, `rsync -t`) can't set ctimes back.

    Links to files are followed, and links to folders where TensorFlow's loader reads them, but for those that lead to a
    folder in which they lie. A link that can't be followed is no file: where it leads is part of the fingerprint.

    Raises:
        OSError: something can't be read, or is neither a file nor a folder.
    """
    return _TreeReading(path).run()


def read_archive(path: Path) -> tuple[Fingerprint, float]:
    """An archive's fingerprint, and its newest time in seconds since the epoch.

    Raises:
        OSError: it can't be read.
    """
    status = path.stat()
    newest_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    return archive_fingerprint(status.st_size, status.st_mtime_ns), newest_ns / 1e9


def archive_fingerprint(size_bytes: int, mtime_ns: int) -> Fingerprint:
    """That of an archive."""
    return ((".", size_bytes, mtime_ns),)


def read_lack(path: Path, tree: Tree, *, reads_variables: Callable[[Path], bool] | None = None) -> str | None:
    """What the version in a folder lacks; None where it is complete.

    Args:
        path: The version's folder.
        tree: What is in it.
        reads_variables: Whether the graph in a folder does; by default that is read.

    Raises:
        OSError: it can't be read.
    """
    if is_package(tree.files):
        return _package_lack(path, tree)
    needed = has_no_variables(tree.files) and (reads_variables or read_restores)(path)
    return missing(tree.files, read_num_shards(_read_index_head(path)), restores=needed)


def _package_lack(path: Path, tree: Tree) -> str | None:
    from converter.artifact.errors import PackageError  # noqa: PLC0415  most versions are no packages
    from converter.artifact.schema import MAX_MANIFEST_BYTES, decode  # noqa: PLC0415  likewise

    with (path / PACKAGE).open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES)
    try:
        listed = {name: entry.size_bytes for name, entry in decode(content).files.items()}
    except PackageError as error:
        return f"{PACKAGE} can't be read: {error}"
    return missing_of_package(tree.files, listed)


def read_restores(path: Path) -> bool:
    """Whether the graph in a folder reads variables. Reads it through, where it does not: 2 GiB at most.

    Raises:
        OSError: it can't be read.
    """
    for name in GRAPHS:
        try:
            with (path / name).open("rb") as file:
                return restores(name, iter(functools.partial(file.read, _CHUNK_BYTES), b""))
        except FileNotFoundError:
            continue
    return False


def _read_index_head(path: Path) -> bytes:
    """The first bytes of a version's index of variables; empty where there is none."""
    try:
        with (path / INDEX).open("rb") as file:
            return file.read(HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:  # A link in a circle, or to where this process may not look: it alone is passed over.
        return False


@dataclass(frozen=True, slots=True)
class _Folder:
    """One that is to be read.

    Attributes:
        path: Where it is.
        prefix: What the names in it have before them, seen from the version's folder.
        above: The identities of it and of all that it lies in, as it was reached.
        linked: Whether it was reached through a link.
    """

    path: str
    prefix: str
    above: frozenset[tuple[int, int]]
    linked: bool


class _TreeReading:
    """One version's tree, on the way through it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        status = path.stat()
        self._items = [(".", 0, status.st_mtime_ns)]
        self._sizes: dict[str, int] = {}
        self._newest_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        self._linked = 0
        self._waiting = [_Folder(os.fspath(path), "", frozenset({_identity(status)}), linked=False)]

    def run(self) -> Tree:
        while self._waiting:
            folder = self._waiting.pop()
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    self._read(folder, entry)
            if len(self._items) > MAX_ENTRIES:
                raise OSError(errno.E2BIG, f"more than {MAX_ENTRIES} files and folders", str(self._path))
        return Tree(
            fingerprint=tuple(sorted(self._items)),
            newest_s=self._newest_ns / 1e9,
            files=dict(sorted(self._sizes.items())),
        )

    def _read(self, folder: _Folder, entry: os.DirEntry[str]) -> None:
        relative = folder.prefix + entry.name
        self._linked += folder.linked
        if self._linked > MAX_LINKED:
            raise OSError(errno.E2BIG, f"more than {MAX_LINKED} files and folders behind links", entry.path)
        try:
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink() or error.errno not in _UNFOLLOWED:
                raise
            self._add(f"{relative} -> {Path(entry.path).readlink()}", 0, entry.stat(follow_symlinks=False))
            return
        if stat.S_ISREG(status.st_mode):
            self._sizes[relative] = status.st_size
            self._add(relative, status.st_size, status)
        elif stat.S_ISDIR(status.st_mode):
            # A folder's size is the file system's own affair.
            self._add(relative, 0, status)
            self._enter(folder, entry, relative, status)
        else:
            # To open a pipe waits for its writer, for ever, and with it the thread that loads.
            raise OSError(errno.EINVAL, "neither a file nor a folder", entry.path)

    def _enter(self, folder: _Folder, entry: os.DirEntry[str], relative: str, status: os.stat_result) -> None:
        identity, is_link = _identity(status), entry.is_symlink()
        if is_link and (
            not f"{relative}/".startswith(_READ_THROUGH_LINKS) or identity in folder.above or self._is_above(identity)
        ):
            return
        above = folder.above | {identity}
        self._waiting.append(_Folder(entry.path, f"{relative}/", above, linked=folder.linked or is_link))

    def _is_above(self, identity: tuple[int, int]) -> bool:
        return any(_identity(each.stat()) == identity for each in self._path.resolve().parents)

    def _add(self, name: str, size: int, status: os.stat_result) -> None:
        self._items.append((name, size, status.st_mtime_ns))
        self._newest_ns = max(self._newest_ns, status.st_mtime_ns, status.st_ctime_ns)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
