"""A version in a worker process, as an `Executor`.

Each run goes over a lane: a socket of its own to the worker, which has a thread for it. So runs go side by side, a
reply wakes the thread that waits for it and no other, and the end of the worker is the end of each lane.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from fallback_server.core.errors import (
    ExecutionFailed,
    InvalidInput,
    ProcessLost,
    ServerError,
    VersionNotReady,
)
from fallback_server.core.loader import LoadStop
from fallback_server.executors.base import Array, GivenInputs, RunSizes, Signature, TensorSpec
from fallback_server.executors.findings import Finding
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.executors.worker.messages import Entry, Lane, Load, Loaded, Ran, RunRefused, Spec
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.process import Worker
from fallback_server.executors.worker.wire import Closed, Receiver, send, send_run
from fallback_server.protocol.tensors import numpy_dtype

MAX_LANES = 64
"""How many runs go side by side; further ones wait. More batch threads than that have nothing to gain."""

_CLOSE_S = 5.0
"""For a class of the user's own to close what it has open."""

_STATUS_S = 3.0
"""How long a held request waits to learn how its worker ended."""


class ModelFault(RuntimeError):
    """The model failed on its own, and its worker lives. One line of what TensorFlow said."""


class WorkerExecutor:
    """A loaded version in a worker process. See `Executor`.

    Args:
        worker: The process.
        loaded: What it has said of the version.
        kind: See the attribute.

    Attributes:
        kind: What runs it there.
        platform: As protocols name it; where TensorFlow Serving has a word, that.
        at_once: How many runs it does at a time; 0: as many as reach it.
        findings: What was found of each signature that was tried.
        load_s: How long the load took in the process.
        run_s: How long a row took there, of the signature that takes longest; 0 where that was not measured.
    """

    in_process = False

    def __init__(self, worker: Worker, loaded: Loaded, *, kind: str = "tensorflow") -> None:
        self.kind = kind
        self.platform = "tensorflow" if kind == "litert" else kind
        self._worker = worker
        self.at_once = loaded.at_once
        self.findings = loaded.findings
        self.load_s = loaded.load_s
        self.run_s = max([loaded.run_s, *(found.cost_s.get(1, 0.0) for found in loaded.findings.values())])
        self._signature_defs = loaded.signature_defs
        self._signatures = {entry.name: _signature(entry) for entry in loaded.signatures}
        self._idle: list[_Lane] = []
        self._lanes: set[_Lane] = set()
        self._steps_back = False
        self._closed = False
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MAX_LANES)
        worker.when_gone(self._hang_up)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be called, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> bytes:
        """All signatures as a serialized SignatureDefMap."""
        return self._signature_defs

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature; see `Executor.run`. Large outputs are read-only views of memory shared with nobody else.

        Raises:
            InvalidInput: the model refused the values.
            VersionNotReady: the process is gone, and nothing was run; or it was ended meanwhile for a run that hung.
            ProcessLost: the process ended while it ran this.
            ExecutionFailed: the same, as the version was unloaded.
            ModelFault: the model failed on its own.
        """
        with self._room:
            lane = self._take()
            try:
                try:
                    send_run(lane.sock, signature, inputs)
                except Closed:
                    raise self._not_ready() from None
                if isinstance(inputs, GivenInputs):
                    inputs.clear()  # The worker has a copy.
                try:
                    frame = lane.receiver.receive()
                except Closed:
                    raise self._ended_meanwhile() from None
            except BaseException:
                self._drop([lane])  # An answer that nobody took would be taken for the next one's.
                raise
            with self._lock:
                self._idle.append(lane)
        message = frame.message
        if isinstance(message, RunRefused):
            if message.invalid:
                raise InvalidInput(message.why)
            raise ModelFault(message.why)
        assert isinstance(message, Ran)
        return frame.tensors(message.tensors)

    @contextlib.contextmanager
    def stepping_back(self) -> Iterator[None]:
        """Runs in here make room for other models' requests. Before there are any of this model's own."""
        self._steps_back = True
        try:
            yield
        finally:
            self._steps_back = False
            self._close_lanes()  # So that the first request opens one, and the worker comes back.

    def leave_core(self, *, leave: bool) -> None:
        """Its process keeps off one of its cores, which others need; or does so no longer. See `company.Process`."""
        self._worker.leave_core(leave=leave)

    def end_hanging(self, *, ran_s: float) -> None:
        """Ends the process for a run that does not end: a loss. See `company.Process`."""
        self._worker.end_hanging(ran_s=ran_s)

    def stands_for(self, methods: Mapping[str, str], signature_defs: bytes) -> None:
        """See `LiteRtExecutor.stands_for`."""
        self._signature_defs = signature_defs
        self._signatures = {
            name: dataclasses.replace(signature, method=methods.get(name, signature.method))
            for name, signature in self._signatures.items()
        }

    def keep_apart(self, name: str) -> None:
        """Has no requests of a signature merged: its rows were found to mix. Before any are."""
        self._signatures[name] = dataclasses.replace(self._signatures[name], mixes_rows=True)
        self.findings[name] = dataclasses.replace(self.findings[name], mixes_rows=True)

    @property
    def ended(self) -> bool:
        """Whether its process has ended, however that came."""
        return self._worker.gone.is_set()

    def memory_bytes(self) -> int:
        """The private memory of its process: what closing frees."""
        return self._worker.private_bytes()

    def close(self) -> None:
        """Ends the process, and returns when its memory is free. Also ends a run that hangs.

        A class of the user's own gets a moment to put its things in order; what else there is has nothing to.
        """
        self._closed = True  # Before, so that whoever is ended by it is told so, and of no crash.
        if self.kind == "python":
            self._worker.end(grace_s=_CLOSE_S)
        else:
            self._worker.kill()
        self._close_lanes()

    def __repr__(self) -> str:
        return f"WorkerExecutor({self._worker!r}, {len(self._idle)} lanes idle)"

    def _close_lanes(self) -> None:
        with self._lock:
            lanes, self._idle = self._idle, []
        self._drop(lanes)

    def _drop(self, lanes: Collection[_Lane]) -> None:
        with self._lock:
            for lane in lanes:
                self._lanes.discard(lane)
                lane.sock.close()

    def _hang_up(self) -> None:
        """The process is gone: nothing answers any more, also where one that it has forked holds the lanes open."""
        with self._lock:
            for lane in self._lanes:
                with contextlib.suppress(OSError):
                    lane.sock.shutdown(socket.SHUT_RDWR)

    def _take(self) -> _Lane:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            self._worker.answers |= not self._steps_back
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # The control socket is closed once the process is gone.
            with contextlib.suppress(OSError, Closed):
                send(self._worker.control, Lane(self._steps_back), [theirs.fileno()])
                lane = _Lane(ours)
                with self._lock:
                    self._lanes.add(lane)
                if not self._worker.gone.is_set():  # After it was added: else nobody would hang up.
                    return lane
                self._drop([lane])
        finally:
            theirs.close()
        ours.close()
        raise self._not_ready()

    def _not_ready(self) -> VersionNotReady:
        if self._closed:
            return VersionNotReady("the version is taken out of service; the request was not run")
        self._worker.gone.wait(_STATUS_S)
        return VersionNotReady(f"the model's process ended ({self._worker.how_it_ended()}) and is started anew")

    def _ended_meanwhile(self) -> ServerError:
        if self._closed:
            return ExecutionFailed(
                "the version is taken out of service, and waits for the request no longer: it was ended"
            )
        self._worker.gone.wait(_STATUS_S)
        if self._worker.hung:  # Not by this run, as far as anybody knows who waits for it.
            return self._not_ready()
        return ProcessLost(f"the model's process ended ({self._worker.how_it_ended()}) while it ran the request")


class _Lane:
    __slots__ = ("receiver", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.receiver = Receiver(sock)


def open_in_worker(
    path: Path,
    *,
    options: SavedModelOptions,
    nursery: Nursery,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes | None = None,
    known: Mapping[str, Finding] | None = None,
) -> WorkerExecutor:
    """Loads the SavedModel in a folder, in a process of its own.

    Args:
        path: The version's folder.
        options: How TensorFlow runs.
        nursery: Starts the process.
        title: For logs.
        on_lost: Called once, in any thread, when the process ends without having been closed; with how it ended.
        stop: Ends the process until the load is over.
        sizes: Not needed: TensorFlow prepares for none.
        known: What was found of its signatures before, with the same files and options.

    Raises:
        LoadFailed: it can't be loaded, or its process ended meanwhile.
    """
    del sizes
    load = Load(
        kind="tensorflow",
        path=str(path.absolute()),
        beside_others=nursery.answers,
        intra_op_parallelism=options.intra_op_parallelism,
        inter_op_parallelism=options.inter_op_parallelism,
        tags=options.tags,
        known=dict(known or {}),
    )
    return _opened(load, nursery=nursery, title=title, on_lost=on_lost, stop=stop)


def open_in_plain_worker(
    path: Path,
    *,
    kind: str,
    nursery: Nursery,
    threads: int = 0,
    title: str,
    on_lost: Callable[[str], None],
    stop: LoadStop | None = None,
    sizes: RunSizes | None = None,
) -> WorkerExecutor:
    """Loads a version that needs no TensorFlow, in a process of its own.

    Args:
        path: The version's folder.
        kind: What is to run it, one that `kinds.opened` knows.
        nursery: Starts the process; one that imports nothing.
        threads: Of one run, where the kind's library has threads; 0: it chooses.
        title: For logs.
        on_lost: See `open_in_worker`.
        stop: See `open_in_worker`.
        sizes: How it will be run.

    Raises:
        LoadFailed: it can't be loaded, or its process ended meanwhile.
    """
    load = Load(
        kind=kind,
        path=str(path.absolute()),
        beside_others=nursery.answers,
        intra_op_parallelism=threads,
        rows=(sizes or RunSizes()).rows,
    )
    return _opened(load, nursery=nursery, title=title, on_lost=on_lost, stop=stop)


def _opened(
    load: Load, *, nursery: Nursery, title: str, on_lost: Callable[[str], None], stop: LoadStop | None
) -> WorkerExecutor:
    worker = nursery.spawn(title)
    if stop is not None:
        stop.calls(worker.kill_soon)
    try:
        executor = WorkerExecutor(worker, worker.load(load), kind=load.kind)
    except BaseException:
        worker.kill()
        raise
    worker.watch(on_lost)
    return executor


def _signature(entry: Entry) -> Signature:
    return Signature(
        name=entry.name,
        inputs={spec.name: _spec(spec) for spec in entry.inputs},
        outputs={spec.name: _spec(spec) for spec in entry.outputs},
        mixes_rows=entry.mixes_rows,
        method=entry.method,
        batches_inside=entry.batches_inside,
        inputs_id=entry.inputs_id,
        worth_rows=entry.worth_rows,
    )


def _spec(spec: Spec) -> TensorSpec:
    return TensorSpec(name=spec.name, dtype=numpy_dtype(spec.dtype), shape=spec.shape)
