"""What a store holds: sizes, labels, uses, what is open, and what was measured; and how much it may hold."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.artifact import Package, PackageError, version_path
from converter.artifact.signing import key_named
from edge_runtime.errors import InvalidConfig
from edge_runtime.profiles import EngineProfile, read_profiles
from edge_runtime.store import files, lease, quota, uses
from edge_runtime.store.settling import PROFILE
from edge_runtime.store.store import Store
from edge_runtime.store.trust import Trust

QUOTA = ".quota.json"
"""In the store: `{"bytes": 2147483648}`. No model can be called so."""


_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The engine that was fastest here with one row.

    Attributes:
        device: Its device string.
        threads: Of one run.
        seconds: For one row.
    """

    device: str
    threads: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """A version in a store.

    Attributes:
        model: Whose.
        version: Which.
        digest: The package's; empty where its manifest can't be read.
        size_bytes: What its files take.
        labels: Those that point to it.
        used_s: When it was used last, in Unix seconds; None for never.
        installed_s: When it was put there.
        open: Whether a process has it open.
        latest: Whether it is its model's highest.
        measured: What was measured of it on this device; None for nothing.
        damage: What is wrong with it at first sight; empty for nothing. Digests of files are not looked at; a signature
            is, where the store demands one.
        signed: The id of the key that its signature says; empty where it has none.
        unlabelled: Why its model's labels can't be read; empty where they can. No such version makes room.
    """

    model: str
    version: int
    digest: str
    size_bytes: int
    labels: tuple[str, ...]
    used_s: float | None
    installed_s: float
    open: bool
    latest: bool
    measured: Measured | None
    damage: str
    signed: str = ""
    unlabelled: str = ""

    @property
    def held(self) -> quota.Held:
        """The same for the policy that makes room."""
        return quota.Held(
            model=self.model,
            version=self.version,
            size_bytes=self.size_bytes,
            recent_s=max(self.used_s or 0.0, self.installed_s),
            labelled=bool(self.labels or self.unlabelled),
            open=self.open,
            latest=self.latest,
        )


class _Quota(msgspec.Struct, frozen=True):
    bytes: int


def inventory(store: Store) -> list[Shelved]:
    """Everything that is installed, by model and version. Reads manifests, and looks at what is open.

    A model whose labels can't be read has none here; its versions say why.

    Raises:
        InvalidConfig: the store can't be read.
    """
    found: list[Shelved] = []
    installed = store.installed()  # First: a store that can't be read at all is named, and not a file within.
    trust = store.trust()
    for model, versions in installed.items():
        labels, why = labels_of(store, model)
        looks = (
            _look_at(store, trust, model, version, latest=version == versions[-1], labels=labels, why=why)
            for version in versions
        )
        found += [one for one in looks if one is not None]
    return found


def labels_of(store: Store, model: str) -> tuple[dict[str, int], str]:
    """A model's labels, and why they can't be read: nothing then holds up the others."""
    try:
        return store.labels(model), ""
    except InvalidConfig as error:
        return {}, str(error)


def tree_bytes(path: Path) -> int:
    """What the files below a directory hold; those that can't be looked at count as nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  as os.walk
    return total


def read_quota(store: Store) -> int | None:
    """How many bytes of versions the store may hold; None for any number.

    Raises:
        InvalidConfig: it can't be read.
    """
    path = store.path / QUOTA
    try:
        found = msgspec.json.decode(files.read("the quota", path), type=_Quota).bytes
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidConfig(f"{path}: must be a JSON object with the number of bytes: {error}") from error
    if found < 1:
        raise InvalidConfig(f"{path}: bytes must be at least 1, got {found}")
    return found


def write_quota(store: Store, quota_bytes: int | None) -> None:
    """Says how many bytes of versions the store may hold from now on; None for any number. Nothing goes at once.

    Raises:
        InvalidConfig: it can't be written.
    """
    path = store.path / QUOTA
    with files.named("the quota", path, missing=True), files.locked(store.path) as descriptor:
        if quota_bytes is None:
            path.unlink(missing_ok=True)
        else:
            files.write(path, msgspec.json.encode(_Quota(quota_bytes)))
        os.fsync(descriptor)


def _look_at(
    store: Store, trust: Trust, model: str, version: int, *, latest: bool, labels: dict[str, int], why: str
) -> Shelved | None:
    """What is known of a version; None for one that has been removed meanwhile."""
    path = version_path(store.path, model, version)
    package, damage = _package_at(path, model, version)
    digest = "" if package is None else package.digest
    if package is not None:
        damage = _unsigned(trust, package)
    if damage and not os.path.lexists(path):
        return None
    installed_s = 0.0
    with contextlib.suppress(OSError):
        installed_s = (path / "manifest.json").stat().st_mtime
    return Shelved(
        model=model,
        version=version,
        digest=digest,
        size_bytes=tree_bytes(path),
        labels=tuple(sorted(label for label, pointed in labels.items() if pointed == version)),
        used_s=uses.used_s(path.parent, version),
        installed_s=installed_s,
        open=lease.is_open(path),
        latest=latest,
        measured=fastest(path.with_name(f"{version}{PROFILE}"), digest),
        damage=damage,
        signed="" if package is None or package.signed is None else key_named(package.signed),
        unlabelled=why,
    )


def _unsigned(trust: Trust, package: Package) -> str:
    """Why it can't be loaded for want of a signature; empty where it can."""
    try:
        trust.check(package)
    except PackageError as error:
        return str(error)
    return ""


def _package_at(path: Path, model: str, version: int) -> tuple[Package | None, str]:
    """What lies there, or what is wrong with it; of what is replaced just then it is looked at again."""
    damage = ""
    for _ in range(_LOOKS):
        place = _inode(path)
        try:
            package = Package.open(path, verify=False)
        except PackageError as error:
            damage = str(error)
            if _inode(path) == place:
                break
        else:
            found = package.manifest
            if (found.model, found.version) == (model, version):
                return package, ""
            return None, f"{path} holds {found.model}/{found.version}"
    return None, damage


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def fastest(profile: Path, digest: str) -> Measured | None:
    """What a profile says of the engine that is fastest with one row; None where it says nothing of this package."""

    def seconds(one: tuple[object, EngineProfile]) -> float:
        return one[1].seconds[1]

    found = read_profiles(profile, digest)
    if not found:
        return None
    key, best = min(found.items(), key=seconds)
    return Measured(device=key.device, threads=key.threads, seconds=best.seconds[1])
