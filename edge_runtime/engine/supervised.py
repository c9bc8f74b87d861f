"""A session that may hang, in this process: it runs on a thread that can be left behind."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from converter.artifact import Signature
from edge_runtime.engine.base import Session
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import EngineFailed, EngineLost
from edge_runtime.types import Arrays

MAX_ABANDONED_THREADS = 8
"""Each holds its interpreter and its stack for as long as the process lives. A device that needs more replacements
than that belongs in a process of its own, which can be killed."""

_CLOSE_LIMIT_S = 2.0
"""For a run that goes on, and for the delegate to let go of its device."""

_abandoned: set[threading.Thread] = set()
_abandoned_lock = threading.Lock()


def abandoned_threads() -> int:
    """How many threads of this process hang in a run that was given up; one that ends after all counts no longer."""
    with _abandoned_lock:
        _abandoned.difference_update([one for one in _abandoned if not one.is_alive()])
        return len(_abandoned)


class _Run:
    """One run: what goes in and what comes out. Its caller may have gone when it ends; then nobody sees the result."""

    __slots__ = ("ended", "error", "inputs", "outputs", "signature")

    def __init__(self, signature: str, inputs: Arrays) -> None:
        self.signature = signature
        self.inputs = inputs
        self.outputs: Arrays = {}
        self.error: BaseException | None = None
        self.ended = threading.Lock()
        self.ended.acquire()


class ThreadSession:
    """See `Session`. Runs a session on a thread of its own, past whose limit the caller goes on without it.

    The hand-over adds 25 to 30 us to the median run (two shared x86-64 cores, `benchmarks/isolation.py`). The library
    must let go of the interpreter's lock while it runs, or else nothing in this process goes on: LiteRT's classic
    interpreter does, its CompiledModel does not. In a forked process, where the thread does not run, each run raises
    EngineLost.

    Attributes:
        slots: 1.
        tensors: See `ProcessSession`.
    """

    slots = 1

    def __init__(self, session: Session, name: str, tensors: Signature | None = None) -> None:
        """Takes a session, which is closed with it, on the thread that runs it.

        Args:
            session: What is run.
            name: For errors and the thread's name: the device string.
            tensors: The file's own, where its specification has no signatures.

        Raises:
            EngineFailed: `MAX_ABANDONED_THREADS` hang already. The session is left to the caller.
        """
        if (count := abandoned_threads()) >= MAX_ABANDONED_THREADS:
            raise EngineFailed(
                f"{name}: {count} threads of this process hang in devices that were given up; no more are started. "
                'Restart the application, or use isolation="process"'
            )
        self.tensors = tensors or getattr(session, "tensors", None)
        self._name = name
        self._session = session
        self._runs: SimpleQueue[_Run | None] = SimpleQueue()
        self._loss = ""
        self._closed = False
        self._origin = Origin()
        self._thread = threading.Thread(target=self._serve, name=f"edge-device-{name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stuck" if self._loss else "alive"
        return f"<ThreadSession {self._name}, {state}, {self._session!r}>"

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """See `Session`. The limit also counts the run of another caller that goes on."""
        self._origin.check(self._name)
        if self._closed or self._loss:
            raise self._lost()
        run = _Run(signature, inputs)
        self._runs.put(run)
        if not run.ended.acquire(timeout=-1 if limit_s is None else limit_s):
            self._abandon(f"{self._name}, signature {signature!r}: took more than {limit_s:g} s, and is left to itself")
            raise self._lost()
        if run.error is not None:
            raise run.error
        return run.outputs

    def close(self) -> None:
        """See `Session`. Waits shortly for the device to be let go, unless it is stuck. Again: does nothing."""
        if self._closed or not self._origin.is_here:
            return
        self._closed = True
        self._runs.put(None)
        if not self._loss:
            self._thread.join(_CLOSE_LIMIT_S)
            if self._thread.is_alive():
                self._abandon(f"{self._name}: could not be closed within {_CLOSE_LIMIT_S:g} s")

    def _lost(self) -> EngineLost:
        if self._loss:
            return EngineLost(self._loss, "stuck")
        return EngineLost(f"{self._name}: the session was closed", "vanished")

    def _abandon(self, text: str) -> None:
        self._loss = text
        with _abandoned_lock:
            _abandoned.add(self._thread)
        self._runs.put(None)

    def _serve(self) -> None:
        while (run := self._runs.get()) is not None and not self._loss:
            try:
                run.outputs = self._session.run(run.signature, run.inputs)
            except BaseException as error:  # noqa: BLE001  it is the caller's
                run.error = error
            run.ended.release()
            del run  # Its arrays are the caller's, not this thread's until the next run.
        self._session.close()
