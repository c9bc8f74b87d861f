"""Which executor runs what: told by the files that a version's folder holds. An explicit table, nothing is scanned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from converter.artifact.schema import MANIFEST
from fallback_server.core.errors import LoadFailed, VersionRefused
from fallback_server.core.loader import LoadStop
from fallback_server.core.model_config import EXECUTORS
from fallback_server.executors import litert_files, onnx, python_servable
from fallback_server.executors.base import Executor, RunSizes
from fallback_server.executors.findings import Remembered
from fallback_server.executors.saved_model import SavedModelOptions, estimated_bytes
from fallback_server.executors.tried_litert import litert_bytes, open_tried
from fallback_server.executors.worker.executor import open_in_plain_worker
from fallback_server.executors.worker.nursery import NOTHING, Nursery
from fallback_server.executors.worker.paced import open_paced

AUTO = EXECUTORS[0]
"""In place of a kind: what the files say, and where they leave a choice, the faster."""

OnGone = Callable[[str], None]
"""Told, in any thread, that an executor is dead though nobody closed it, and how its process ended."""


class Open(Protocol):
    """Loads a version."""

    def __call__(self, path: Path, *, title: str, on_lost: OnGone, stop: LoadStop | None, sizes: RunSizes) -> Executor:
        """May import a library of its own; `title` is for logs; `stop` ends what it runs in; `sizes` is how it runs."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """One kind of model.

    Attributes:
        name: What runs it, one of `KINDS`.
        files: A folder with one of these is of this kind.
        open: Loads it.
        estimated_bytes: The memory that a loaded version takes, told by its files.
        holds: Whether a folder is of this kind, where a file's name alone does not say it; None where it does.
        doubtful: Whether a folder that is of this kind may be another's all the same: then any other comes first;
            None where it may not.
    """

    name: str
    files: tuple[str, ...]
    open: Open
    estimated_bytes: Callable[[Path], int]
    holds: Callable[[Path], bool] | None = None
    doubtful: Callable[[Path], bool] | None = None

    def fits(self, path: Path) -> bool:
        """Whether a version's folder is of this kind."""
        if self.holds is not None:
            return self.holds(path)
        return any((path / file).is_file() for file in self.files)


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
        kind: str = AUTO,
        sizes: RunSizes | None = None,
    ) -> Executor:
        """Loads the version that stands at a path.

        Args:
            path: The version's folder.
            on_lost: Called once if the executor dies before it is closed.
            title: For logs; by default the last two folders' names.
            stop: Ends the load, until it is over.
            kind: What is to run it; `AUTO` for the first that fits.
            sizes: How it will be run.

        Raises:
            VersionRefused: no platform knows the folder's files, or the one that was asked for does not.
            Exception: as the platform says.
        """
        title = f"{path.parent.name}/{path.name}" if title is None else title
        platform = self.forms(path, kind)[0]
        return platform.open(path, title=title, on_lost=on_lost, stop=stop, sizes=sizes or RunSizes())

    def forms(self, path: Path, kind: str = AUTO) -> tuple[Platform, ...]:
        """The platforms that a version may be loaded by: at least one, all but one kind left out where that is asked.

        Raises:
            VersionRefused: there is none.
        """
        asked = [platform for platform in self._platforms if kind in (AUTO, platform.name)]
        if found := [platform for platform in asked if platform.fits(path)]:
            return tuple(sorted(found, key=lambda each: each.doubtful is not None and each.doubtful(path)))
        expected = ", ".join(file for platform in asked for file in platform.files)
        if kind == AUTO:
            raise VersionRefused(f"{path} holds none of the files that make a model: {expected}")
        raise VersionRefused(
            f"{path} can't be served by the executor {kind!r} that was asked for: it holds none of "
            f"{expected or 'its files'}"
        )

    def estimated_bytes(self, path: Path, kind: str = AUTO) -> int:
        """The most memory that the version will take while it is loaded; 0 where that can't be told."""
        try:
            return sum(platform.estimated_bytes(path) for platform in rivals(self.forms(path, kind)))
        except (LoadFailed, OSError):
            return 0  # The load will say what is wrong.


def rivals(forms: Sequence[Platform]) -> tuple[Platform, ...]:
    """Of a version's forms those that are tried against each other; the first where there are none.

    A SavedModel and a LiteRT file are two forms of one model. Other files beside them need not be: a SavedModel's
    folder may well hold the program that made it.
    """
    both = tuple(form for form in forms if form.name in ("tensorflow", "litert"))
    return both if len(both) > 1 and forms[0] in both else tuple(forms[:1])


def _is_litert_by_manifest(path: Path) -> bool:
    """Whether all that tells of a LiteRT form is a `manifest.json`: many a program has a file of that name."""
    others = (path / litert_files.FILE, *(path / folder / MANIFEST for folder in litert_files.PACKAGES if folder.name))
    return not any(file.is_file() for file in others)


def default_registry(saved_model: SavedModelOptions) -> Registry:
    """All platforms of this server. Models run in worker processes, TFLite files in this one; `close` ends them."""
    nursery, plain = Nursery(), Nursery(NOTHING)

    def close() -> None:
        plain.close()
        nursery.close()

    return Registry(
        [
            Platform(
                name="tensorflow",
                files=("saved_model.pb", "saved_model.pbtxt"),
                open=functools.partial(open_paced, options=saved_model, nursery=nursery, remembered=Remembered()),
                estimated_bytes=estimated_bytes,
            ),
            Platform(
                name="litert",
                files=(litert_files.FILE, MANIFEST),
                open=functools.partial(open_tried, nursery=plain, threads=saved_model.intra_op_parallelism),
                estimated_bytes=litert_bytes,
                holds=litert_files.holds_litert,
                doubtful=_is_litert_by_manifest,
            ),
            Platform(
                name="python",
                files=(python_servable.FILE,),
                open=functools.partial(open_in_plain_worker, kind="python", nursery=plain),
                estimated_bytes=python_servable.folder_bytes,
            ),
            Platform(
                name="onnx",
                files=(onnx.FILE,),
                open=functools.partial(
                    onnx.open_onnx_in_worker, nursery=plain, threads=saved_model.intra_op_parallelism
                ),
                estimated_bytes=onnx.onnx_bytes,
            ),
        ],
        start=nursery.start,
        close=close,
    )
