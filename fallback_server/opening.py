"""Loads a version by whatever its files are for; where they leave a choice, by what is measured to be faster."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fallback_server.batching.options import BatchingOptions
from fallback_server.choosing import TOLERANCE, Candidate, compare
from fallback_server.core.errors import InvalidInput, LoadFailed, VersionRefused
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import Executor, RunSizes
from fallback_server.executors.choice import Choice, Measured, choose
from fallback_server.executors.registry import AUTO, OnGone, Platform, Registry, rivals
from fallback_server.warmup import MAX_ROWS, warm_up

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A version that is loaded and warmed up.

    Attributes:
        executor: Runs it.
        choice: Why that does.
    """

    executor: Executor
    choice: Choice


def run_sizes(options: BatchingOptions) -> RunSizes:
    """How a version is run whose requests are merged so: in allowed sizes, else in powers of two. Pure."""
    largest = min(options.max_batch_size_rows, MAX_ROWS)
    powers = itertools.takewhile(lambda size: size < largest, (2**exponent for exponent in itertools.count()))
    allowed = options.allowed_batch_sizes
    rows = allowed if allowed[:1] == (1,) else (1, *allowed) if allowed else (*powers, largest)
    return RunSizes(rows=rows, threads=options.num_batch_threads)


class Opener:
    """Loads one version. One thread.

    Args:
        registry: The executors.
        path: The version's folder.
        options: How its requests are merged.
        kind: What is to run it; `AUTO` for what its files say.
        title: For logs.
        on_lost: Called once if what was opened dies before it is closed.
        stop: Ends the load, until it is over.
        warm: Whether it is warmed up. Forms are compared in any case, where there are several.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registry: Registry,
        path: Path,
        options: BatchingOptions,
        *,
        kind: str = AUTO,
        title: str,
        on_lost: OnGone,
        stop: LoadStop | None = None,
        warm: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._path = path
        self._options = options
        self._kind = kind
        self._title = title
        self._on_lost = on_lost
        self._stop = stop
        self._warm = warm
        self._clock = clock

    def open(self) -> Opened:
        """Loads and warms up.

        Raises:
            LoadFailed: it can't be loaded, in no form.
            Exception: whatever an executor says.
        """
        forms = rivals(self._registry.forms(self._path, self._kind))
        if len(forms) == 1:
            executor = self._opened(forms[0], self._on_lost)
            return Opened(executor=executor, choice=Choice(kind=executor.kind))
        return self._chosen(forms)

    def _opened(self, form: Platform, on_lost: OnGone) -> Executor:
        executor = form.open(
            self._path, title=self._title, on_lost=on_lost, stop=self._stop, sizes=run_sizes(self._options)
        )
        try:
            warm_up(executor, self._path, self._options, enabled=self._warm, clock=self._clock)
        except BaseException:
            executor.close()
            raise
        return executor

    def _chosen(self, forms: Sequence[Platform]) -> Opened:
        candidates = [Candidate(form.name, self._on_lost) for form in forms]
        try:
            for form, candidate in zip(forms, candidates, strict=True):
                self._try(form, candidate)
            sound = [each for each in candidates if each.executor is not None]
            compared = 0
            for each in sound[1:]:
                compared += compare(sound[0], each, self._path, largest_rows=run_sizes(self._options).rows[-1])
            measured = [each.measured() for each in candidates]
            _check_any(measured, all_refused=all(each.files_refused for each in candidates))
            choice = choose(measured, TOLERANCE, compared=compared)
        except BaseException:
            for each in candidates:
                each.close()
            raise
        best = next(each for each in candidates if each.kind == choice.kind)
        for each in candidates:
            if each is not best:
                each.close()
        _log.info("%s: %s", self._title, choice.why)
        best.loss.serves()
        return Opened(executor=best.loaded, choice=choice)

    def _try(self, form: Platform, candidate: Candidate) -> None:
        """Loads one form of several: where it fails, the others may serve."""
        try:
            candidate.executor = self._opened(form, candidate.loss.tell)
        except Exception as error:
            if self._stop is not None and self._stop.asked:
                raise
            candidate.refusal = " ".join(str(error).split()) or type(error).__name__
            candidate.files_refused = isinstance(error, (VersionRefused, InvalidInput))


def _check_any(measured: Sequence[Measured], *, all_refused: bool) -> None:
    """Refuses a version that can be served in no form; the same files would be refused again where all were."""
    if all(each.refusal for each in measured):
        error = VersionRefused if all_refused else LoadFailed
        raise error("; ".join(f"{each.kind}: {each.refusal}" for each in measured))
