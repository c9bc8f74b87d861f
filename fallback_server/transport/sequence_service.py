"""edge.v1.Sequence: streams of steps of models whose state stays here from one step to the next."""

from __future__ import annotations

import asyncio
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
    ProcessLost,
    ServerError,
    ServerStopping,
    VersionNotReady,
)
from fallback_server.core.handle import ServableHandle
from fallback_server.core.model_config import ModelConfig, StepConfig
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DEFAULT_SIGNATURE, PredictCall
from fallback_server.package_info import check_preprocessing
from fallback_server.predict_call import Likeness
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.sequences.figures import Ended, SequenceFigures
from fallback_server.sequences.options import SequenceOptions
from fallback_server.sequences.pairing import step_of
from fallback_server.sequences.state import SequenceState
from fallback_server.sequences.table import SequenceTable
from fallback_server.served_model import ServedModel
from fallback_server.transport.answers import reply_of
from fallback_server.transport.calls import Calls, attribute
from fallback_server.transport.changes import Changes
from fallback_server.transport.faults import translate
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.messages import read_target
from fallback_server.transport.rpc import Context, MessageThreads, Rpcs, aborted
from fallback_server.transport.sequence_messages import StepReply, StepRequest, read_step, write_step
from fallback_server.transport.sequence_steps import Held, Steps
from fallback_server.transport.sequence_stream import Begun, Phase, Stream, why_ended
from fallback_server.transport.services import Handlers

_log = logging.getLogger(__name__)

_GONE = "the sequence's state is gone: begin a new one"

_LOOK_S = 0.5
"""While streams hold what is to be unloaded: whether it is waited for is told to nobody. And so long a caller has for
taking the answer under way, once its stream is to end."""


class Models(Protocol):
    """Which versions there are; see `Control`."""

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means."""
        ...

    def configs(self) -> tuple[ModelConfig, ...]:
        """What is said of models."""
        ...

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """Where a model's versions stand."""
        ...


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
        figures: Are told of what comes and goes; None where nobody reads them.
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
        figures: SequenceFigures | None = None,
    ) -> None:
        self._calls = calls
        self._figures = SequenceFigures() if figures is None else figures
        self._models = models
        self._changes = changes
        self._threads = threads
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._read = functools.partial(read_step, max_tensor_bytes=max_tensor_bytes)
        self._steps = Steps(calls.dataplane, self._figures)
        self._clock = calls.dataplane.clock
        self._streams: dict[Stream, None] = {}
        self._table: SequenceTable[Stream] = SequenceTable(options)
        self._draining: dict[ServedModel, float] = {}  # Until which instant.
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
        stream = Stream(task)
        error: Exception | None = None
        try:
            self._calls.check_open()
            self._open(stream)
            try:
                await self._serve(stream, context)
            finally:
                self._close(stream)
        except asyncio.CancelledError:
            if stream.fault is None or task.uncancel():
                # Between two steps it looks like an end, which gRPC may tell of first.
                self._count(stream, Ended.CLIENT if stream.phase is Phase.READING else Ended.LEFT)
                raise  # The caller has left.
            error = stream.fault
        except Exception as raised:  # noqa: BLE001  no fault may go further than the call's status
            error = raised
        self._count(stream, why_ended(stream, error))
        if error is None:
            return
        fault, text = translate(error)
        error = stream.fault = None  # Its traceback leads back here, and would keep the request and the state.
        _log.debug("%s: %s: %s", methods.RUN_SEQUENCE.path, fault.name, text)
        await aborted(context, fault.code, text)

    async def _serve(self, stream: Stream, context: Context) -> None:
        table, clock = self._table, self._clock
        while True:
            stream.phase = Phase.READING
            data = await context.read()
            if not isinstance(data, bytes):
                return
            stream.phase = Phase.RUNNING
            table.begin_step(stream)
            response, is_last = await self._answer(stream, [data], context)
            del data
            stream.phase = Phase.WRITING
            table.rest(stream, clock())
            if self._timer is None:
                self._expire()
            await context.write(response)
            if stream.fault is not None:
                raise stream.fault
            if is_last:
                return

    async def _answer(self, stream: Stream, box: list[bytes], context: Context) -> tuple[bytes, bool]:
        """The answer to a request, and whether it ends the stream.

        Args:
            stream: Whose.
            box: The request; out of a box, so that its bytes need not stay as long as the step runs.
            context: The stream's call.
        """
        size = len(box[0])
        begun, request = stream.begun, None
        try:
            # In place where that is small: each coroutine between costs as much as a small message does.
            request = (
                self._read(box.pop())
                if size < LARGE_BYTES
                else await self._threads.run(self._read, box.pop(), size=size)
            )
            message = request.message
            first = begun is None
            if begun is None:
                begun = stream.begun = self._begin(stream, message, context)
            else:  # Who may do what may have changed since.
                self._calls.admit_stream(begun.call.target.name, context)
            call = self._step(begun, request)
        except ServerError as error:
            self._refused(begun, "" if request is None else request.message.model_spec.name, error)
            raise
        del request
        try:
            future = self._steps.run(call, begun.held)
            try:
                reply = reply_of(await future)
            except asyncio.CancelledError:
                self._steps.left(call, future)
                raise
        except (ProcessLost, VersionNotReady) as error:
            stream.why = Ended.WORKER
            raise VersionNotReady(f"{error}; {_GONE}") from error
        answered = StepReply(
            outputs=begun.state.advance(reply.outputs),
            step=begun.state.step,
            state=begun.state.arrays if message.return_state else {},
            first=reply if first else None,
        )
        self._figures.state_bytes = self._table.total_bytes
        weight = answered.size_bytes
        if weight < LARGE_BYTES:
            return write_step(answered), message.end
        return await self._threads.run(write_step, answered, size=weight), message.end

    def _refused(self, begun: Begun | None, name: str, error: ServerError) -> None:
        """Has a request counted that doesn't reach the data plane.

        Args:
            begun: What the stream holds; None where it has not begun.
            name: The model that the request names; empty for none.
            error: Why.
        """
        if begun is None:
            self._calls.dataplane.refused(PredictCall(target=ModelTarget(name=name)), error)
        else:
            self._calls.dataplane.refused(PredictCall(target=begun.call.target), error, begun.held.handle.servable_id)

    def _step(self, begun: Begun, request: StepRequest) -> PredictCall:
        call, state, message = begun.call, begun.state, request.message
        before = begun.checked
        checked = before is not None and before[0] is message and before[1] is state.form
        if not checked and message.HasField("model_spec") and message.model_spec != begun.spec:
            raise InvalidInput("a stream has one model_spec, in its first request, and a later one has another")
        inputs = state.inputs(request.inputs, reset=message.reset, checked=checked)
        if not checked or message.reset:
            begun.checked, begun.like = (message, state.form), Likeness()
        return PredictCall(
            target=call.target,
            signature=begun.signature,
            inputs=inputs,
            deadline_s=call.deadline_s,
            priority=call.priority,
            held=begun.held.handle,
            like=begun.like,
        )

    def _begin(self, stream: Stream, message: pb.SequenceRequest, context: Context) -> Begun:
        """Holds the version that the first request means.

        Raises:
            ServerError: there is none, or it has no step.
        """
        call = PredictCall(target=read_target(message), signature=message.model_spec.signature_name)
        if not call.target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        attribute([call], context, self._clock)
        self._calls.admit_stream(call.target.name, context)
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
        self._figures.begun(name)
        return Begun(message.model_spec, call, Held(handle), signature.name, state)

    def _open(self, stream: Stream) -> None:
        try:
            self._table.open(stream, self._clock())
        except ServerError as error:
            self._refused(None, "", error)
            raise
        self._streams[stream] = None
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        if self._timer is None:
            self._expire()

    def _close(self, stream: Stream) -> None:
        del self._streams[stream]
        self._table.close(stream)
        self._figures.state_bytes = self._table.total_bytes
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
                Ended.IDLE,
                cuts=True,
            )
            if ended:
                self._table.begin_step(stream)
        if (next_s := self._table.next_idle_s()) < math.inf:
            self._timer = self._loop.call_later(max(0.0, next_s - now_s), self._expire)

    async def _watch(self) -> None:
        """Has streams end in time whose version is to be unloaded, at once where it is dead, and all at a stop."""
        seen = -1
        while not self._changes.closed:
            seen = await self._changes.wait(seen, self._look_again_s())
            held = {each.handle.servable: each.handle for each in self._held()}
            self._draining = {each: until_s for each, until_s in self._draining.items() if each in held}
            for servable, handle in held.items():
                if servable.lost:
                    self._draining.setdefault(servable, self._clock())  # Looked at again until nobody holds it.
                    self._end(servable, VersionNotReady(f"{servable.lost}; {_GONE}"), Ended.WORKER)
                elif servable in self._draining or not self._answers(handle):
                    self._drain(servable, handle)
        for stream in self._streams:
            stream.end(
                ServerStopping("the server is stopping, and the sequence's state is gone: begin it elsewhere"),
                Ended.STOPPED,
            )

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

    def _look_again_s(self) -> float | None:
        """How soon to look again though nothing has changed; None for never."""
        if not self._draining:
            return None
        now_s = self._clock()
        return min([_LOOK_S, *(until_s - now_s for until_s in self._draining.values() if until_s > now_s)])

    def _drain(self, servable: ServedModel, handle: ServableHandle[ServedModel]) -> None:
        """Ends the streams of what is to be unloaded where their time is over, or a load waits for them."""
        key, now_s = handle.servable_id, self._clock()
        until_s = self._draining.setdefault(servable, now_s + self._options.drain_s)
        if now_s < until_s and not self._is_waited_for(key):
            return
        self._end(
            servable, VersionNotReady(f"version {key.version} of model {key.name} is unloaded; {_GONE}"), Ended.UNLOADED
        )

    def _is_waited_for(self, key: ServableId) -> bool:
        """Whether the version is wanted again: it can't be loaded before it is gone."""
        try:
            states = self._models.states(ModelTarget(name=key.name, version=key.version))
        except ModelNotFound:
            return False
        return any(each.state is State.UNLOADING and each.successor is State.START for each in states)

    def _end(self, servable: ServedModel, fault: ServerError, why: Ended) -> None:
        now_s = self._clock()
        for stream in self._streams:
            if stream.begun is not None and stream.begun.held.handle.servable is servable:
                # Within a step, too, where its caller doesn't take the answer: it would hold the version on and on.
                cuts = self._table.rested_s(stream, now_s) >= _LOOK_S
                if stream.end(fault, why, cuts=cuts):
                    self._table.begin_step(stream)  # Once.

    def _count(self, stream: Stream, why: Ended) -> None:
        self._figures.ended("" if stream.begun is None else stream.begun.call.target.name, why)
