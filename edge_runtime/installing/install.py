"""Installs a package: verified, run once, measured, and then there all at once or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import (
    Manifest,
    Package,
    PackageError,
    PackageExists,
    SignatureRefused,
    SigningUnavailable,
    placing,
    version_path,
)
from converter.artifact.archive import MAX_UNPACKED_BYTES
from converter.artifact.digest import nothing
from converter.artifact.room import naming
from converter.artifact.schema import MANIFEST_SIGNATURE
from converter.artifact.store import place, staged
from edge_runtime.errors import InvalidConfig
from edge_runtime.installing import damage
from edge_runtime.installing.first_run import FirstRun, try_package
from edge_runtime.installing.inventory import inventory, read_quota, tree_bytes
from edge_runtime.store import files, lease, trust, uses
from edge_runtime.store.quota import Room, make_room, size_text
from edge_runtime.store.removal import evict
from edge_runtime.store.settling import PROFILE, settle
from edge_runtime.store.store import Store

Trial = Callable[[Package], FirstRun]


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What came of it.

    Attributes:
        package: The package at its place.
        first_run: Its first run; None where there was none.
        removed: The versions that made room, as `NAME/VERSION`.
        was_there: Whether this very package was installed before, or by another process meanwhile, so that nothing was
            done.
    """

    package: Package
    first_run: FirstRun | None = None
    removed: tuple[str, ...] = ()
    was_there: bool = False


def install(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    replace: bool = False,
    link: bool = False,
    require_signature: bool = False,
    may_end: Callable[[], None] = nothing,
    trial: Trial | None = try_package,
    say: Callable[[str], None] = lambda _text: None,
    now: Callable[[], float] = time.time,
) -> Installed:
    """Puts a package, a directory or a `.tar.gz`, into a store.

    Its digests are verified, and its signature where one is demanded. A child process loads and runs it once and
    measures it, and then it appears at its place by one rename, its profile with it. After that the least recently used
    versions go that the store's quota has no room for; that they would do is seen before.

    Whenever the process ends, there is the store as it was or as it is to be; versions that were to make room go when
    the next one is installed.

    Args:
        source: The package.
        root: The store; made if absent.
        replace: Whether a version that is there with another digest gives way. A damaged copy of this very package that
            no process has open does so without.
        link: Whether its files are not copied, but get second names; see `converter.artifact.store.staged`.
        require_signature: Whether a signature is demanded whatever the store says; see `edge_runtime.store.trust`.
        may_end: As of `converter.artifact.store.staged`.
        trial: Runs the package once; None for no first run, and no profile.
        say: Is told of each step when it is done, in a few words.
        now: Unix seconds.

    Raises:
        PackageError: as `converter.artifact.install`; a `PackageExists` where the version is there with another digest,
            or damaged and open; a `SignatureRefused` where no key that is trusted vouches for it, and one has to.
        PackageRefused, EngineFailed: the first run failed.
        InvalidConfig: the quota has no room, or the store, or whom it trusts, can't be read.
        OSError: as `converter.artifact.install`.
    """
    quota_bytes = read_quota(Store(root)) if Path(root).is_dir() else None

    def check(manifest: Manifest) -> None:
        # What is there is no more than what comes, or is to be refused for that; else nothing is written in vain.
        if replace or not os.path.lexists(version_path(Path(root), manifest.model, manifest.version)):
            size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
            room_for(Store(root), manifest.model, manifest.version, size_bytes)

    max_bytes = min(quota_bytes or MAX_UNPACKED_BYTES, MAX_UNPACKED_BYTES)
    with (
        naming(Path(root)),
        staged(source, root, link=link, max_bytes=max_bytes, check=check, may_end=may_end) as package,
    ):
        store = Store(root)
        _check_signed(package, trust.read(store.path, demanded=require_signature), source)
        target = version_path(store.path, package.manifest.model, package.manifest.version)
        if (there := _same(target, package, may_end)) is not None:
            return Installed(package=_signed(store, there, package, say), was_there=True)
        if os.path.lexists(target) and not replace:
            _check_damaged(target, package, may_end)
            replace = True
            say(f"{package} is damaged where it is, and gives way to the same package")
        size_bytes = tree_bytes(package.path)
        say(f"verified {package}, {size_text(size_bytes)}")
        room_for(store, package.manifest.model, package.manifest.version, size_bytes)
        first = None if trial is None else trial(package)
        if first is not None:
            say(_first_run_text(first))
        room = room_for(store, package.manifest.model, package.manifest.version, size_bytes)
        try:
            placed = _place(store, package, first, replace=replace, now_s=now())
        except PackageExists:
            # Somebody else may have installed the very same meanwhile.
            if (there := _same(target, package, may_end)) is None:
                raise
            return Installed(package=there, first_run=first, was_there=True)
    removed = tuple(str(one) for one in room.removed if evict(store, one.model, one.version))
    for name in removed:
        say(f"removed {name}, the least recently used, for room")
    return Installed(package=placed, first_run=first, removed=removed)


def _check_signed(package: Package, held: trust.Trust, source: str | os.PathLike[str]) -> None:
    """Before any byte of it is given to an interpreter."""
    try:
        held.check(package)
    except (SignatureRefused, SigningUnavailable) as error:
        raise type(error)(f"{os.fspath(source)}: {package}: {error}") from error.__cause__


def _signed(store: Store, there: Package, package: Package, say: Callable[[str], None]) -> Package:
    """What is there, with the signature that the very same package brings, where that is to stay."""
    if not _takes_signature(store, there, package):
        return there
    found = _place_signature(store, package, there.path)
    say(f"{package} is there, and has this signature now")
    return found


def _takes_signature(store: Store, there: Package, package: Package) -> bool:
    """Whether the very same package brings a signature that is to stay: none, or one nobody knows, gives way."""
    if package.signed in (None, there.signed):
        return False
    return there.signed is None or trust.vouches(store.path, package)


def _place_signature(store: Store, package: Package, target: Path) -> Package:
    """By one rename: whoever opens the version meanwhile sees the one or the other."""
    with placing.locked(store.path), files.locked(target.parent):
        # It may have been replaced meanwhile by another build, whose signature this is not.
        if Package.open(target, verify=False).digest == package.digest:
            (package.path / MANIFEST_SIGNATURE).replace(target / MANIFEST_SIGNATURE)
            placing.sync_directory(target)
    return Package.open(target, verify=False)


def _same(target: Path, package: Package, may_end: Callable[[], None]) -> Package | None:
    """What is at the place, if it is this package, whole."""
    try:
        there = Package.open(target, may_end=may_end)
    except PackageError:
        return None
    return there if there.digest == package.digest else None


def _check_damaged(target: Path, package: Package, may_end: Callable[[], None]) -> None:
    """Whether what is at the place gives way unasked: a damaged copy of this very package, which nobody has open.

    Raises:
        PackageExists: it is not.
    """
    replaces = "--replace puts this one in its place"
    try:
        found = {Package.open(target, may_end=may_end).digest}
    except PackageError as error:
        if not damage.tells_damage(error):
            raise PackageExists(f"{target}: something is there that can't be read: {error}; {replaces}") from error
        found = damage.digests(target)
    if package.digest not in found:
        raise PackageExists(f"{target}: this version is there with another digest; {replaces}")
    if lease.is_open(target):
        raise PackageExists(f"{target}: this package is there, damaged, and a process has it open; {replaces}")


def room_for(store: Store, model: str, version: int, size_bytes: int) -> Room:
    """Which versions are to make room for one that comes.

    Raises:
        InvalidConfig: all that may go would not be enough; or the store can't be read.
    """
    quota_bytes = read_quota(store)
    if quota_bytes is None:
        return make_room((), size_bytes, None)
    held = [one.held for one in inventory(store) if (one.model, one.version) != (model, version)]
    room = make_room(held, size_bytes, quota_bytes)
    if room.missing_bytes:
        raise InvalidConfig(
            f"{model}/{version} has {size_text(size_bytes)}, and the store's quota is {size_text(quota_bytes)}: even "
            f"without all that may go {size_text(room.missing_bytes)} are missing; "
            f"{size_text(room.kept_bytes - size_bytes)} are of versions that are labelled, open or the latest of their "
            "model"
        )
    return room


def _place(store: Store, package: Package, first: FirstRun | None, *, replace: bool, now_s: float) -> Package:
    model, version, staging = package.manifest.model, package.manifest.version, package.path.parent
    when_s = uses.next_s(store.path, now_s)
    os.utime(package.path / "manifest.json", (when_s, when_s))
    beside = staging / placing.BESIDE / model
    beside.mkdir(parents=True)
    if first is not None and first.profile is not None:
        first.profile.rename(beside / f"{version}{PROFILE}")
    folder = store.folder(model)
    if folder.is_dir():
        with files.locked(folder):
            settle(folder)
    return place(package, store.path, replace=replace, beside=(f"{version}{PROFILE}",))


def _first_run_text(first: FirstRun) -> str:
    if first.measured is None:
        return f"ran on {first.place}"
    threads = f", {first.measured.threads} threads" if first.measured.threads > 1 else ""
    return f"ran on {first.place}: {first.measured.seconds * 1e3:.3g} ms a row on {first.measured.device}{threads}"
