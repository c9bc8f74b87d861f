"""What a writer that was killed left half done in a model's folder is finished by the next one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.store import labels

PROFILE = ".profile.json"
USED = ".used"
"""What lies beside a version, with its number before it."""

_BESIDE = re.compile(r"([1-9][0-9]{0,18})(?:\.profile\.json|\.used)")
_GOING = re.compile(rf"{re.escape(labels.REMOVING)}([1-9][0-9]{{0,18}})")


def settle(folder: Path) -> None:
    """Finishes removals that were begun, and removes what lies beside versions that are gone.

    The caller holds the folder's lock. A version is gone from the moment that its directory is called otherwise; its
    labels and files follow, and that directory last, by which it is seen what is left to be done.

    Raises:
        InvalidConfig: labels that have to be changed can't be read.
        OSError: something can't be removed or written.
    """
    for name, version in _numbered(folder, _GOING):
        if not os.path.lexists(folder / str(version)):
            labels.drop(folder, version)
        _remove_beside(folder)
        shutil.rmtree(folder / name)
    _remove_beside(folder)


def _remove_beside(folder: Path) -> None:
    for name, version in _numbered(folder, _BESIDE):
        if not os.path.lexists(folder / str(version)):
            (folder / name).unlink(missing_ok=True)


def _numbered(folder: Path, names: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  names are all that is looked at
        if match := names.fullmatch(name):
            yield name, int(match[1])
