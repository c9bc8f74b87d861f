"""edge.v1.Sequence: streams of steps of models whose state stays here from one step to the next."""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
import math
from typing import Protocol

import grpc

from fallback_server.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    NotReady,
    ServerError,
    ServerStopping,
    VersionNotReady,
)
from fallback_server.core.handle import ServableHandle
from fallback_server.core.model_config import ModelConfig, StepConfig
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DEFAULT_SIGNATURE, PredictCall
from fallback_server.package_info import check_preprocessing
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.proto import serving_pb2
from fallback_server.sequences.options import SequenceOptions
from fallback_server.sequences.pairing import step_of
from fallback_server.sequences.state import SequenceState
from fallback_server.sequences.table import SequenceTable
from fallback_server.served_model import ServedModel
from fallback_server.transport.answers import reply_of
from fallback_server.transport.calls import Calls, attribute
from fallback_server.transport.changes import Changes
from fallback_server.transport.faults import translate
from fallback_server.transport.messages import read_target
from fallback_server.transport.rpc import Context, MessageThreads, Rpcs
from fallback_server.transport.sequence_messages import StepReply, StepRequest, read_step, write_step
from fallback_server.transport.sequence_steps import Held, Steps
from fallback_server.transport.services import Handlers

_log = logging.getLogger(__name__)


class Models(Protocol):
    """Which versions there are; see `Control`."""

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means."""
        ...

    def configs(self) -> tuple[ModelConfig, ...]:
        """What is said of models."""
        ...


class _Phase(enum.Enum):
    """What a stream is at."""

    READING = enum.auto()
    RUNNING = enum.auto()
    WRITING = enum.auto()


class _Stream:
    """One that is open.

    Attributes:
        task: Serves it.
        phase: What it is at.
        fault: Why it is ended from outside; None while it is not.
        begun: What its first request came to; None before.
    """

    __slots__ = ("begun", "fault", "phase", "task")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.phase = _Phase.READING
        self.fault: ServerError | None = None
        self.begun: _Begun | None = None

    def end(self, fault: ServerError, *, cuts: bool = False) -> bool:
        """Ends it: at once where it awaits its caller, else once the step under way is answered.

        Args:
            fault: Why.
            cuts: Whether at once, too, where its caller takes no answer.

        Returns:
            Whether it is ended at once.
        """
        if self.fault is None or cuts:
            self.fault = self.fault or fault
            if self.phase is _Phase.READING or (cuts and self.phase is _Phase.WRITING):
                self.task.cancel()
                return True
        return False


class _Begun:
    """What stays the same from a stream's first request on, and its state.

    Attributes:
        spec: What the first request asked for.
        call: The first, as far as all steps have it in common.
        held: The version.
        signature: Of a step.
        state: What the sequence remembers.
    """

    __slots__ = ("call", "held", "signature", "spec", "state")

    def __init__(
        self, spec: serving_pb2.ModelSpec, call: PredictCall, held: Held, signature: str, state: SequenceState
    ) -> None:
        self.spec = spec
        self.call = call
        self.held = held
        self.signature = signature
        self.state = state


class SequenceService:
    """Run.

    A stream has at most one step under way; what it sends meanwhile waits with gRPC, which takes no more of it than its
    window. A step is a request of its signature's queue, so those of all streams, and plain requests, run together.

    Lives in the event loop that makes it.

    Args:
        calls: Whether the server takes calls, and its data plane.
        models: The versions.
        changes: Tells when their states have changed, and when the server stops.
        threads: Read and write large messages.
        options: How many sequences there may be.
        max_tensor_bytes: The most that the tensors of a request may take.
    """

    def __init__(
        self,
        calls: Calls,
        models: Models,
        changes: Changes,
        threads: MessageThreads,
        *,
        options: SequenceOptions,
        max_tensor_bytes: int,
    ) -> None:
        self._calls = calls
        self._models = models
        self._changes = changes
        self._threads = threads
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._read = functools.partial(read_step, max_tensor_bytes=max_tensor_bytes)
        self._steps = Steps(calls.dataplane)
        self._clock = calls.dataplane.clock
        self._streams: dict[_Stream, None] = {}
        self._table: SequenceTable[_Stream] = SequenceTable(options)
        self._draining: set[ServedModel] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        del rpcs
        return {methods.RUN_SEQUENCE: grpc.stream_stream_rpc_method_handler(self._run)}

    @property
    def live(self) -> int:
        """How many streams are open."""
        return len(self._table)

    @property
    def state_bytes(self) -> int:
        """What their states take."""
        return self._table.total_bytes

    async def _run(self, _requests: object, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(task)
        error: Exception
        try:
            self._calls.check_open()
            self._open(stream)
            try:
                await self._serve(stream, context)
            finally:
                self._close(stream)
        except asyncio.CancelledError:
            if stream.fault is None or task.uncancel():
                raise  # The caller has left.
            error = stream.fault
        except Exception as raised:  # noqa: BLE001  no fault may go further than the call's status
            error = raised
        else:
            return
        fault, text = translate(error)
        _log.debug("%s: %s: %s", methods.RUN_SEQUENCE.path, fault.name, text)
        await context.abort(fault.code, text)

    async def _serve(self, stream: _Stream, context: Context) -> None:
        table, clock = self._table, self._clock
        while True:
            stream.phase = _Phase.READING
            data = await context.read()
            if not isinstance(data, bytes):
                return
            stream.phase = _Phase.RUNNING
            table.begin_step(stream)
            response, is_last = await self._answer(stream, [data], context)
            del data
            stream.phase = _Phase.WRITING
            table.rest(stream, clock())
            if self._timer is None:
                self._expire()
            await context.write(response)
            if stream.fault is not None:
                raise stream.fault
            if is_last:
                return

    async def _answer(self, stream: _Stream, box: list[bytes], context: Context) -> tuple[bytes, bool]:
        """The answer to a request, and whether it ends the stream.

        Args:
            stream: Whose.
            box: The request; out of a box, so that its bytes need not stay as long as the step runs.
            context: The stream's call.
        """
        size = len(box[0])
        begun = stream.begun
        try:
            request = await self._threads.run(self._read, box.pop(), size=size)
            message = request.message
            first = begun is None
            if begun is None:
                begun = stream.begun = self._begin(stream, message, context)
            elif message.HasField("model_spec") and message.model_spec != begun.spec:
                raise InvalidInput("a stream has one model_spec, in its first request, and a later one has another")
            call = self._step(begun, request)
        except ServerError as error:
            target = ModelTarget(name="") if begun is None else begun.call.target
            self._calls.dataplane.refused(PredictCall(target=target), error)
            raise
        del request
        reply = reply_of(await self._steps.run(call, begun.held))
        outputs = begun.state.advance(reply.outputs)
        answered = StepReply(
            step=begun.state.step,
            outputs=outputs,
            state=begun.state.arrays if message.return_state else {},
            first=reply if first else None,
        )
        return await self._threads.run(write_step, answered, size=answered.size_bytes), message.end

    def _step(self, begun: _Begun, request: StepRequest) -> PredictCall:
        call = begun.call
        return PredictCall(
            target=call.target,
            signature=begun.signature,
            inputs=begun.state.inputs(request.inputs, reset=request.message.reset),
            deadline_s=call.deadline_s,
            priority=call.priority,
            held=begun.held.handle,
        )

    def _begin(self, stream: _Stream, message: pb.SequenceRequest, context: Context) -> _Begun:
        """Holds the version that the first request means.

        Raises:
            ServerError: there is none, or it has no step.
        """
        call = PredictCall(target=read_target(message), signature=message.model_spec.signature_name)
        if not call.target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        attribute([call], context, self._clock)
        handle = self._models.acquire(call.target, call.client_key)
        try:
            servable, name = handle.servable, handle.servable_id.name
            check_preprocessing(call.preprocessing, servable.package, handle.servable_id)
            said = next((each.sequence for each in self._models.configs() if each.name == name), StepConfig())
            signature, pairs = step_of(servable.signatures, call.signature, said, default=DEFAULT_SIGNATURE)
        except BaseException:
            handle.close()
            raise
        call.target = ModelTarget(name=name, version=handle.servable_id.version)
        state = SequenceState(signature, pairs, functools.partial(self._table.resize, stream))
        return _Begun(message.model_spec, call, Held(handle), signature.name, state)

    def _open(self, stream: _Stream) -> None:
        self._table.open(stream, self._clock())
        self._streams[stream] = None
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        if self._timer is None:
            self._expire()

    def _close(self, stream: _Stream) -> None:
        del self._streams[stream]
        self._table.close(stream)
        if stream.begun is not None:
            stream.begun.held.done()

    def _expire(self) -> None:
        """Ends the streams whose callers have been silent for too long, and looks again when the next may have been."""
        self._timer = None
        now_s = self._clock()
        for stream in self._table.idle(now_s):
            idle_s = self._options.sequence_idle_s
            ended = stream.end(
                DeadlineExceeded(
                    f"the sequence was idle for sequence_idle_s = {idle_s:g} s, and its state is gone: begin a new one"
                ),
                cuts=True,
            )
            if ended:
                self._table.begin_step(stream)
        if (next_s := self._table.next_idle_s()) < math.inf:
            self._timer = self._loop.call_later(max(0.0, next_s - now_s), self._expire)

    async def _watch(self) -> None:
        """Has streams end in time whose version is to be unloaded, and all where the server stops."""
        seen = -1
        while not self._changes.closed:
            seen = await self._changes.wait(seen)
            for servable, handle in {each.handle.servable: each.handle for each in self._held()}.items():
                if servable not in self._draining and not self._answers(handle):
                    self._draining.add(servable)
                    self._loop.call_later(self._options.drain_s, self._drain, servable)
        for stream in self._streams:
            stream.end(ServerStopping("the server is stopping, and the sequence's state is gone: begin it elsewhere"))

    def _held(self) -> list[Held]:
        return [stream.begun.held for stream in self._streams if stream.begun is not None]

    def _answers(self, handle: ServableHandle[ServedModel]) -> bool:
        """Whether what is held is what answers for its version."""
        key = handle.servable_id
        try:
            with self._models.acquire(ModelTarget(name=key.name, version=key.version)) as current:
                return current.servable is handle.servable
        except (NotReady, ModelNotFound):
            return False

    def _drain(self, servable: ServedModel) -> None:
        self._draining.discard(servable)
        for stream in self._streams:
            if stream.begun is not None and stream.begun.held.handle.servable is servable:
                key = stream.begun.held.handle.servable_id
                stream.end(
                    VersionNotReady(
                        f"version {key.version} of model {key.name} is unloaded, and the sequence's state is gone: "
                        "begin a new one"
                    )
                )
