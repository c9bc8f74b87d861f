"""Runs TFLite files with LiteRT, in this process: there is no hop to another, which takes longer than a small model.

What crashes or hangs would take the server along, so a file comes in here only after another process has run it, and if
no values can make it do so; see `tried_litert`. All others run in that process, by the same code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from fallback_server.core.errors import InvalidInput, LoadFailed, VersionNotReady
from fallback_server.executors.base import Array, RunSizes, Signature
from fallback_server.executors.definitions import definitions
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.litert_flow import foreign_values
from fallback_server.executors.litert_graph import Unreadable, graphs_of_file
from fallback_server.executors.litert_rules import keeps_state
from fallback_server.executors.litert_runner import Runner, graphs_of, one_line
from fallback_server.executors.probing import keeps_rows, made_up, mixes_rows
from fallback_server.executors.sizes import thinned
from fallback_server.executors.timing import LONG_RUN_S, least_s, usable_cores

_log = logging.getLogger(__name__)

KEPT_BYTES = 2**29
"""Of all interpreters of a version together, where a few don't take more: each packs the weights anew."""

_MIN_KEPT = 4
_ENOUGH_THREADS = 4
_TRIED_SIZE = 3
"""In place of variable ones, in the trial's process: what hangs or crashes whatever comes is found there."""

_CLEARLY = 0.8
"""Of the time: a lesser gain of one request is lost again when several run at once."""

_MOMENT_S = 0.05
"""Longer than the next request takes to reach a busy server's run, with a batch's rows put together."""


class LiteRtExecutor:
    """A TFLite file. See `Executor`.

    Args:
        file: Its bytes; closed by `close`.
        sizes: How it will be run.
        whole: Signatures whose requests must not be merged.
        threads: Of one run; 0: one, or several where a trial shows that this is clearly faster.
        progress: Called at each step of the warm-up.
        all_cores: Lets the process have all cores that it will have, where it has fewer while it loads.

    Attributes:
        threads: Of one run; where several are found to be faster, of one beside which no other of this model runs.
        run_s: How long one row takes, of the signature that takes longest; 0 before `warm_up`, and where that could not
            run all of them.

    Raises:
        LoadFailed: LiteRT refuses the file, an answer might hold values that are not its own, or it has nothing that
            can be called.
    """

    kind = "litert"
    platform = "tensorflow"
    in_process = True

    def __init__(
        self,
        file: SealedFile,
        *,
        sizes: RunSizes,
        whole: frozenset[str] = frozenset(),
        threads: int = 0,
        progress: Callable[[], object] = lambda: None,
        all_cores: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._file = file
        self._progress = progress
        self._all_cores = all_cores
        self._asked_threads = threads
        self.threads = max(threads, 1)
        self.run_s = 0.0
        kept = max(_MIN_KEPT, KEPT_BYTES // max(file.size_bytes, 1))
        self._sizes = thinned(sizes.rows, max(2, kept // sizes.threads))
        self._limit = max(1, min(sizes.threads, kept // len(self._sizes)))
        stateful = _keeps_state(file)  # Before LiteRT reads it: that believes all that the file says.
        self._graphs = {graph.name: graph for graph in graphs_of(self.interpreter())}
        progress()
        for graph in self._graphs.values():
            # Several interpreters would each have their own; each request is to be answered as the first was.
            graph.keeps_state = stateful
        self._signatures = {
            name: dataclasses.replace(graph.signature, mixes_rows=name in whole) for name, graph in self._graphs.items()
        }
        if not self._signatures:
            raise LoadFailed("it has no signature with outputs")
        self._signature_defs = definitions(self._signatures.values())
        self._runners = self._made_runners(self.threads)
        self._wide: dict[str, Runner] = {}
        self._running: list[None] = []
        self._beside_s = -math.inf

    @property
    def file(self) -> SealedFile:
        """Its bytes, for other processes to map."""
        return self._file

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature; see `Executor.run`. The outputs are the caller's own."""
        try:
            return self._beside_others(signature, inputs) if self._wide else self._runners[signature].run(inputs)
        except KeyError:
            if signature in self._runners:
                raise
            raise VersionNotReady("the version is taken out of service; the request was not run") from None
        except (RuntimeError, ValueError) as error:
            raise _refused(error) from error

    def warm_up(self) -> None:
        """Runs each signature on zeros, in all its sizes, and sees whether rows mix.

        Requests of signatures that no zeros can be made for, or that refuse them, are merged only where other values
        show that rows keep apart.
        """
        run_s = []
        for name, signature in list(self._signatures.items()):
            zeros = made_up(signature)
            took_s = None
            try:
                if zeros is not None:
                    took_s = self._warm_up(name, signature, zeros)
                elif other := made_up(signature, size=_TRIED_SIZE, strings=True):
                    self._run_of(name)(other)
            except InvalidInput as error:
                _log.info("signature %r did not run on what was made up: %s", name, error)
            if took_s is None and signature.batches and not keeps_rows(self._run_of(name, together=True), signature):
                self._keep_whole(name, "nothing could be tried that shows whether its rows keep apart")
            run_s.append(took_s)
        self.run_s = max((each for each in run_s if each is not None), default=0.0) if None not in run_s else 0.0

    def fill(self) -> None:
        """Plans now whatever would be planned when several run at once."""
        for runner in (*self._runners.values(), *self._wide.values()):
            runner.fill()

    def renew(self) -> None:
        """Makes what runs on several threads anew: these are as nice as whoever makes them, and can't become less so.

        Called once the version has been loaded by a thread that made room for others, in one that doesn't.
        """
        if self.threads > 1:
            for runner in (self._wide or self._runners).values():
                runner.renew()
                if self._wide:  # One of each size; else further ones are made when several run at once.
                    runner.fill()

    def stands_for(self, methods: Mapping[str, str], signature_defs: bytes) -> None:
        """Takes the words of another form of the same version, so that clients see no difference.

        Args:
            methods: Signature name -> its method.
            signature_defs: All of the other form's signatures.
        """
        self._signature_defs = signature_defs
        self._signatures = {
            name: dataclasses.replace(signature, method=methods.get(name, signature.method))
            for name, signature in self._signatures.items()
        }

    def close(self) -> None:
        """Lets go of all interpreters."""
        runners, self._runners, self._wide = (*self._runners.values(), *self._wide.values()), {}, {}
        for runner in runners:
            runner.close()
        self._file.close()

    def interpreter(self, threads: int = 1) -> Any:
        """Another interpreter of the file, which maps the same pages.

        Args:
            threads: Of one run.

        Raises:
            LoadFailed: LiteRT refuses it.
        """
        module = import_litert()
        try:
            return module.Interpreter(model_path=self._file.path, num_threads=threads)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise LoadFailed(f"LiteRT can't load it: {one_line(error)}") from error

    def _beside_others(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs on several threads what is this model's only run, and on one what runs beside others of it.

        Threads of one run wait for each other busily, at each of its operations, which takes the time from the others.
        Where several run at a time, one is alone for the moment that the next takes to come after another has ended:
        so it is the only one only when there were no others a moment ago either.
        """
        self._running.append(None)  # No lock: to append and to take away are single steps.
        try:
            alone = len(self._running) == 1 and time.monotonic() - self._beside_s > _MOMENT_S
            return (self._wide if alone else self._runners)[signature].run(inputs)
        finally:
            self._running.pop()
            if self._running:
                self._beside_s = time.monotonic()

    def _made_runners(self, threads: int, *, limit: int = 0) -> dict[str, Runner]:
        return {name: self._made_runner(name, threads, limit=limit) for name in self._graphs}

    def _made_runner(self, name: str, threads: int, *, limit: int = 0) -> Runner:
        return Runner(
            functools.partial(self.interpreter, threads),
            self._graphs[name],
            self._signatures[name],
            sizes=self._sizes,
            limit=limit or self._limit,
            most_bytes=KEPT_BYTES // 2 if limit else KEPT_BYTES,
        )

    def _run_of(self, name: str, *, together: bool = False) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Runs a signature, and tells of it; `together` for no other rows than are given, and all at once."""

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            runner = self._runners[name]
            try:
                outputs = runner.run_together(inputs) if together else runner.run(inputs)
            except (RuntimeError, ValueError) as error:
                raise _refused(error) from error
            self._progress()
            return outputs

        return run

    def _warm_up(self, name: str, signature: Signature, zeros: dict[str, Array]) -> float:
        """Returns how long one row takes, in seconds."""
        run = self._run_of(name)
        run(zeros)
        if signature.batches and mixes_rows(self._run_of(name, together=True), zeros):
            self._keep_whole(name, "a row's answer depends on the rows beside it")
        if self._asked_threads == 0 and self.threads == 1:
            self._choose_threads(name, zeros)
        # On fewer cores threads of one run would wait for each other: neither a measure nor soon over.
        with self._all_cores() if self.threads > 1 else contextlib.nullcontext():
            return self._measured(name, zeros)

    def _measured(self, name: str, zeros: Mapping[str, Array]) -> float:
        """Sees what runs of each size take, and so how many rows are merged; returns what `_warm_up` does."""
        try:
            keeps_number = self._runners[name].measure(zeros, progress=self._progress)
            if name in self._wide:
                self._wide[name].measure(zeros, progress=self._progress)
        except (RuntimeError, ValueError) as error:
            raise _refused(error) from error
        if not keeps_number:
            self._keep_whole(name, "its outputs have not as many rows as its inputs")
        elif most := self._runners[name].worth_rows:
            self._signatures[name] = dataclasses.replace(self._signatures[name], worth_rows=most)
            _log.info("signature %r: runs of %d rows take the least time a row: so many are merged", name, most)
        return least_s(functools.partial(self.run, name, zeros), progress=self._progress)

    def _keep_whole(self, name: str, why: str) -> None:
        """Has a signature's requests run one by one."""
        self._signatures[name] = dataclasses.replace(self._signatures[name], mixes_rows=True)
        self._signature_defs = definitions(self._signatures.values())
        for runners, threads in ((self._runners, 1 if self._wide else self.threads), (self._wide, self.threads)):
            if name in runners:
                runners[name].close()
                runners[name] = self._made_runner(name, threads, limit=1 if runners is self._wide else 0)
        _log.warning("signature %r: %s: its requests are not merged", name, why)

    def _choose_threads(self, name: str, zeros: Mapping[str, Array]) -> None:
        """Has several threads run one row, where that is clearly faster: to wake them takes longer than a small run.

        On the cores that there will be, and both beside whatever others do meanwhile.
        """
        alone = functools.partial(self._run_of(name), zeros)
        if least_s(alone) < LONG_RUN_S:
            return
        with self._all_cores():
            threads = min(_ENOUGH_THREADS, usable_cores())
            if threads == 1:
                return
            # One at a time is the only one.
            wide = unused = self._made_runners(threads, limit=1)
            alone_s = least_s(alone)
            wide_s = least_s(functools.partial(wide[name].run, zeros), progress=self._progress)
        if wide_s <= _CLEARLY * alone_s:
            self.threads = threads
            if self._limit > 1:
                self._wide, unused = wide, {}
            else:
                self._runners, unused = wide, self._runners
        for runner in unused.values():
            runner.close()


def open_litert(
    file: SealedFile,
    *,
    sizes: RunSizes,
    whole: frozenset[str] = frozenset(),
    threads: int = 0,
    progress: Callable[[], object] = lambda: None,
    all_cores: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    fill: bool = False,
) -> LiteRtExecutor:
    """Loads a TFLite file and runs it once. The file is closed where that fails.

    Args:
        file: See `LiteRtExecutor`, as for the others.
        sizes: How it will be run.
        whole: Signatures whose requests must not be merged.
        threads: Of one run.
        progress: Called at each step.
        all_cores: As the others.
        fill: Whether all is planned at once, so that no request waits for it.

    Raises:
        LoadFailed: it can't be loaded.
    """
    try:
        executor = LiteRtExecutor(
            file, sizes=sizes, whole=whole, threads=threads, progress=progress, all_cores=all_cores
        )
        executor.warm_up()
        if fill:
            executor.fill()
    except BaseException:
        file.close()
        raise
    return executor


def _refused(error: Exception) -> InvalidInput:
    """All that could be wrong with names, dtypes and shapes was checked, and the file has run before."""
    return InvalidInput(f"the model refused the values: {one_line(error)}")


def _keeps_state(file: SealedFile) -> bool:
    """Whether a run may depend on those before it.

    Raises:
        LoadFailed: that can't be told, or an answer might hold what no run of its request gave.
    """
    try:
        graphs = graphs_of_file(file.fd)
    except (Unreadable, OSError) as error:
        raise LoadFailed(f"it can't be told what it would run: {error}") from error
    if why := foreign_values(graphs):
        raise LoadFailed(f"its answers could hold what is none of their requests': {why}")
    return keeps_state(graphs)


@functools.cache
def import_litert() -> Any:
    """LiteRT's module, loaded by whoever loads a file first."""
    from ai_edge_litert import interpreter  # noqa: PLC0415  100 ms, only for whoever loads a file

    return interpreter
