"""Streams: a model that keeps state from frame to frame, such as a wake word, with an engine of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    InvalidInput,
    Overloaded,
    RuntimeClosed,
    StreamBusy,
)
from edge_runtime.inputs import Inputs, deadline
from edge_runtime.target import Target
from edge_runtime.types import Arrays, InferRequest, Reply

_CLOSE_LIMIT_S = 5.0
"""How long closing waits for runs that are under way; one that is stuck is left behind."""

_Shapes = tuple[tuple[int, ...], ...]


class StreamEngine(Protocol):
    """What a stream needs of an engine: `edge_runtime.engine.engine.Engine`."""

    place: str

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """See `Engine.run`. The state of the file's variables goes on from run to run."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class Stream:
    """One stream of frames through one signature of a model. Made by `Model.stream`; close it, or use `with`.

    For one thread at a time: frames have an order, and two threads would mix theirs. It stays with the version that it
    was opened on, because the state is that version's, also when the model has gone on to another one.
    """

    def __init__(
        self,
        target: Target,
        open_engine: Callable[[], StreamEngine],
        *,
        signature: str | None = None,
        limit_s: float | None = None,
        current_version: Callable[[], int | None] | None = None,
        on_close: Callable[[Stream], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens its engine.

        Args:
            target: The version, which is installed: checks the inputs.
            open_engine: Makes an engine that nobody else uses, that has not run yet, and whose session keeps its state.
                Called now and at every reset, also after the version was unloaded for others.
            signature: The signature's name; None for the default one. Several would not share the state: LiteRT keeps
                it apart for each of them.
            limit_s: Seconds after which a run is stuck, where the engine can be given up; None for no limit.
            current_version: The version that the model answers as now, for `repr`.
            on_close: Called once, when the engine has been freed.
            clock: Monotonic seconds.

        Raises:
            EngineFailed, PackageRefused: no engine can be made.
            InvalidInput: there is no such signature.
        """
        self._target = target
        self._signature = target.signature_name(signature)
        self._open = open_engine
        self._limit_s = limit_s
        self._current_version = current_version or (lambda: target.version)
        self._on_close = on_close
        self._clock = clock
        self._turn = threading.Lock()
        self._closed = False
        self._lost = ""
        self._shapes: _Shapes | None = None
        self._frames = 0
        self._engine: StreamEngine | None = open_engine()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        engine = self._engine
        if self._closed:
            state = "closed"
        elif engine is None:
            state = f"state lost: {self._lost}"
        else:
            state = f"{engine.place}, {self._frames} frames since the start"
        now = self._current_version()
        moved = "" if now == self.version else f", stays while the model answers as version {now}"
        return f"<Stream of {self._target.subject}, {state}{moved}>"

    @property
    def version(self) -> int:
        """The version that answers."""
        return self._target.version or 0

    @property
    def frames(self) -> int:
        """The frames that were run since the start or the last reset."""
        return self._frames

    def predict(self, inputs: Inputs, *, deadline_ms: float | None = None) -> Reply:
        """Runs the next frame, in this thread.

        Args:
            inputs: As in `Model.predict`. Shapes must stay what they were at the first frame: LiteRT keeps the state
                of each shape apart.
            deadline_ms: Milliseconds from now after which an answer is worthless. A frame that is late has gone into
                the state all the same, unless it was late before it ran.

        Raises:
            InvalidInput: as in `Model.predict`, or another shape than that of the frames before.
            DeadlineExceeded: the answer is late.
            EngineFailed: the run failed, and the state is lost: nothing more is run until `reset`.
            StreamBusy: another thread is in the stream.
            RuntimeClosed: the stream or its runtime has been closed.
        """
        start_s = self._clock()
        try:
            deadline_s = deadline(start_s, deadline_ms)
            request = self._target.request(inputs, self._signature, start_s, deadline_s)
        except InvalidInput as error:
            self._target.failed(error)
            raise
        self._enter()
        try:
            reply = self._run(request)
        except EdgeRuntimeError as error:
            self._target.meter.failed(error)
            raise
        finally:
            self._leave()
        self._target.meter.answered(reply)
        return reply

    def reset(self) -> None:
        """Begins anew: the state is that of a file that has just been loaded.

        Takes as long as the loading, because LiteRT can't run a file's initialisation again: 0.4 ms for a wake word.

        Raises:
            EngineFailed, PackageRefused: no engine can be made; `reset` may be called again.
            StreamBusy, RuntimeClosed: see `predict`.
        """
        self._enter()
        try:
            if self._frames or self._engine is None:
                self._forget("being opened again")
                self._engine = self._open_again()
            self._shapes = None
        finally:
            self._leave()

    def close(self) -> None:
        """Frees the engine; a run that is under way in another thread ends first, without being waited for."""
        self._closed = True
        self._free()

    def _run(self, request: InferRequest) -> Reply:
        engine = self._engine
        subject = request.subject
        if engine is None:
            raise EngineFailed(f"stream of {subject}: its state is lost ({self._lost}); reset() begins anew")
        shapes = tuple([array.shape for array in request.inputs.values()])
        if self._shapes not in (None, shapes):
            raise InvalidInput(
                f"stream of {subject}: frames had the shapes {_described(self._shapes)}, got {_described(shapes)}; "
                "reset() begins anew with others"
            )
        before_s = self._clock()
        if request.deadline_s is not None and before_s >= request.deadline_s:
            raise _late(request, before_s, {"before the run": (before_s - request.start_s) * 1e3})
        before = self._shapes, self._frames
        self._shapes, self._frames = shapes, self._frames + 1
        try:
            outputs = engine.run(request.signature, request.inputs, self._limit_s)
        except InvalidInput:  # found before the run: the state is as it was
            self._shapes, self._frames = before
            raise
        except EngineFailed as error:
            self._forget(str(error))
            raise
        done_s = self._clock()
        if request.deadline_s is not None and done_s > request.deadline_s:
            raise _late(request, done_s, {"running": (done_s - before_s) * 1e3})
        return Reply(
            outputs=outputs,
            version=self.version,
            place=engine.place,
            reason=request.reason,
            latency_ms=(done_s - request.start_s) * 1e3,
        )

    def _open_again(self) -> StreamEngine:
        try:
            return self._open()
        except EdgeRuntimeError as error:
            self._lost = f"it can't be opened again: {error}"
            raise

    def _forget(self, why: str) -> None:
        """Closes the engine: what is left of the state is of no use."""
        engine, self._engine = self._engine, None
        self._lost, self._frames = why, 0
        if engine is not None:
            engine.close()

    def _enter(self) -> None:
        if not self._turn.acquire(blocking=False):
            raise StreamBusy(
                f"stream of {self._target.subject}: another thread is in it; a stream is for one at a time"
            )
        if self._closed:
            self._leave()
            raise RuntimeClosed(f"the stream of {self._target.subject} has been closed")

    def _leave(self) -> None:
        self._turn.release()
        if self._closed:
            self._free()

    def _free(self) -> None:
        """Closes the engine, once, as soon as nobody is in it; called again by whoever was."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._forget("closed")
            on_close, self._on_close = self._on_close, None
        finally:
            self._turn.release()
        if on_close is not None:
            on_close(self)


class StreamLimit:
    """The open streams of a runtime: no more than a given number, closed with it. Thread-safe."""

    def __init__(self, max_streams: int = 16) -> None:
        """None is open.

        Args:
            max_streams: How many may be open at once. Each holds an engine of its own.
        """
        self._max_streams = max_streams
        self._changed = threading.Condition()
        self._opening = 0
        self._streams: set[Stream] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<StreamLimit {len(self._streams)} of {self._max_streams} open>"

    def __len__(self) -> int:
        """How many are open."""
        return len(self._streams)

    def open(
        self,
        target: Target,
        open_engine: Callable[[], StreamEngine],
        *,
        signature: str | None = None,
        limit_s: float | None = None,
        current_version: Callable[[], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Stream:
        """Opens a stream; see `Stream` for the arguments.

        Raises:
            Overloaded: as many as may be are open.
            EngineFailed, PackageRefused, InvalidInput: see `Stream`.
            RuntimeClosed: closed already, or meanwhile.
        """
        with self._changed:
            self._check(target.subject)
            self._opening += 1
        stream: Stream | None = None
        try:
            stream = Stream(
                target,
                open_engine,
                signature=signature,
                limit_s=limit_s,
                current_version=current_version,
                on_close=self._left,
                clock=clock,
            )
        finally:
            with self._changed:
                self._opening -= 1
                if stream is not None:
                    self._streams.add(stream)
                closed = self._closed
                self._changed.notify_all()
        if closed:
            stream.close()
            raise RuntimeClosed("the runtime has been closed")
        return stream

    def close(self, limit_s: float = _CLOSE_LIMIT_S) -> None:
        """Closes every stream, and waits until their runs have ended; no longer than the limit for those that hang."""
        with self._changed:
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._streams and not self._opening, limit_s)

    def _check(self, subject: str) -> None:
        if self._closed:
            raise RuntimeClosed("the runtime has been closed")
        if len(self._streams) + self._opening >= self._max_streams:
            raise Overloaded(
                f"{subject}: {self._max_streams} streams are open, and no more may be (max_streams); close one"
            )

    def _left(self, stream: Stream) -> None:
        with self._changed:
            self._streams.discard(stream)
            self._changed.notify_all()


def _late(request: InferRequest, now_s: float, spent_ms: dict[str, float]) -> DeadlineExceeded:
    deadline_s = now_s if request.deadline_s is None else request.deadline_s
    return DeadlineExceeded(f"stream of {request.subject}", (deadline_s - request.start_s) * 1e3, spent_ms)


def _described(shapes: _Shapes | None) -> str:
    return ", ".join(str(list(shape)) for shape in shapes or ())
