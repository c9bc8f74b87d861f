"""A package on its way to this device: what has come of it so far, on disk, whoever sends the rest.

    STORE/.fetching/NAME@DIGEST/
      DIGEST.part     what has come of a file
      DIGEST          a file that has come, and is what its digest says
      tree/           the package, when all have

Nothing that a server says names a file here, but its model and digests, which are checked first. What comes is bounded
by the manifest's sizes, and that by the description's; the manifest is the first file, and its digest is the package's.
With it comes its signature, where the server has one: the one file that no digest vouches for.
Whenever the process ends, what has come is there for the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import FileEntry, Manifest, PackageError, SignatureRefused, placing
from converter.artifact.digest import file_entry, nothing
from converter.artifact.package import manifest_digest_text
from converter.artifact.schema import MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE, decode
from edge_runtime.errors import PackageRefused

FOLDER = ".fetching"
"""In the store. No model can be called so."""

MAX_PACKAGE_BYTES = 4 * 2**30
"""Of one package; a TFLite file has at most 2 GiB."""

_ITS_NAMES = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
"""What the file system says of names that can't be: the package's fault, and not the disk's."""

_PART = ".part"
_PROBES = ("probe", "probe-2")
_TREE = "tree"


MAX_PARTIALS = 16
"""Packages of which something has come; of one more the oldest goes."""


class SentWrong(Exception):
    """A server sent or described something else than it should; what came of a wrong file is gone."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file of the package that has not come yet.

    Attributes:
        path: In the package.
        entry: Its size and digest.
    """

    path: str
    entry: FileEntry


class Partial:
    """What has come of one package. Its folder is locked; one thread uses it."""

    def __init__(
        self,
        folder: Path,
        model: str,
        version: int,
        digest: str,
        *,
        manifest_bytes: int,
        signed: FileEntry | None = None,
        vouch: Callable[[bytes | None], None] = lambda _signed: None,
        may_end: Callable[[], None] = nothing,
    ) -> None:
        """Takes the folder, which is there and locked; see `taken`.

        Args:
            folder: Where it comes to.
            model: What it must be.
            version: Likewise.
            digest: Of its manifest, as `sha256:...`.
            manifest_bytes: The size of that.
            signed: The `manifest.sig` that comes with it; None for none.
            vouch: Is told of it, or that there is none, when it has come; what it raises ends this.
            may_end: Called again and again, many times a second; what it raises ends whatever is under way, and what
                has come stays.
        """
        self._may_end = may_end
        self._folder = folder
        self._model = model
        self._version = version
        entry = FileEntry(size_bytes=manifest_bytes, sha256=digest.removeprefix("sha256:"))
        self._manifest_piece = Piece(path=MANIFEST, entry=entry)
        self._signed_piece = None if signed is None else Piece(path=MANIFEST_SIGNATURE, entry=signed)
        self._vouch = vouch
        self._manifest: Manifest | None = None
        self._copies: int | None = None

    def __repr__(self) -> str:
        return f"<Partial {self._model}/{self._version}, {self.held_bytes} bytes>"

    @property
    def held_bytes(self) -> int:
        """What has come."""
        return _size(self._folder)

    @property
    def copies(self) -> int:
        """How often the package is on the disk while it is installed: once, where files may have second names."""
        if self._copies is None:
            self._copies = 1 if self._links() else 3
        return self._copies

    def manifest(self) -> Manifest | None:
        """The manifest, decoded; None as long as it, and its signature, have not come.

        Raises:
            PackageRefused: it is no manifest.
            SignatureRefused: who was told of the signature refuses it; it is gone.
            SentWrong: it is that of another model or version.
        """
        if self._manifest is None and not any(map(self._lacks, self._first())):
            self._check_signed()
            try:
                found = decode(self._read(self._manifest_piece))
            except PackageError as error:
                raise PackageRefused(f"{self._model}/{self._version}: {error}") from error
            if (found.model, found.version) != (self._model, self._version):
                # Whoever described it is at fault, and not the package.
                raise SentWrong(f"the package is that of {found.model}/{found.version}")
            self._manifest = found
        return self._manifest

    def missing(self) -> list[Piece]:
        """The files that have not come: the manifest and its signature alone as long as these have not.

        Raises:
            PackageRefused, SignatureRefused, SentWrong: see `manifest`.
        """
        manifest = self.manifest()
        if manifest is None:
            return [piece for piece in self._first() if self._lacks(piece)]
        pieces = [Piece(path=path, entry=entry) for path, entry in sorted(manifest.files.items())]
        return [piece for piece in pieces if self._lacks(piece)]

    def offset(self, piece: Piece) -> int:
        """How much of a file has come, in bytes."""
        try:
            return min(self._part(piece).stat().st_size, piece.entry.size_bytes)
        except FileNotFoundError:
            return 0

    def take(self, piece: Piece, chunks: Iterable[bytes]) -> bool:
        """Appends what comes of a file; whether it has all come, and is verified.

        Never more than the file's size is written.

        Args:
            piece: Which file.
            chunks: Its bytes from `offset` on. What they raise is passed on, and what came before it stays.

        Raises:
            SentWrong: more came than the file has, or what came is not what its digest says.
            OSError: the disk is full or not writable.
        """
        part, size_bytes = self._part(piece), piece.entry.size_bytes
        have = self.offset(piece)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:  # Of a descriptor, which does not empty it.
            file.truncate(have)
            file.seek(have)
            if have < size_bytes:
                for chunk in chunks:
                    self._may_end()
                    if have + len(chunk) > size_bytes:
                        part.unlink()
                        raise SentWrong(f"{piece.path}: more than its {size_bytes} bytes came")
                    file.write(chunk)
                    have += len(chunk)
                    if have == size_bytes:
                        break
        if have < size_bytes:
            return False
        if file_entry(part, may_end=self._may_end) != piece.entry:
            part.unlink()
            raise SentWrong(f"{piece.path}: what came is not what its digest says")
        part.rename(self._place(piece))
        return True

    def tree(self) -> Path:
        """The package as a directory, now that nothing is missing; for `installing.install`, which verifies all of it.

        Its files are second names of those that have come: install it by `link`, and `discard`.

        Raises:
            PackageRefused: its paths can't be, or see `manifest`.
            OSError: the disk is full or not writable.
        """
        manifest = self.manifest()
        if manifest is None:
            raise PackageRefused(f"{self._model}/{self._version}: it has not come yet")
        tree = self._folder / _TREE
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        sums = manifest_digest_text(self._manifest_piece.entry.sha256)
        try:
            placing.link(self._place(self._manifest_piece), tree / MANIFEST)
            (tree / MANIFEST_DIGEST).write_text(sums, "ascii")
            if self._signed_piece is not None:
                placing.copy(self._place(self._signed_piece), tree / MANIFEST_SIGNATURE, self._may_end)
            for path, entry in manifest.files.items():
                self._may_end()
                target = tree / path
                target.parent.mkdir(parents=True, exist_ok=True)
                placing.link(self._place(Piece(path=path, entry=entry)), target, self._may_end)
        except OSError as error:
            if error.errno not in _ITS_NAMES:
                raise
            raise PackageRefused(f"{self._model}/{self._version}: its files can't be named so: {error}") from error
        return tree

    def discard(self) -> None:
        """Removes all that has come."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _links(self) -> bool:
        one, other = (self._folder / name for name in _PROBES)
        try:
            one.touch()
            other.unlink(missing_ok=True)  # Of a process that was killed.
            return placing.link(one, other)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                other.unlink(missing_ok=True)
                one.unlink(missing_ok=True)

    def _first(self) -> list[Piece]:
        """What comes before everything else."""
        return [self._manifest_piece, *filter(None, [self._signed_piece])]

    def _check_signed(self) -> None:
        piece = self._signed_piece
        try:
            self._vouch(None if piece is None else self._read(piece))
        except SignatureRefused:
            # Any server may have one of its own, so that those that are none would add up.
            if piece is not None:
                self._place(piece).unlink(missing_ok=True)
            raise

    def _read(self, piece: Piece) -> bytes:
        """No more than it has: another server may have said that it is larger, and sent that."""
        with self._place(piece).open("rb") as file:
            return file.read(piece.entry.size_bytes)

    def _lacks(self, piece: Piece) -> bool:
        """A file that came with this digest is the piece only if it has its size: a server may say any of the two."""
        try:
            status = self._place(piece).stat()
        except FileNotFoundError:
            return True
        return not stat.S_ISREG(status.st_mode) or status.st_size != piece.entry.size_bytes

    def _place(self, piece: Piece) -> Path:
        return self._folder / piece.entry.sha256

    def _part(self, piece: Piece) -> Path:
        return self._folder / f"{piece.entry.sha256}{_PART}"


@contextlib.contextmanager
def taken(
    root: Path,
    model: str,
    version: int,
    digest: str,
    *,
    manifest_bytes: int,
    signed: FileEntry | None = None,
    vouch: Callable[[bytes | None], None] = lambda _signed: None,
    may_end: Callable[[], None] = nothing,
) -> Iterator[Partial | None]:
    """What has come of a package, for this process alone meanwhile; None while another one fetches it.

    Args:
        root: The store.
        model: Its model's name, which has been checked.
        version: Its version.
        digest: Its digest, which has been checked.
        manifest_bytes: Its manifest's size.
        signed: Its signature; see `Partial`.
        vouch: See `Partial`.
        may_end: See `Partial`.

    Raises:
        OSError: the store can't be written.
    """
    folder = root / FOLDER / _name(model, digest)
    folder.mkdir(parents=True, exist_ok=True)
    with placing.locked(folder, wait=False) as mine:
        # Whoever had it before may have removed it between the two lines above.
        if not mine or not folder.is_dir():
            yield None
        else:
            try:
                yield Partial(
                    folder,
                    model,
                    version,
                    digest,
                    manifest_bytes=manifest_bytes,
                    signed=signed,
                    vouch=vouch,
                    may_end=may_end,
                )
            finally:
                for emptied in (folder, folder.parent):
                    with contextlib.suppress(OSError):
                        emptied.rmdir()


def prune(root: Path, *, keep_bytes: int, besides: tuple[str, str] | None = None) -> None:
    """Removes what has come of packages that nobody fetches now: the oldest, until the others are within the bounds.

    Args:
        root: The store.
        keep_bytes: What the others may take.
        besides: Model and digest of one that does not count, and stays.
    """
    base = root / FOLDER
    spared = None if besides is None else _name(*besides)
    found = [base / name for name in _names(base) if name != spared]
    for number, path in enumerate(sorted(found, key=_changed_s, reverse=True), start=1):
        keep_bytes -= _size(path)
        if keep_bytes >= 0 and number < MAX_PARTIALS:
            continue
        with contextlib.suppress(OSError), placing.locked(path, wait=False) as mine:
            if mine:
                shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        base.rmdir()


def _name(model: str, digest: str) -> str:
    return f"{model}@{digest.removeprefix('sha256:')}"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  names are all that is wanted
    except OSError:
        return []  # Another process that shares the store has removed it.


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for name in _names(folder):
        with contextlib.suppress(OSError):
            total += (folder / name).lstat().st_size
    return total
