"""The segments of a model that was cut by edgetpu_compiler, each on a device of its own, as one session."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Literal

from converter.artifact import Signature
from edge_runtime.engine.base import Session, Worker
from edge_runtime.engine.origin import Origin
from edge_runtime.engine.wiring import wiring
from edge_runtime.errors import EngineFailed, EngineLost, PackageRefused
from edge_runtime.types import Arrays

PLACES_BETWEEN = 2
"""Requests that wait between two segments: one that is next, and one more, so that a caller's thread that wakes late
leaves no device idle."""


class PipelineSession:
    """See `Session`. Thread-safe: `slots` callers at once keep every device busy.

    There are no threads here: each caller's own carries its request from device to device, in the order in which the
    callers came. So a request changes threads nowhere, and what waits is bounded by the callers.

    A run that fails on a device fails its caller alone. A device that is lost loses the pipeline: whoever waits in it
    is told at once, whoever runs on another device when that run has ended. In a forked process each run raises
    EngineLost: the parent's callers may be in the queues there.

    Attributes:
        slots: The devices, and `PLACES_BETWEEN` them.
        workers: The segments' processes, in their order; none where they run in this one.
    """

    def __init__(self, sessions: Sequence[Session], signatures: Sequence[Signature], *, subject: str) -> None:
        """Takes the segments' sessions, which are closed with it; not if it refuses.

        Args:
            sessions: In the order in which they run, each on a device of its own. Their `tensors` say what a file
                takes and gives.
            signatures: The variant's: one, with the package's names.
            subject: What errors call it.

        Raises:
            PackageRefused: the segments do not fit each other or the signature.
        """
        if len(signatures) != 1:
            raise PackageRefused(f"{subject}: a model in segments has one signature, not {len(signatures)}")
        found = [getattr(session, "tensors", None) for session in sessions]
        tensors = [one for one in found if isinstance(one, Signature)]
        if not tensors or len(tensors) != len(sessions):
            raise PackageRefused(f"{subject}: the tensors of {len(sessions) - len(tensors)} segments are not known")
        self._wiring = wiring(tensors, signatures[0], subject)
        self._subject = subject
        self._signature = signatures[0].name
        self._stages = tuple(_Stage(session) for session in sessions)
        self.workers: tuple[Worker, ...] = tuple(one for each in sessions for one in getattr(each, "workers", ()))
        self._loss: tuple[str, Literal["crashed", "stuck", "vanished"]] | None = None
        self._origin = Origin()
        self.slots = len(sessions) + PLACES_BETWEEN * (len(sessions) - 1)

    def __repr__(self) -> str:
        inside = ", ".join(str(stage.callers) for stage in self._stages)
        return f"<PipelineSession {self._subject}, {'lost' if self._loss else f'callers at each device: {inside}'}>"

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """See `Session`.

        The limit is that of each device's run; the time that a request waits for its turn is not counted.
        """
        self._origin.check(self._subject)
        if signature != self._signature:
            raise EngineFailed(f"{self._subject}: has the signature {self._signature!r}, not {signature!r}")
        tensors = {tensor: inputs[name] for name, tensor in self._wiring.inputs.items()}
        turns = [threading.Event() for _ in self._stages]
        self._stages[0].join(turns[0])
        try:
            for at, (stage, step) in enumerate(zip(self._stages, self._wiring.steps, strict=True)):
                turns[at].wait()
                self._check()
                results = stage.session.run("", {name: tensors[name] for name in step.takes}, limit_s)
                tensors = {name: array for name, array in (tensors | results).items() if name in step.kept}
                # Into the next queue before out of this one: nobody can overtake.
                if at + 1 < len(turns):
                    self._stages[at + 1].join(turns[at + 1])
                stage.leave(turns[at])
        except EngineLost as error:
            self._lose(f"{self._subject}: the pipeline has lost a device: {error}", error.cause)
            raise
        finally:
            # Also what an interrupt has left behind.
            for stage, turn in zip(self._stages, turns, strict=True):
                stage.leave(turn)
        return {name: tensors[tensor] for name, tensor in self._wiring.outputs.items()}

    def close(self) -> None:
        """See `Session`; closes the segments' sessions. In a forked process: does nothing."""
        if not self._origin.is_here:
            return
        self._lose(f"{self._subject}: the pipeline was closed", "vanished")
        for stage in self._stages:
            stage.session.close()

    def _check(self) -> None:
        if self._loss is not None:
            raise EngineLost(*self._loss)

    def _lose(self, text: str, cause: Literal["crashed", "stuck", "vanished"]) -> None:
        """The first reason stays."""
        if self._loss is None:
            self._loss = (text, cause)
        for stage in self._stages:
            stage.wake()


class _Stage:
    """One device, and who waits for it, first come first served. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()

    @property
    def callers(self) -> int:
        """Who waits, and who runs."""
        return len(self._queue)

    def join(self, turn: threading.Event) -> None:
        """Takes a place at the end; the event is set when its turn has come."""
        with self._lock:
            self._queue.append(turn)
            self._queue[0].set()

    def leave(self, turn: threading.Event) -> None:
        """Gives up a place, whether its turn had come or not; without a place: does nothing."""
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
                if self._queue:
                    self._queue[0].set()

    def wake(self) -> None:
        """Sets all turns: there is nothing to wait for any more."""
        with self._lock:
            for turn in self._queue:
                turn.set()
