"""A model's labels, and where each has pointed before: changed by one rename each, whenever the process ends.

    NAME/labels.json    {"stable": 3}: what holds
    NAME/history.json   {"stable": [1, 2, 3]}: the way there, the present version last

The labels alone decide. A label is pointed elsewhere by writing the way first and the label then, and rolled back by
writing the label: of the way counts what ends with the version that the label points to (`trail`). So whoever is
killed between the two leaves what was there before or what is to be, and a label that was set by hand contradicts
nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from converter.artifact import ManifestInvalid, check_version
from edge_runtime.errors import InvalidConfig
from edge_runtime.store import files

LABELS = "labels.json"
"""Beside a model's versions: `{"stable": 1, "canary": 2}`."""

DAMAGED = "labels.json.damaged"
"""Where labels that could not be read as such are kept when others take their place."""

HISTORY = "history.json"

STABLE = "stable"
"""The label of those who give none."""

MAX_LABEL_CHARACTERS = 128

MAX_HISTORY = 32
"""Versions that are remembered of a label; the oldest is forgotten."""

REMOVING = ".removing-"
"""What a version's directory is called, with its number, from the moment it is removed until all of it is gone."""

_T = TypeVar("_T", dict[str, int], dict[str, tuple[int, ...]])

_log = logging.getLogger(__name__)


def read(folder: Path) -> dict[str, int]:
    """The labels in a model's folder, but those of a version that is just being removed; empty where there are none.

    Raises:
        InvalidConfig: the file can't be read as `{"label": version}`.
    """
    labels = _decode(folder / LABELS, "labels", dict[str, int])
    return {label: version for label, version in labels.items() if not _is_going(folder, version)}


def point(folder: Path, label: str, version: int, installed: Collection[int]) -> int | None:
    """Points a label to an installed version; which one it pointed to before. The caller holds the folder's lock.

    Labels that are damaged begin anew; see `renew`.

    Raises:
        InvalidConfig: the version is not installed, or the labels can't be read.
        OSError: they can't be written.
    """
    check_label(label)
    if version not in installed:
        raise InvalidConfig(f"label {label!r}: {folder.name}/{version} is not installed; there are {sorted(installed)}")
    try:
        labels = read(folder)
    except InvalidConfig as error:
        renew(folder, error)
        labels = {}
    before = labels.get(label)
    if before == version:
        return before
    if before is not None:
        ways = _ways(folder)
        way = (*trail(ways.get(label, ()), before), version)
        files.write(folder / HISTORY, _encode({**ways, label: way[-MAX_HISTORY:]}))
    files.write(folder / LABELS, _encode({**labels, label: version}))
    return before


def roll_back(
    folder: Path, label: str, installed: Collection[int], *, check: Callable[[int], None] = lambda _version: None
) -> tuple[int, int]:
    """Points a label to where it pointed before; from where, and to where. The caller holds the folder's lock.

    Args:
        folder: The model's.
        label: Which.
        installed: Its versions.
        check: Is told of the version before anything is written; what it raises ends this.

    Raises:
        InvalidConfig: the label is not set, pointed nowhere before, or that version is not installed any more.
        OSError: the labels can't be written.
    """
    check_label(label)
    labels = read(folder)
    present = labels.get(label)
    if present is None:
        raise InvalidConfig(f"{folder.name}: label {label!r} is not set; there are {labels or 'none'}")
    ways = history(folder)
    way = trail(ways.get(label, ()), present)
    if len(way) < 2:
        raise InvalidConfig(
            f"{folder.name}: nothing is known of what label {label!r} pointed to before version {present}"
        )
    before = way[-2]
    if before not in installed:
        raise InvalidConfig(
            f"{folder.name}: label {label!r} pointed to version {before} before {present}, and that is not installed "
            f"any more; there are {sorted(installed)}"
        )
    check(before)
    if ways[label] != way:
        # No more than one step may be ahead of the label: else an earlier visit to a version is taken for a later one.
        files.write(folder / HISTORY, _encode({**ways, label: way}))
    files.write(folder / LABELS, _encode({**labels, label: before}))
    return present, before


def drop(folder: Path, version: int) -> tuple[str, ...]:
    """Takes away the labels that point to a version; which ones. The caller holds the folder's lock.

    Of labels that are damaged none is known to, and the file stays as it is.

    Raises:
        InvalidConfig: they can't be read.
        OSError: they can't be written.
    """
    try:
        labels = _decode(folder / LABELS, "labels", dict[str, int])
    except InvalidConfig as error:
        if not tells_damage(error):
            raise
        return ()
    gone = tuple(sorted(label for label, pointed in labels.items() if pointed == version))
    if gone:
        files.write(folder / LABELS, _encode({label: one for label, one in labels.items() if label not in gone}))
    return gone


def tells_damage(error: InvalidConfig) -> bool:
    """Whether labels that can't be read hold none, which reading them again doesn't mend; else the disk refused."""
    return not isinstance(error.__cause__, OSError)


def renew(folder: Path, error: InvalidConfig) -> None:
    """Has labels that are damaged begin anew; the file is kept aside. The caller holds the folder's lock.

    Args:
        folder: The model's.
        error: What reading them said. Labels that only can't be read stay, and it is raised again.

    Raises:
        InvalidConfig: see `error`.
        OSError: the file can't be moved.
    """
    if not tells_damage(error):
        raise error
    (folder / LABELS).replace(folder / DAMAGED)
    _log.warning("%s; they begin anew, and what was there is %s now", error, DAMAGED)


def history(folder: Path) -> dict[str, tuple[int, ...]]:
    """The ways as they were written, by label; what of them holds, `trail` says.

    Raises:
        InvalidConfig: the file can't be read as `{"label": [version]}`.
    """
    return _decode(folder / HISTORY, "history", dict[str, tuple[int, ...]])


def trail(way: Sequence[int], present: int | None) -> tuple[int, ...]:
    """The versions that a label has pointed to, the present one last. Pure.

    Args:
        way: What was written down. What follows the present version in it was never reached, or was rolled back.
        present: What the label points to; None where it is not set: then nothing was before.
    """
    if present is None:
        return ()
    for end in range(len(way), 0, -1):
        if way[end - 1] == present:
            return tuple(way[:end])
    return (*way, present)


def check_label(label: str) -> None:
    """Whether a label can be one.

    Raises:
        InvalidConfig: it is not 1 to 128 printable characters.
    """
    if not 1 <= len(label) <= MAX_LABEL_CHARACTERS or not label.isprintable():
        raise InvalidConfig(f"label {label!r}: must be 1 to {MAX_LABEL_CHARACTERS} printable characters")


def _ways(folder: Path) -> dict[str, tuple[int, ...]]:
    try:
        return history(folder)
    except InvalidConfig as error:
        # A label can be set all the same; only what was before is lost.
        _log.warning("%s; it begins anew", error)
        return {}


def _is_going(folder: Path, version: int) -> bool:
    return os.path.lexists(folder / f"{REMOVING}{version}") and not os.path.lexists(folder / str(version))


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _decode(path: Path, what: str, kind: type[_T]) -> _T:
    try:
        found = msgspec.json.decode(files.read(what, path), type=kind)
        for value in found.values():
            for version in (value,) if isinstance(value, int) else value:
                check_version(version)
    except FileNotFoundError:
        return kind()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ManifestInvalid) as error:
        raise InvalidConfig(f"{path}: {what} must be a JSON object of version numbers: {error}") from error
    return found
