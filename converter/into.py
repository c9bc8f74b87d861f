"""Where a SavedModel's version directory keeps a package, so that one directory serves device and server."""

from __future__ import annotations

import os
from pathlib import Path

from converter.artifact import check_place
from converter.errors import OptionInvalid

EXTRA_ASSETS = Path("assets.extra", "edge_package")
"""`assets.extra` is TensorFlow's place for what is not its own."""


def place_in(version_directory: Path) -> Path:
    """Where the package goes."""
    return version_directory / EXTRA_ASSETS


def check_into(version_directory: Path, *, replace: bool) -> None:
    """Whether a package can be laid into the directory.

    Raises:
        OptionInvalid: it is no SavedModel's, or can't be written to.
        PackageExists: it holds a package, and `replace` is False, or something else in its place.
    """
    if not any((version_directory / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise OptionInvalid(f"into: {version_directory} is no SavedModel's directory: it holds no saved_model.pb")
    place = place_in(version_directory)
    folder = place.parent if os.path.lexists(place.parent) else version_directory
    if not folder.is_dir():
        raise OptionInvalid(f"into: {folder} is no directory, so nothing can be laid into it")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OptionInvalid(f"into: {folder} can't be written to")
    check_place(place, replace=replace)
