"""A SavedModel in one thread a run or in many, whichever its runs show to be better."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.core.resources import free_bytes
from fallback_server.core.scan import read_tree
from fallback_server.executors.base import RunSizes
from fallback_server.executors.findings import Finding, Pace, Remembered
from fallback_server.executors.loss import HeldLoss
from fallback_server.executors.saved_model import SavedModelOptions, estimated_bytes
from fallback_server.executors.timing import usable_cores
from fallback_server.executors.worker.executor import WorkerExecutor, open_in_worker
from fallback_server.executors.worker.nursery import Nursery

_log = logging.getLogger(__name__)

MAX_BYTES = 2**29
"""Of a version's memory: a larger one is not loaded a second time for the trial."""

_LEAST_LIMIT_S = 3.0
_LIMIT_FACTOR = 2
"""Times what the first load took in its process, or that above if it is more: so long the second one may take."""

_TIMES_FREE = 4
"""What the trial takes is not kept for it, as what a load takes is: others that load meanwhile are to have room."""


def open_paced(
    path: Path,
    *,
    options: SavedModelOptions,
    nursery: Nursery,
    remembered: Remembered,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes | None = None,
) -> WorkerExecutor:
    """Loads the SavedModel in a folder, with as many threads for an operation as suit it.

    TensorFlow gives each operation a thread for each core. To wake them costs a small operation more than they spare
    it, and a net of a hundred small ones half of its time: two runs side by side, of one thread each, then take less
    time than one after the other. How many there are holds for a process, so the other way is tried in another one.

    A version whose process was lost is loaded as it was before, and nothing is measured: requests wait for it.

    Args:
        path: The version's folder.
        options: How TensorFlow runs; where they say how many threads an operation has, nothing is tried.
        nursery: Starts the processes.
        remembered: How the versions ran that were lost.
        title: For logs.
        on_lost: See `open_in_worker`.
        stop: See `open_in_worker`.
        sizes: See `open_in_worker`.

    Raises:
        LoadFailed: it can't be loaded, or its process ended meanwhile.
    """

    def load(
        threads: int, known: Mapping[str, Finding], tell: Callable[[str], None], stop: LoadStop | None
    ) -> WorkerExecutor:
        return open_in_worker(
            path,
            options=dataclasses.replace(options, intra_op_parallelism=threads),
            nursery=nursery,
            title=title,
            on_lost=tell,
            stop=stop,
            sizes=sizes,
            known=known,
        )

    # Before anything is read: what changes from here on is not what was measured.
    key = _key(path, options)
    one_load = _Load(load, title=title, on_lost=on_lost, stop=stop, remembered=remembered, key=key)
    return one_load.run(options.intra_op_parallelism, may_try=lambda: _may_try(path, options))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Form:
    executor: WorkerExecutor
    loss: HeldLoss
    threads: int


class _Load:
    """One version's load.

    Args:
        load: Loads it in a process of its own: with so many threads, and what is known of it.
        title: For logs.
        on_lost: See `open_paced`.
        stop: See `open_paced`.
        remembered: See `open_paced`.
        key: What it is remembered by; None where it can't be.
    """

    def __init__(
        self,
        load: Callable[[int, Mapping[str, Finding], Callable[[str], None], LoadStop | None], WorkerExecutor],
        *,
        title: str,
        on_lost: Callable[[str], None],
        stop: LoadStop | None,
        remembered: Remembered,
        key: Hashable,
    ) -> None:
        self._load = load
        self._title = title
        self._on_lost = on_lost
        self._stop = stop
        self._remembered = remembered
        self._key = key
        self._pace: Pace | None = None

    def run(self, threads: int, *, may_try: Callable[[], bool]) -> WorkerExecutor:
        """Loads it, tries it in a second process where that may help, and ends the one that doesn't serve."""
        if (known := self._remembered.taken(self._key)) is not None:
            return self._serving(self._form(known.threads, self._stop, known.findings))
        many = self._form(threads, self._stop)
        try:
            measured = any(found.cost_s for found in many.executor.findings.values())
            one = self._second(many) if measured and may_try() else None
            if one is None:
                return self._serving(many)
        except BaseException:
            many.executor.close()
            raise
        return self._serving(self._chosen(one, many))

    def _form(self, threads: int, stop: LoadStop | None, known: Mapping[str, Finding] | None = None) -> _Form:
        loss = HeldLoss(self._lost)
        return _Form(executor=self._load(threads, known or {}, loss.tell, stop), loss=loss, threads=threads)

    def _second(self, many: _Form) -> _Form | None:
        """The version with one thread for an operation; None where that could not be loaded, or not in time.

        Raises:
            LoadFailed: the load is to end, or the first process has ended as well.
        """
        limit_s = max(_LEAST_LIMIT_S, _LIMIT_FACTOR * many.executor.load_s)
        limited = _Limited(self._stop)
        why = ""
        one = None
        try:
            with limited.after(limit_s):
                one = self._form(1, limited)
        except (LoadFailed, OSError) as error:
            if self._stop is not None and self._stop.asked:
                raise
            why = str(error)
        if limited.asked:
            why = f"it took longer than {limit_s:.3g} s"
            if one is not None:  # Ended just as it was loaded.
                one.executor.close()
                one = None
        if one is None:
            _log.warning("%s: could not be tried with one thread for an operation: %s", self._title, why)
            if many.executor.ended:
                raise LoadFailed(_ended(many))
        return one

    def _chosen(self, one: _Form, many: _Form) -> _Form:
        """The one that serves; the other is closed."""
        if one.executor.ended and many.executor.ended:
            for form in (one, many):
                form.executor.close()
            raise LoadFailed(_ended(many))
        if one.executor.ended or many.executor.ended:
            chosen, other = (many, one) if one.executor.ended else (one, many)
            why = f"the process of the other one ended ({other.loss.how})"
        else:
            better = one_is_better(one.executor, many.executor)
            chosen, other = (one, many) if better else (many, one)
            why = _figures(one.executor.findings, many.executor.findings)
        for name, found in other.executor.findings.items():
            if found.mixes_rows and not chosen.executor.findings[name].mixes_rows:
                chosen.executor.keep_apart(name)
        other.executor.close()
        _log.info(
            "%s: an operation has %s: %s",
            self._title,
            "one thread" if chosen is one else "a thread for each core",
            why,
        )
        return chosen

    def _serving(self, form: _Form) -> WorkerExecutor:
        self._pace = Pace(threads=form.threads, findings=form.executor.findings)
        form.loss.serves()
        return form.executor

    def _lost(self, how: str) -> None:
        if self._pace is not None and self._key is not None:
            self._remembered.keep(self._key, self._pace)
        self._on_lost(how)


class _Limited(LoadStop):
    """Ends a load that is a trial: after so long, if it is not over by then, and with the load that it is for.

    Attributes:
        asked: Whether it took too long, and was ended for it.
    """

    def __init__(self, stop: LoadStop | None) -> None:
        super().__init__()
        self._stop = stop

    def calls(self, end: Callable[[], None]) -> None:
        """As `LoadStop.calls`; also once the load that this is for is to end, and that until it is over."""
        super().calls(end)
        if self._stop is not None:
            self._stop.calls(end)

    @contextlib.contextmanager
    def after(self, limit_s: float) -> Iterator[None]:
        """What is loaded in here is ended after so long. Who comes out of here is ended no more, or has been."""
        timer = threading.Timer(limit_s, self.ask)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            self.over()
            timer.cancel()


def one_is_better(one: WorkerExecutor, many: WorkerExecutor) -> bool:
    """Whether no signature's run takes longer with one thread, of a row and of as many as are merged then.

    What ran in one of them alone speaks for that one, whatever the times are; it is not too short to be timed.
    """
    ours, theirs = one.findings, many.findings
    if any(found.ran and not ours[name].ran for name, found in theirs.items()):
        return False
    if any(found.ran and not theirs[name].ran for name, found in ours.items()):
        return True
    for name, found in ours.items():
        if not found.cost_s:  # Too short to be measured.
            continue
        if not theirs[name].cost_s:
            return False
        merged = one.signatures[name].worth_rows or max(found.cost_s)
        if any(found.cost_s[rows] > theirs[name].cost_s.get(rows, 0.0) for rows in (1, merged)):
            return False
    return True


def _may_try(path: Path, options: SavedModelOptions) -> bool:
    if options.intra_op_parallelism or usable_cores() == 1:
        return False
    needed_bytes, there_bytes = estimated_bytes(path), free_bytes()
    return needed_bytes <= MAX_BYTES and (there_bytes is None or there_bytes >= _TIMES_FREE * needed_bytes)


def _key(path: Path, options: SavedModelOptions) -> Hashable:
    """What a version is remembered by: its files as they stand there, and all that what was measured depends on."""
    try:
        tree = read_tree(path)
    except OSError:
        return None  # The load will say what is wrong.
    return path.absolute(), tree.digest, tree.newest_s, options, usable_cores()


def _ended(form: _Form) -> str:
    how = form.loss.how
    return "the load was stopped" if how is None else f"the model's process ended ({how}) while it loaded"


def _figures(one: Mapping[str, Finding], many: Mapping[str, Finding]) -> str:
    shared = sorted(name for name in one.keys() & many.keys() if one[name].cost_s and many[name].cost_s)
    told = []
    for name in shared:
        one_s, many_s = one[name].cost_s, many[name].cost_s
        rows = sorted(one_s.keys() & many_s.keys())
        by_rows = ", ".join(f"{count}: {one_s[count] * 1e3:.3g} and {many_s[count] * 1e3:.3g} ms" for count in rows)
        told.append(f"runs of {name} with one thread and with many, by rows: {by_rows}")
    return "; ".join(told)
