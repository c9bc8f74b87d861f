"""Which executor runs what: told by the files that a version's folder holds. An explicit table, nothing is scanned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fallback_server.core.errors import LoadFailed, VersionRefused
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import Executor
from fallback_server.executors.saved_model import SavedModelOptions, estimated_bytes
from fallback_server.executors.worker.executor import open_in_worker
from fallback_server.executors.worker.nursery import Nursery

OnGone = Callable[[str], None]
"""Told, in any thread, that an executor is dead though nobody closed it, and how its process ended."""


class Open(Protocol):
    """Loads a version."""

    def __call__(self, path: Path, *, title: str, on_lost: OnGone, stop: LoadStop | None = None) -> Executor:
        """May import a library of its own; `title` is for logs; `stop` ends what it runs in."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """One kind of model.

    Attributes:
        name: As TensorFlow Serving names platforms.
        files: A folder with one of these is of this kind.
        open: Loads it.
        estimated_bytes: The memory that a loaded version takes, told by its files.
    """

    name: str
    files: tuple[str, ...]
    open: Open
    estimated_bytes: Callable[[Path], int]


class Registry:
    """The platforms, the first that fits wins.

    Args:
        platforms: In order.
        start: Begins what loads will need, and returns at once.
        close: Ends everything that was opened, and the loads under way.
    """

    def __init__(
        self,
        platforms: Sequence[Platform],
        *,
        start: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._platforms = tuple(platforms)
        self.start = start
        self.close = close

    def open(
        self,
        path: Path,
        on_lost: OnGone = lambda how: None,  # noqa: ARG005
        *,
        title: str | None = None,
        stop: LoadStop | None = None,
    ) -> Executor:
        """Loads the version that stands at a path.

        Args:
            path: The version's folder.
            on_lost: Called once if the executor dies before it is closed.
            title: For logs; by default the last two folders' names.
            stop: Ends the load, until it is over.

        Raises:
            VersionRefused: no platform knows the folder's files.
            Exception: as the platform says.
        """
        title = f"{path.parent.name}/{path.name}" if title is None else title
        return self._platform(path).open(path, title=title, on_lost=on_lost, stop=stop)

    def estimated_bytes(self, path: Path) -> int:
        """The memory that the version will take once it is loaded; 0 where that can't be told."""
        try:
            return self._platform(path).estimated_bytes(path)
        except (LoadFailed, OSError):
            return 0  # The load will say what is wrong.

    def _platform(self, path: Path) -> Platform:
        for platform in self._platforms:
            if any((path / file).is_file() for file in platform.files):
                return platform
        expected = ", ".join(file for platform in self._platforms for file in platform.files)
        raise VersionRefused(f"{path} holds none of the files that make a model: {expected}")


def default_registry(saved_model: SavedModelOptions) -> Registry:
    """All platforms of this server. Models run in worker processes; `close` ends them."""
    nursery = Nursery()
    return Registry(
        [
            Platform(
                name="tensorflow",
                files=("saved_model.pb", "saved_model.pbtxt"),
                open=functools.partial(open_in_worker, options=saved_model, nursery=nursery),
                estimated_bytes=estimated_bytes,
            )
        ],
        start=nursery.start,
        close=nursery.close,
    )
