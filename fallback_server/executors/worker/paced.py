"""A SavedModel in one thread a run or in many, whichever its runs show to be better."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.core.resources import free_bytes
from fallback_server.executors.base import RunSizes
from fallback_server.executors.saved_model import SavedModelOptions, estimated_bytes
from fallback_server.executors.timing import usable_cores
from fallback_server.executors.worker.executor import WorkerExecutor, open_in_worker
from fallback_server.executors.worker.nursery import Nursery

_log = logging.getLogger(__name__)

MAX_BYTES = 2**29
"""Of a version's memory: a larger one is not loaded a second time for the trial."""

_LEAST_LIMIT_S = 10.0
_LIMIT_FACTOR = 5
"""Times what the first load took, and that above it: so long the trial may take."""

_TIMES_FREE = 4
"""What the trial takes is not kept for it, as what a load takes is: others that load meanwhile are to have room."""


def open_paced(
    path: Path,
    *,
    options: SavedModelOptions,
    nursery: Nursery,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes | None = None,
) -> WorkerExecutor:
    """Loads the SavedModel in a folder, with as many threads for an operation as suit it.

    TensorFlow gives each operation a thread for each core. To wake them costs a small operation more than they spare
    it, and a net of a hundred small ones half of its time: two runs side by side, of one thread each, then take less
    time than one after the other. How many there are holds for a process, so the other way is tried in another one.

    Args:
        path: The version's folder.
        options: How TensorFlow runs; where they say how many threads an operation has, nothing is tried.
        nursery: Starts the processes.
        title: For logs.
        on_lost: See `open_in_worker`.
        stop: See `open_in_worker`.
        sizes: See `open_in_worker`.

    Raises:
        LoadFailed: it can't be loaded, or its process ended meanwhile.
    """

    def opened(options: SavedModelOptions, lost: _Lost, stop: LoadStop | None) -> WorkerExecutor:
        return open_in_worker(path, options=options, nursery=nursery, title=title, on_lost=lost, stop=stop, sizes=sizes)

    of_many, of_one = _Lost(on_lost), _Lost(on_lost)
    begin_s = time.monotonic()
    many = opened(options, of_many, stop)
    try:
        if not (many.cost_s and _may_try(path, options)):
            of_many.serves()
            return many
        limit_s = _LEAST_LIMIT_S + _LIMIT_FACTOR * (time.monotonic() - begin_s)
        with _limited(stop, limit_s) as limited:
            one = opened(dataclasses.replace(options, intra_op_parallelism=1), of_one, limited)
    except (LoadFailed, OSError) as error:
        if stop is not None and stop.asked:
            many.close()
            raise
        _log.warning("%s: could not be tried with one thread for an operation: %s", title, error)
        of_many.serves()
        return many
    except BaseException:
        many.close()
        raise
    chosen, other = (one, many) if many.ended or one_is_better(one, many) else (many, one)
    other.close()
    (of_one if chosen is one else of_many).serves()
    shared = sorted(one.cost_s.keys() & many.cost_s.keys())
    figures = "; ".join(_figures(name, one.cost_s[name], many.cost_s[name]) for name in shared)
    _log.info(
        "%s: an operation has %s: %s", title, "one thread" if chosen is one else "a thread for each core", figures
    )
    return chosen


@contextlib.contextmanager
def _limited(stop: LoadStop | None, limit_s: float) -> Iterator[LoadStop]:
    """A load in here is ended when it is to be, or after so long: it is for a trial, and something serves already."""
    limited = LoadStop()
    if stop is not None:
        stop.calls(limited.ask)
    timer = threading.Timer(limit_s, limited.ask)
    timer.daemon = True
    timer.start()
    try:
        yield limited
    finally:
        timer.cancel()


class _Lost:
    """Tells of a process that ended, if it is the one that serves: the other's end is nobody's loss. Thread-safe."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._serves = False
        self._how: str | None = None

    def __call__(self, how: str) -> None:
        with self._lock:
            self._how = how
            serves = self._serves
        if serves:
            self._on_lost(how)

    def serves(self) -> None:
        """It was chosen; tells at once what has come before."""
        with self._lock:
            self._serves = True
            how = self._how
        if how is not None:
            self._on_lost(how)


def one_is_better(one: WorkerExecutor, many: WorkerExecutor) -> bool:
    """Whether no signature's run takes longer with one thread, of a row and of as many as are merged then."""
    for name in one.cost_s.keys() | many.cost_s.keys():
        ours, theirs = one.cost_s.get(name), many.cost_s.get(name)
        if ours is None:  # Too short to be measured, and the other's is not.
            continue
        if theirs is None:
            return False
        merged = one.signatures[name].worth_rows or max(ours)
        if any(ours[rows] > theirs.get(rows, 0.0) for rows in (1, merged)):
            return False
    return True


def _may_try(path: Path, options: SavedModelOptions) -> bool:
    if options.intra_op_parallelism or usable_cores() == 1:
        return False
    needed_bytes, there_bytes = estimated_bytes(path), free_bytes()
    return needed_bytes <= MAX_BYTES and (there_bytes is None or there_bytes >= _TIMES_FREE * needed_bytes)


def _figures(name: str, one_s: Mapping[int, float], many_s: Mapping[int, float]) -> str:
    rows = sorted(one_s.keys() & many_s.keys())
    told = ", ".join(f"{count}: {one_s[count] * 1e3:.3g} and {many_s[count] * 1e3:.3g} ms" for count in rows)
    return f"runs of {name} with one thread and with many, by rows: {told}"
