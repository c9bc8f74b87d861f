"""Which executor runs what: told by the files that a version's folder holds. An explicit table, nothing is scanned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.executors.base import Executor
from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """One kind of model.

    Attributes:
        name: As TensorFlow Serving names platforms.
        files: A folder with one of these is of this kind.
        open: Loads it; may import a library of its own.
    """

    name: str
    files: tuple[str, ...]
    open: Callable[[Path], Executor]


class Registry:
    """The platforms, the first that fits wins."""

    def __init__(self, platforms: Sequence[Platform]) -> None:
        self._platforms = tuple(platforms)

    def open(self, path: Path) -> Executor:
        """Loads the version that stands at a path.

        Raises:
            LoadFailed: no platform knows the folder's files.
            Exception: as the platform says.
        """
        for platform in self._platforms:
            if any((path / file).is_file() for file in platform.files):
                return platform.open(path)
        expected = ", ".join(file for platform in self._platforms for file in platform.files)
        raise LoadFailed(f"{path} holds none of the files that make a model: {expected}")


def default_registry(saved_model: SavedModelOptions) -> Registry:
    """All platforms of this server."""
    return Registry(
        [
            Platform(
                name="tensorflow",
                files=("saved_model.pb", "saved_model.pbtxt"),
                open=lambda path: open_saved_model(path, saved_model),
            )
        ]
    )
