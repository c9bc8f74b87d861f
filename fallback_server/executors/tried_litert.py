"""A version's LiteRT form: in this process where that pays and can do no harm, once it has been tried in another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import VARIABLE, RunSizes, Signature
from fallback_server.executors.litert import LiteRtExecutor, open_litert
from fallback_server.executors.litert_files import LiteRtForm, SealedFile, read_form, size_bytes
from fallback_server.executors.litert_graph import Unreadable, read_graphs
from fallback_server.executors.litert_rules import harm
from fallback_server.executors.trial import RIVAL_STEP_S, STEP_S, try_out
from fallback_server.executors.worker.executor import WorkerExecutor
from fallback_server.executors.worker.messages import Load, Loaded
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.process import Worker

_log = logging.getLogger(__name__)

LONG_S = 2e-3
"""A run that takes longer gains nothing of being in this process: the hop to another is a twentieth of it."""

LARGE_BYTES = 2**25
"""LiteRT holds Python's lock while it plans a graph, 1 to 2 ms for each MiB of weights: a larger file's plans would be
felt by all requests that are under way."""

_INTERPRETERS_BYTES = 2**25
_COPIES = 4

_OTHER_FORM = ("saved_model.pb", "saved_model.pbtxt")


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
    """Loads the LiteRT form of a version.

    A small model that no values can make do harm comes into this process, all others stay where they were tried: there
    a run may crash, or be ended, and nobody else's requests wait.

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
        apart = WorkerExecutor(worker, loaded, kind="litert")
        if why := why_apart(apart.signatures, loaded.run_s, form.content):
            _log.info("%s: it runs in a process of its own: %s", title, why)
            file.close()  # The worker has its own hold on it.
            worker.watch(on_lost)
            return apart
        worker.kill()
        return open_litert(file, sizes=sizes, whole=form.whole, threads=threads, fill=True)
    except BaseException:
        file.close()
        raise


def why_apart(signatures: Mapping[str, Signature], run_s: float, content: bytes) -> str:
    """Why a file that was tried must not run in the server's own process: one clause; empty where it may. Pure.

    Args:
        signatures: What can be called, as the trial left it.
        run_s: How long one row takes, of the signature that takes longest; 0 where not all could be tried.
        content: The file.
    """
    if len(content) > LARGE_BYTES:
        return f"the file has {len(content) / 2**20:.0f} MiB"
    if run_s > LONG_S:
        return f"a run takes {run_s * 1e3:.3g} ms"
    for signature in signatures.values():
        for spec in signature.inputs.values():
            prepared = (spec.shape or ())[1:] if signature.batches else spec.shape
            if prepared is None or VARIABLE in prepared:
                return f"signature {signature.name!r} has an input whose sizes are known from requests alone: {spec}"
    try:
        why = harm(read_graphs(content))
    except Unreadable as error:
        return str(error)
    return why or ("" if run_s else "not all of its signatures ran on zeros")


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
        limit_s = RIVAL_STEP_S if any((path / other).is_file() for other in _OTHER_FORM) else STEP_S
        return try_out(load, file.fd, nursery=nursery, title=title, stop=stop, limit_s=limit_s)
    except LoadFailed as error:
        raise LoadFailed(f"{form.source}: {error}") from error


def litert_bytes(path: Path) -> int:
    """What a version's LiteRT form takes: 32 MiB, the file, and its weights packed for a few shapes.

    Raises:
        OSError: a file can't be looked at.
    """
    return _INTERPRETERS_BYTES + (1 + _COPIES) * size_bytes(path)
