"""A look at the disk before anything is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fallback_server.config import SourceOptions
from fallback_server.core.completeness import GRAPHS, PACKAGE, SINGLE_FILES
from fallback_server.core.scan import ARCHIVE_SUFFIXES, read_folders

_OTHERS = (*SINGLE_FILES, PACKAGE)

_MAX_FOLDERS = 1000
"""Of models that are looked into: where there are more, one of them will be a SavedModel."""


def may_need_tensorflow(source: SourceOptions) -> bool:
    """Whether a SavedModel is to be loaded soon: unless all that stands on disk are models of other kinds.

    An archive may hold one, and where there is nothing yet, one may come. A server of other models saves the time and
    the memory of importing TensorFlow; nothing else depends on this.
    """
    others = False
    for count, base_path in enumerate(_base_paths(source)):
        if count >= _MAX_FOLDERS:
            return True
        with contextlib.suppress(OSError):
            for child in base_path.iterdir():
                if child.name.endswith(ARCHIVE_SUFFIXES) or any((child / name).is_file() for name in GRAPHS):
                    return True
                others |= any((child / name).is_file() for name in _OTHERS)
    return not others


def _base_paths(source: SourceOptions) -> Iterator[Path]:
    for config in source.configs:
        yield config.base_path
    if source.repository is not None:
        with contextlib.suppress(OSError):
            for folder in read_folders(source.repository):
                yield Path(folder.path)
