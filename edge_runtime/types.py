"""The narrow waist: what every executor takes and gives.

Engine pool, batcher, remote client and router are all Executors; each wraps another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from converter.artifact import TensorSpec

T = TypeVar("T")

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]

Policy = Literal["prefer_device", "only_device", "prefer_server", "only_server"]
"""Where a request may be answered, and where it is tried first."""


class InferRequest(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One request, already checked against its signature.

    Attributes:
        model: The model's name.
        version: The version that must answer; None where only a server knows the model, and its latest may answer.
        label: The label that must answer, where `version` is None.
        signature: The signature's name.
        inputs: By input name.
        rows: Rows along the batch axis; 1 where the signature has none.
        batched: Whether every input and output has its rows along the first axis.
        guessed: Whether `batched` is only what a server's metadata look like: the first axis of an output may be
            something else there, as the boxes that were found.
        start_s: The instant at which the caller asked.
        deadline_s: The instant after which an answer is worthless; None for never.
        priority: 0 runs before 1, whatever their deadlines.
        reason: Why the request goes where it goes; the reply repeats it.
        policy: Where it may be answered.
        fingerprint: Of the preprocessing that made the inputs, where the version is installed here: a server that has
            another for it refuses.
        promised: What the installed package says of the outputs, as callers see them: what a server answers otherwise
            is no answer. Empty where only servers describe the version.
        described: The generation of the description that it was checked against: see `edge_runtime.description`.
    """

    model: str
    version: int | None
    signature: str
    inputs: Arrays
    rows: int
    start_s: float
    batched: bool = False
    guessed: bool = False
    deadline_s: float | None = None
    label: str | None = None
    priority: int = 1
    reason: str = "local"
    policy: Policy = "prefer_device"
    fingerprint: str = ""
    promised: tuple[TensorSpec, ...] = ()
    described: int = 0

    @property
    def nbytes(self) -> int:
        """What the inputs take, in bytes."""
        return sum(array.nbytes for array in self.inputs.values())

    @property
    def subject(self) -> str:
        """`digits/3`, for messages."""
        return f"{self.model}/{self.version or self.label or 'latest'}"


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A place that was asked for an answer.

    Attributes:
        place: As in `Reply.place`; `device` or `server` where no more is known of it.
        outcome: `answered`; `unsure` (an answer that another was preferred to); `late`, `cancelled` (another answered
            first); `failed: ...`, with the error.
        ms: Milliseconds that it had the request, or was waited for.
    """

    place: str
    outcome: str
    ms: float


class Reply(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """An answer.

    Attributes:
        outputs: By output name; the batch axis first, as in the request.
        version: The version that answered.
        place: Where: `device:cpu`, `server:10.0.0.7:8500`...
        reason: Why there; see `edge_runtime.routing.policy.REASONS`, which says what each stands for.
        latency_ms: From the call to the answer.
        before: What was tried besides the place that answered, in order; see `tried`.
        asked_ms: When the place that answered was asked, from the call on; None where it was when those before it had
            failed.
    """

    outputs: Arrays
    version: int
    place: str
    reason: str
    latency_ms: float
    before: tuple[Tried, ...] = ()
    asked_ms: float | None = None

    @property
    def tried(self) -> tuple[Tried, ...]:
        """Every place that was asked, with times: the last is the one that answered, the others in order before it."""
        asked_ms = sum(one.ms for one in self.before) if self.asked_ms is None else self.asked_ms
        return (*self.before, Tried(place=self.place, outcome="answered", ms=max(self.latency_ms - asked_ms, 0.0)))


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one device that a version could run on.

    Attributes:
        device: The device string: `cpu`, `edgetpu:usb:0`.
        variant: The variant that runs there; empty where none does.
        state: `ready` answers; `standby` would, if those before it were gone; `starting` is being opened; `unhealthy`
            failed, and is tried again; `refused` can't run it.
        reason: Why it is not ready.
        threads: Of one run.
        isolation: `none` (this process) or `process` (a worker's).
    """

    device: str
    variant: str
    state: Literal["ready", "standby", "starting", "unhealthy", "refused"]
    reason: str = ""
    threads: int = 1
    isolation: str = "none"


class _Condition(threading.Condition):
    """A condition whose lock is entered and left in one step.

    `threading.Condition` does so in Python code: a signal's handler that raises in there (Ctrl-C) leaves the lock taken
    for good, and whoever brings the answer waits for it.
    """

    __enter__ = property(lambda self: self._lock.__enter__)
    __exit__ = property(lambda self: self._lock.__exit__)

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Condition.wait`; who is interrupted has the lock, as whoever leaves it expects."""
        try:
            return super().wait(timeout)
        finally:
            if not self._is_owned():  # type: ignore[attr-defined]
                self.acquire()


class Awaited(Future[T]):
    """What another thread brings; who waits for it, or gives it up, may be interrupted at any point."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        super().__init__()
        self._condition.__class__ = _Condition


class Pending(Awaited[Reply]):
    """A reply that is to come.

    Attributes:
        stage: What is waited for: `the device's queue`, `a server`. Said when the deadline passes.
        at_hand: What there is at the deadline, if nothing better comes until then: who waits takes it; None for none.
    """

    stage = "an answer"
    at_hand: Callable[[], Reply] | None = None


class Executor(Protocol):
    """Answers requests. Thread-safe."""

    def infer(self, request: InferRequest) -> Reply:
        """Answers in the caller's thread, or waits for the answer; raises an EdgeRuntimeError."""
        ...

    def submit(self, request: InferRequest) -> Future[Reply]:
        """Takes the request and returns at once; what goes wrong is in the future. Cancelling it frees its place.

        The future's callbacks run in an engine's thread, which has the device meanwhile: they must wait for nothing.

        Raises:
            Overloaded, RuntimeClosed: it was not taken.
        """
        ...

    def close(self) -> None:
        """Finishes what was taken, then frees everything. Later requests raise RuntimeClosed."""
        ...
