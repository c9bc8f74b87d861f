"""A version's LiteRT form: in this process where that pays, once it has proved itself in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import LiteRtExecutor, open_litert
from fallback_server.executors.litert_files import LiteRtForm, SealedFile, read_form, size_bytes
from fallback_server.executors.trial import try_out
from fallback_server.executors.worker.executor import WorkerExecutor
from fallback_server.executors.worker.messages import Load, Loaded
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.process import Worker

LONG_S = 2e-3
"""A run that takes longer gains nothing of being in this process: the hop to another is a twentieth of it."""

LARGE_BYTES = 2**25
"""LiteRT holds Python's lock while it plans a graph, 1 to 2 ms for each MiB of weights: a larger file's plans would be
felt by all requests that are under way."""

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
) -> LiteRtExecutor | WorkerExecutor:
    """Loads the LiteRT form of a version. A small model comes into this process, a large one stays where it was tried.

    Args:
        path: The version's folder.
        nursery: Starts the process that tries it.
        threads: Of one run; 0 for what is found to be best.
        title: For logs.
        on_lost: Called once, in any thread, when the process that runs it ends without having been closed.
        stop: Ends the load, until it is over.
        sizes: How it will be run.

    Raises:
        VersionRefused: it has no such form, or its bytes are not what its package says.
        LoadFailed: the file can't be run: it is refused, crashes or hangs.
        OSError: it can't be read.
    """
    form = read_form(path)
    file = SealedFile.of(form.content, title)
    try:
        worker, loaded = _tried(form, file, path, nursery=nursery, threads=threads, title=title, stop=stop, sizes=sizes)
        if loaded.run_s > LONG_S or file.size_bytes > LARGE_BYTES:
            file.close()  # The worker has its own hold on it.
            executor = WorkerExecutor(worker, loaded, kind="litert")
            worker.watch(on_lost)
            return executor
        worker.kill()
        return open_litert(file, sizes=sizes, whole=form.whole, threads=threads)
    except BaseException:
        file.close()
        raise


def _tried(
    form: LiteRtForm,
    file: SealedFile,
    path: Path,
    *,
    nursery: Nursery,
    threads: int,
    title: str,
    stop: LoadStop | None,
    sizes: RunSizes,
) -> tuple[Worker, Loaded]:
    load = Load(
        kind="litert",
        path=str(path.absolute()),
        beside_others=nursery.answers,
        intra_op_parallelism=threads,
        rows=sizes.rows,
        threads=sizes.threads,
        whole=tuple(sorted(form.whole)),
    )
    try:
        return try_out(load, file.fd, nursery=nursery, title=title, stop=stop)
    except LoadFailed as error:
        raise LoadFailed(f"{form.source}: {error}") from error


def litert_bytes(path: Path) -> int:
    """What a version's LiteRT form takes: 32 MiB, the file, and its weights packed for a few shapes.

    Raises:
        OSError: a file can't be looked at.
    """
    return _INTERPRETERS_BYTES + (1 + _COPIES) * size_bytes(path)
