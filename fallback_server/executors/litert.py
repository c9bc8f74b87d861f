"""Runs TFLite files with LiteRT, in this process: there is no hop to another, which takes longer than a small model.

What crashes or hangs would take the server along, so a file comes in here only after another process has run it; see
`trial`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fallback_server.core.errors import InvalidInput, LoadFailed, VersionNotReady
from fallback_server.executors.base import Array, RunSizes, Signature
from fallback_server.executors.definitions import definitions
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.litert_runner import Runner, graphs_of, least_s
from fallback_server.executors.probing import made_up, mixes_rows
from fallback_server.executors.sizes import thinned

_log = logging.getLogger(__name__)

KEPT_BYTES = 2**29
"""Of all interpreters of a version together, where a few don't take more: each packs the weights anew."""

_MIN_KEPT = 4
_ENOUGH_THREADS = 4
_LONG_S = 1e-3
_CLEARLY = 0.8
"""Of the time: a lesser gain of one request is lost again when several run at once."""


class LiteRtExecutor:
    """A TFLite file. See `Executor`.

    Args:
        file: Its bytes; closed by `close`.
        sizes: How it will be run.
        whole: Signatures whose requests must not be merged.
        threads: Of one run; 0: one, or several where a trial shows that this is clearly faster.

    Attributes:
        threads: Of one run.
        run_s: How long one row takes, of the signature that takes longest; 0 before `warm_up`.

    Raises:
        LoadFailed: LiteRT refuses the file, or it has nothing that can be called.
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
    ) -> None:
        self._file = file
        self._asked_threads = threads
        self.threads = max(threads, 1)
        self.run_s = 0.0
        kept = max(_MIN_KEPT, KEPT_BYTES // max(file.size_bytes, 1))
        self._sizes = thinned(sizes.rows, max(2, kept // sizes.threads))
        self._limit = max(1, min(sizes.threads, kept // len(self._sizes)))
        self._graphs = {graph.name: graph for graph in graphs_of(self.interpreter())}
        self._signatures = {
            name: dataclasses.replace(graph.signature, mixes_rows=name in whole) for name, graph in self._graphs.items()
        }
        if not self._signatures:
            raise LoadFailed("it has no signature with outputs")
        self._signature_defs = definitions(self._signatures.values())
        self._runners = self._made_runners()

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
            return self._runners[signature].run(inputs)
        except KeyError:
            if signature in self._runners:
                raise
            raise VersionNotReady("the version is taken out of service; the request was not run") from None
        except (RuntimeError, ValueError) as error:
            # All that could be wrong with names, dtypes and shapes was checked, and the file has run before.
            raise InvalidInput(f"the model refused the values: {' '.join(str(error).split())}") from error

    def warm_up(self) -> None:
        """Runs each signature on zeros, in all its sizes, and sees whether rows mix and whether state is kept.

        Signatures that no zeros can be made for, or that refuse them, are left as they are: requests will tell.
        """
        for name, signature in list(self._signatures.items()):
            zeros = made_up(signature)
            if zeros is None:
                continue
            try:
                self._warm_up(name, signature, zeros)
            except InvalidInput as error:
                _log.info("signature %r did not run on zeros and ones: %s", name, error)

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
        runners, self._runners = self._runners, {}
        for runner in runners.values():
            runner.close()
        self._file.close()

    def interpreter(self) -> Any:
        """Another interpreter of the file, which maps the same pages.

        Raises:
            LoadFailed: LiteRT refuses it.
        """
        module = import_litert()
        try:
            return module.Interpreter(model_path=self._file.path, num_threads=self.threads)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise LoadFailed(f"LiteRT can't load it: {' '.join(str(error).split())}") from error

    def _made_runners(self) -> dict[str, Runner]:
        return {
            name: Runner(self.interpreter, graph, self._signatures[name], sizes=self._sizes, limit=self._limit)
            for name, graph in self._graphs.items()
        }

    def _warm_up(self, name: str, signature: Signature, zeros: dict[str, Array]) -> None:
        self.run(name, zeros)
        if self._keeps_state(name, zeros):
            # Several interpreters would each have their own; each request is to be answered as the first was.
            self._graphs[name].keeps_state = True
            self._runners[name].forget()
        if signature.batches and mixes_rows(functools.partial(self.run, name), zeros):
            self._signatures[name] = dataclasses.replace(signature, mixes_rows=True)
            self._signature_defs = definitions(self._signatures.values())
            self._runners[name].close()
            self._runners[name] = Runner(
                self.interpreter, self._graphs[name], self._signatures[name], sizes=self._sizes, limit=self._limit
            )
            _log.warning(
                "signature %r: a row's answer depends on the rows beside it: its requests are not merged", name
            )
        if self._asked_threads == 0 and self.threads == 1:
            self._choose_threads(name, zeros)
        self._runners[name].measure(zeros, most_bytes=KEPT_BYTES)
        self.run_s = max(self.run_s, least_s(functools.partial(self.run, name, zeros)))

    def _keeps_state(self, name: str, zeros: Mapping[str, Array]) -> bool:
        """Whether ones are answered otherwise the second time; it may be chance as well, which does no harm."""
        ones = {key: np.ones_like(value) for key, value in zeros.items()}
        first, second = self.run(name, ones), self.run(name, ones)
        return any(
            not np.array_equal(value, second[key], equal_nan=value.dtype.kind in "fc") for key, value in first.items()
        )

    def _choose_threads(self, name: str, zeros: Mapping[str, Array]) -> None:
        """Has several threads run one row, where that is clearly faster: to wake them takes longer than a small run."""
        alone_s = least_s(lambda: self.run(name, zeros))
        if alone_s < _LONG_S:
            return
        self.threads = min(_ENOUGH_THREADS, usable_cores())
        before, self._runners = self._runners, self._made_runners()
        if least_s(lambda: self.run(name, zeros)) > _CLEARLY * alone_s:
            self.threads = 1
            before, self._runners = self._runners, before
        for runner in before.values():
            runner.close()


def open_litert(
    file: SealedFile, *, sizes: RunSizes, whole: frozenset[str] = frozenset(), threads: int = 0
) -> LiteRtExecutor:
    """Loads a TFLite file and runs it once; see `LiteRtExecutor`. The file is closed where that fails.

    Raises:
        LoadFailed: it can't be loaded.
    """
    try:
        executor = LiteRtExecutor(file, sizes=sizes, whole=whole, threads=threads)
        executor.warm_up()
    except BaseException:
        file.close()
        raise
    return executor


@functools.cache
def import_litert() -> Any:
    """LiteRT's module, loaded by whoever loads a file first."""
    from ai_edge_litert import interpreter  # noqa: PLC0415  100 ms, only for whoever loads a file

    return interpreter


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
