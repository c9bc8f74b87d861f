"""A version's LiteRT form, loaded into this process after it has proved itself in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import LiteRtExecutor, open_litert
from fallback_server.executors.litert_files import SealedFile, read_form, size_bytes
from fallback_server.executors.trial import try_out
from fallback_server.executors.worker.messages import Load
from fallback_server.executors.worker.nursery import Nursery

_INTERPRETERS_BYTES = 2**25
_COPIES = 4


def open_tried(
    path: Path,
    *,
    nursery: Nursery,
    threads: int,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes,
) -> LiteRtExecutor:
    """Loads the LiteRT form of a version.

    Args:
        path: The version's folder.
        nursery: Starts the process that tries it.
        threads: Of one run; 0 for what is found to be best.
        title: For logs.
        on_lost: Never called: what runs in this process is not lost without it.
        stop: Ends the load, until it is over.
        sizes: How it will be run.

    Raises:
        VersionRefused: it has no such form, or its bytes are not what its package says.
        LoadFailed: the file can't be run: it is refused, crashes or hangs.
        OSError: it can't be read.
    """
    del on_lost
    form = read_form(path)
    file = SealedFile.of(form.content, title)
    try:
        load = Load(
            kind="litert",
            path=str(path.absolute()),
            beside_others=nursery.answers,
            intra_op_parallelism=threads,
            rows=sizes.rows,
            whole=tuple(sorted(form.whole)),
        )
        try:
            try_out(load, file.fd, nursery=nursery, title=title, stop=stop)
        except LoadFailed as error:
            raise LoadFailed(f"{form.source}: {error}") from error
        return open_litert(file, sizes=sizes, whole=form.whole, threads=threads)
    except BaseException:
        file.close()
        raise


def litert_bytes(path: Path) -> int:
    """What a version's LiteRT form takes: 32 MiB, the file, and its weights packed for a few shapes, twice while tried.

    Raises:
        OSError: a file can't be looked at.
    """
    return _INTERPRETERS_BYTES + (1 + _COPIES) * size_bytes(path)
