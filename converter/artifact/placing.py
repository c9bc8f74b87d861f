"""Renames that are done all together or not at all, whenever the process ends.

Whoever writes does so in a staging folder beside the target, under a lock on it. The last step is a few renames under a
lock on the folder that holds both; a journal in the staging folder says which. Where one of them fails, or the process
is interrupted, all is put back at once; where the process is killed, by the next writer, who settles and removes the
staging folders of writers that are gone. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.artifact.digest import READ_BYTES, nothing
from converter.artifact.errors import ManifestInvalid
from converter.artifact.schema import MANIFEST_DIGEST, check_path

STAGING_PREFIX = ".staging-"

TREE = "tree"
"""Where a staging folder has the tree that is to be moved; what it takes the place of comes here by the exchange."""

BESIDE = "beside"
"""Where it has the files that are moved with the tree, by the names that they will have."""

_REPLACED_TREE = "replaced-tree"
_REPLACED = "replaced"
_JOURNAL = "moves.json"
_JOURNAL_ASIDE = ".moves.json.new"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class _Moves(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to be moved.

    Attributes:
        target: Where the tree goes, a path below the folder.
        digest: The text of the tree's `manifest.sha256`.
        before: That of what is at the target; None where nothing is, empty where it can't be read.
        beside: Names in the folder that are written or removed with it, and whether something is there.
    """

    target: str
    digest: str
    before: str | None
    beside: dict[str, bool]


@contextlib.contextmanager
def locked(root: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the exclusive lock on a directory, which ends with the process if not before; False if it is held."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A folder beside the target, so that the last step is a rename in one file system. It is gone afterwards."""
    with contextlib.ExitStack() as held:
        with locked(root):
            sweep(root)
            folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=root))
            held.callback(_remove, folder)
            held.enter_context(locked(folder))
        yield folder


def sweep(root: Path) -> None:
    """Settles and removes staging folders whose writers are gone; the caller holds the lock on `root`.

    A living writer holds the lock on its folder. What a killed one had put aside comes back where its moves were not
    all done.
    """
    for folder in root.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError), locked(folder, wait=False) as abandoned:
            if abandoned:
                _settle(root, folder)
                _remove(folder)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a staged tree goes.

    Attributes:
        root: The folder that holds all targets.
        folder: The staging folder, in `root`.
        target: Where the tree goes; the folder above it is there.
        beside: Names in `root`, or paths below it in folders that are there: of staged files, and of files that go
            away, which are those that were not staged.
    """

    root: Path
    folder: Path
    target: Path
    beside: tuple[str, ...] = ()


@contextlib.contextmanager
def moved(*places: Place) -> Iterator[None]:
    """Has the staged trees in place, and the staged files beside them, while the body runs and from then on.

    The caller holds the locks on the roots and has swept them. At each place the files are moved first, the tree last;
    it takes the place of another one in a single step where the system can exchange two names (Linux, most file
    systems), and else by two renames. If a move or the body fails or is interrupted, everything is as it was before.
    """
    with contextlib.ExitStack() as undoing:
        for place in places:
            moves = _write_journal(place)
            undoing.callback(_take_back, place.root, place.folder, moves)
            for name in moves.beside:
                _move_file(place.root, place.folder, name)
            _move_tree(place.folder, place.target)
        yield
        undoing.pop_all()
    for place in places:
        (place.folder / _JOURNAL).unlink()


def link(source: Path, target: Path, may_end: Callable[[], None] = nothing) -> bool:
    """Gives a file a second name, or copies it where the file system has no such thing; whether it did the first.

    Raises:
        OSError: the target is there, or what a copy says.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise  # A copy would be written over what is there, which may be another name of the source.
    except OSError:
        copy(source, target, may_end)
        return False
    return True


def copy(source: Path, target: Path, may_end: Callable[[], None]) -> None:
    """Copies the bytes of a plain file, and a link as one. What `may_end` raises, many times a second, ends it.

    Raises:
        OSError: it can't be read or written, or is no file.
    """
    if not stat.S_ISREG(source.lstat().st_mode):
        shutil.copyfile(source, target, follow_symlinks=False)
        return
    with source.open("rb") as whence, target.open("wb") as whither:
        may_end()
        while data := whence.read(READ_BYTES):
            whither.write(data)
            may_end()


def sync_directory(path: Path) -> None:
    """Has the names in a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_journal(place: Place) -> _Moves:
    root, folder = place.root, place.folder
    present = {name for name in place.beside if os.path.lexists(root / name)}
    names = [name for name in place.beside if name in present or (folder / BESIDE / name).exists()]
    moves = _Moves(
        target=place.target.relative_to(root).as_posix(),
        digest=_digest(folder / TREE),
        before=_digest(place.target) if os.path.lexists(place.target) else None,
        beside={name: name in present for name in names},
    )
    aside = folder / _JOURNAL_ASIDE
    with aside.open("xb") as file:
        file.write(msgspec.json.encode(moves))
        file.flush()
        os.fsync(file.fileno())
    aside.rename(folder / _JOURNAL)
    sync_directory(folder)
    return moves


def _read_journal(folder: Path) -> _Moves | None:
    try:
        moves = msgspec.json.decode((folder / _JOURNAL).read_bytes(), type=_Moves)
        for path in (moves.target, *moves.beside):
            check_path(path)
    except FileNotFoundError:
        return None  # It is on the disk whole before anything is moved.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ManifestInvalid):
        # Earlier versions wrote it where it lies, and were killed or out of room then: before anything was moved.
        if not any(os.path.lexists(folder / put_aside) for put_aside in (_REPLACED_TREE, _REPLACED)):
            (folder / _JOURNAL).unlink(missing_ok=True)
        return None
    return moves


def _digest(tree: Path) -> str:
    try:
        return (tree / MANIFEST_DIGEST).read_text("ascii")
    except (OSError, ValueError):
        return ""


def _move_file(root: Path, folder: Path, name: str) -> None:
    target, new, old = root / name, folder / BESIDE / name, folder / _REPLACED / name
    if os.path.lexists(target):
        old.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A second name for it: the first is never absent then.
            os.link(target, old, follow_symlinks=False)
        except OSError:
            target.rename(old)
    if new.exists():
        new.replace(target)
    else:
        target.unlink(missing_ok=True)


def _move_tree(folder: Path, target: Path) -> None:
    tree = folder / TREE
    if os.path.lexists(target):
        if _exchange(tree, target):
            return
        target.rename(folder / _REPLACED_TREE)
    tree.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (renameat2(2)); False where the system or the file system can't."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    sys.audit("os.rename", one, other, -1, -1)
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _settle(root: Path, folder: Path) -> None:
    """Puts back what a killed writer had moved, unless its last step, the tree's, was done."""
    moves = _read_journal(folder)
    if moves is None:
        return
    if _is_done(root, folder, moves):
        (folder / _JOURNAL).unlink()
    else:
        _take_back(root, folder, moves)


def _is_done(root: Path, folder: Path, moves: _Moves) -> bool:
    if moves.before is None:
        return not (folder / TREE).exists()
    # Where a package took the place of its like, which of them is there is all one: what was beside it comes back.
    return moves.before != moves.digest and _digest(root / moves.target) == moves.digest


def _take_back(root: Path, folder: Path, moves: _Moves) -> None:
    """Brings everything back to where it was, whatever had been moved; what had not is left alone.

    What had been is seen on the disk alone, since a signal can come between a rename and any note of it.
    """
    target, tree, replaced = root / moves.target, folder / TREE, folder / _REPLACED_TREE
    if os.path.lexists(replaced):
        if os.path.lexists(target):
            target.rename(tree)
        replaced.rename(target)
    elif moves.before is None:
        if not tree.exists():
            target.rename(tree)
    elif _is_done(root, folder, moves):
        _exchange(tree, target)
    for name, present in moves.beside.items():
        old = folder / _REPLACED / name
        if os.path.lexists(old):
            old.replace(root / name)
            old.unlink(missing_ok=True)  # Renaming one name of a file to another of the same does nothing.
        elif not present and not (folder / BESIDE / name).exists():
            (root / name).unlink(missing_ok=True)
    (folder / _JOURNAL).unlink()


def _remove(folder: Path) -> None:
    # What could not be put back is kept for the next writer to try.
    if not (folder / _JOURNAL).exists():
        shutil.rmtree(folder, ignore_errors=True)
