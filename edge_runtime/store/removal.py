"""Takes a version out of a store: it is gone from one rename on, whatever becomes of the process then."""

from __future__ import annotations

from pathlib import Path

from converter.artifact import placing
from edge_runtime.errors import InvalidConfig
from edge_runtime.store import files, labels, lease
from edge_runtime.store.settling import settle
from edge_runtime.store.store import Store


def remove(store: Store, model: str, version: int, *, force: bool = False) -> tuple[str, ...]:
    """Removes a version, with its labels, its profile and what is known of its use; the labels that went with it.

    A process that has it open answers on from memory until it looks at the store, and then goes over to another
    version.

    Args:
        store: Where it is.
        model: Whose.
        version: Which.
        force: Remove it also where a label points to it, a process has it open, or the labels are damaged, which then
            begin anew.

    Raises:
        InvalidConfig: it is not installed; or labelled or open, without `force`; or the store can't be read or written.
    """
    folder = store.folder(model)
    with files.named("version", folder / str(version), missing=True):
        versions = store.versions(model)
        if version not in versions:
            raise InvalidConfig(f"{store.path}: {model}/{version} is not installed; there are {versions or 'none'}")
        with placing.locked(store.path), files.locked(folder):
            settle(folder)
            return _remove(folder, version, force=force)


def evict(store: Store, model: str, version: int) -> bool:
    """Removes a version to make room, unless it has been labelled or opened meanwhile; whether it did.

    Raises:
        InvalidConfig: the store can't be read or written.
    """
    folder = store.folder(model)
    with (
        files.named("version", folder / str(version), missing=True),
        placing.locked(store.path),
        files.locked(folder),
    ):
        settle(folder)
        if version not in store.versions(model) or _may_be_labelled(folder, version):
            return False
        with lease.alone(folder / str(version)) as mine:
            if mine:
                _take_out(folder, version)
            return mine


def _remove(folder: Path, version: int, *, force: bool) -> tuple[str, ...]:
    name = f"{folder.name}/{version}"
    try:
        pointing = _why_not(folder, version)
    except InvalidConfig as error:
        if not force:
            raise
        labels.renew(folder, error)
        pointing = ()
    if pointing and not force:
        raise InvalidConfig(
            f"{name} is labelled {', '.join(pointing)}: point the label elsewhere first (edge-run use), or give --force"
        )
    with lease.alone(folder / str(version)) as mine:
        if not mine and not force:
            raise InvalidConfig(f"{name} is open in a process: have that go over to another version, or give --force")
        _take_out(folder, version)
    return pointing


def _why_not(folder: Path, version: int) -> tuple[str, ...]:
    """The labels that point to it."""
    return tuple(sorted(label for label, pointed in labels.read(folder).items() if pointed == version))


def _may_be_labelled(folder: Path, version: int) -> bool:
    try:
        return bool(_why_not(folder, version))
    except InvalidConfig:
        return True  # Nobody knows what labels that can't be read point to.


def _take_out(folder: Path, version: int) -> None:
    (folder / str(version)).rename(folder / f"{labels.REMOVING}{version}")
    placing.sync_directory(folder)
    settle(folder)
