"""Between the event loop and the data plane: who waits for which answer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import grpc

from fallback_server.access.rules import Scope
from fallback_server.core.errors import ServerError, ServerStopping
from fallback_server.dataplane import Answer, DataPlane, PredictCall, PredictReply
from fallback_server.predict_call import PRIORITIES
from fallback_server.protocol.methods import PREPROCESSING_METADATA, TENSOR_CONTENT_METADATA, Method
from fallback_server.transport.answers import Answers, reply_of
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.gathering import Soon
from fallback_server.transport.queueing import Queueing
from fallback_server.transport.rpc import MAX_MESSAGE_BYTES, STOPPING_TEXT, Caller, Rpcs, Unary, check_sent
from fallback_server.transport.serving_loop import ServingLoop

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

CLIENT_HEADER = "x-client-id"
"""Requests of one client go to one version where traffic is split; a request's own field comes before it."""

PRIORITY_HEADER = "x-priority"
"""Requests that say `high` are run before others of their model's signature, those that say `low` after them."""

_KEYS = frozenset({CLIENT_HEADER, PRIORITY_HEADER, PREPROCESSING_METADATA, TENSOR_CONTENT_METADATA[0]})


TooLarge = Callable[[Answered], ServerError | None]
"""Why an answer is too large to be sent; None for one that is not. Does not raise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference(Generic[Asked, Answered]):
    """A unary call that the data plane answers. All its functions are for any thread.

    Attributes:
        method: Which.
        read: Reads the request.
        calls: What a request asks of the data plane, at the instant that is given, of the data plane's clock.
        answered: What is answered, from the request, its caller, and the calls' replies.
        write: Writes that.
        weigh: About how many bytes it will have.
        together: Whether one version must answer all calls.
        timed: See `Unary`.
        soon: Makes what `Unary` has. Is given what says why an answer is too large to be sent, None for one that is
            not; None in its place where answers have no bound.
    """

    method: Method[Any, Any]
    read: Callable[[bytes], Asked]
    calls: Callable[[Asked, float], Sequence[PredictCall]]
    answered: Callable[[Asked, Caller, Sequence[PredictReply]], Answered]
    write: Callable[[Answered], bytes]
    weigh: Callable[[Answered], int]
    together: bool = False
    timed: bool = False
    soon: Callable[[TooLarge[Answered] | None], Soon[Any, Answered]] | None = None


class Calls:
    """Runs calls of the data plane for coroutines. Lives in the event loop that makes it.

    Args:
        dataplane: Answers.
        max_message_bytes: The largest answer.
        guard: Knows who may run what; None where everybody may.

    Attributes:
        dataplane: Answers.
        guard: Knows who may run what; None where everybody may.
        inferences: What has handlers, by the methods' paths.
        stopping: Whether every call is refused.
        tried: Who is to come to `answer` next, in the same turn of the loop, and could not be answered at once.
    """

    def __init__(
        self, dataplane: DataPlane, *, max_message_bytes: int = MAX_MESSAGE_BYTES, guard: CallGuard | None = None
    ) -> None:
        self.dataplane = dataplane
        self.guard = guard if guard is not None and guard.inference else None
        self._max_bytes = max_message_bytes
        self._bounded = max_message_bytes < MAX_MESSAGE_BYTES
        self.inferences: dict[str, Inference[Any, Any]] = {}
        self.stopping = False
        self.tried: Caller | None = None
        self._answers = Answers(dataplane.clock)
        loop = asyncio.get_running_loop()
        self._queueing = Queueing(loop, dataplane, self._answers.settle) if isinstance(loop, ServingLoop) else None

    def stop(self) -> None:
        """From now on every call is refused: whoever asks is to ask another server."""
        self.stopping = True

    def check_open(self) -> None:
        """Refuses a call where every one is; in any thread.

        Raises:
            ServerStopping: it is.
        """
        if self.stopping:
            raise ServerStopping(STOPPING_TEXT)

    def admit(self, calls: Sequence[PredictCall], caller: Caller) -> None:
        """Refuses calls that their caller may not make, which are counted then; in any thread.

        Raises:
            ServerError: see `Guard.admit`.
        """
        if self.guard is None:  # Whoever has many calls looks by itself, and spares this one.
            return
        try:
            self.guard.admit(caller, Scope.PREDICT, [call.target.name for call in calls])
        except ServerError as error:
            for call in calls:
                self.dataplane.refused(call, error)
            raise

    def admit_alike(self, call: PredictCall, caller: Caller) -> None:
        """As `admit` for a request that is like a call, which is not changed."""
        assert self.guard is not None
        name = call.target.name
        try:
            self.guard.admit(caller, Scope.PREDICT, (name,))
        except ServerError as error:
            self.dataplane.refused(PredictCall(target=call.target), error)
            raise

    def admit_stream(self, model: str, caller: Caller) -> None:
        """Refuses a step of a stream that its caller may not run; whoever has the stream counts that.

        Raises:
            ServerError: see `Guard.admit`.
        """
        if self.guard is not None:
            self.guard.admit(caller, Scope.PREDICT, [model])

    def bound(
        self, inference: Inference[Asked, Answered], asked: Asked, caller: Caller, calls: Sequence[PredictCall]
    ) -> None:
        """Has the data plane refuse answers that are too large to be sent: so they are counted as what they are."""
        if self._bounded and not inference.together:
            for call in calls:
                call.refuses = functools.partial(self._refused, inference, asked, caller)

    def unbound(self, calls: Sequence[PredictCall]) -> None:
        """The calls are over, answered or not: what was read of their request is held by nothing here."""
        if self._bounded:
            for call in calls:
                call.refuses = None

    def _refused(
        self, inference: Inference[Asked, Answered], asked: Asked, caller: Caller, reply: PredictReply
    ) -> ServerError | None:
        try:
            return self._too_large(inference, inference.answered(asked, caller, (reply,)))
        except ServerError as error:
            return error
        except Exception:  # noqa: BLE001  as below
            return None

    def _too_large(self, inference: Inference[Any, Answered], answered: Answered) -> ServerError | None:
        try:
            if inference.weigh(answered) > self._max_bytes // 2:  # About: what is near the bound is written to be sure.
                check_sent(inference.write(answered), self._max_bytes)
        except ServerError as error:
            return error
        except Exception:  # noqa: BLE001  whoever writes it to send it comes upon that again, and tells the log
            return None
        return None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._answers)

    def handler(self, rpcs: Rpcs, inference: Inference[Any, Any]) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler that gRPC has for an inference."""
        self.inferences[inference.method.path] = inference
        too_large = functools.partial(self._too_large, inference) if self._bounded else None
        soon = None if inference.soon is None else inference.soon(too_large)
        return rpcs.unary(
            Unary(
                method=inference.method,
                answer=functools.partial(self.answer, inference),
                read=inference.read,
                write=inference.write,
                weigh=inference.weigh,
                timed=inference.timed,
                soon=soon,
            )
        )

    async def answer(self, inference: Inference[Asked, Answered], asked: Asked, caller: Caller) -> Answered:
        """The answer to a request, within the caller's deadline; in the loop's own turn where it is soon there.

        Raises:
            ServerError: the first fault of its calls.
        """
        self.check_open()
        dataplane = self.dataplane
        calls = inference.calls(asked, dataplane.clock())
        attribute(calls, caller, dataplane.clock)
        if self.guard is not None:
            self.admit(calls, caller)
        self.bound(inference, asked, caller, calls)
        if inference.together:
            return inference.answered(asked, caller, await self._together(calls))
        replies: list[PredictReply] = []
        answer: Answer | None
        tried, self.tried = self.tried is caller, None
        try:
            for call in calls:
                if (queueing := self._queueing) is not None and queueing.joins(call):
                    answer = await self._settled(call, queueing)
                else:
                    answer = dataplane.now(call, self._answers.settle, tried=tried)
                    call.inputs = {}  # The task has them, and frees them when it has run.
                    if answer is None:
                        answer = await self._settled(call)
                replies.append(reply_of(answer))
        finally:
            answer = None  # See `reply_of`.
            self.unbound(calls)
        return inference.answered(asked, caller, replies)

    async def _settled(self, call: PredictCall, queueing: Queueing | None = None) -> Answer:
        """The answer to a call that is queued, which comes through the event loop: so not before it is expected.

        Args:
            call: Queued, or to be.
            queueing: Where it is to be; None where it is.
        """
        try:
            future = self._answers.expect(call)
            if queueing is not None:
                queueing.add(call)
            return await future
        finally:
            # Cancelled, or past its deadline: gRPC cancels this coroutine.
            self._answers.give_up(call)

    async def _together(self, calls: Sequence[PredictCall]) -> list[PredictReply]:
        futures = [self._answers.expect(call) for call in calls]
        try:
            self.dataplane.multi(calls, self._answers.settle, here=True)
            for call in calls:
                call.inputs = {}
            answers = [await future for future in futures]
        finally:
            for call in calls:
                self._answers.give_up(call)
        try:
            return list(map(reply_of, answers))
        finally:
            answers.clear()  # See there.


class Said(NamedTuple):
    """What callers say in metadata, see `PredictCall`; a client in its request comes before the one here.

    Attributes:
        client: Who calls.
        preprocessing: What made the inputs.
        priority: Whom it comes before.
        wants_content: Whether tensors are wanted as they are in memory.
    """

    client: bytes
    preprocessing: str
    priority: int
    wants_content: bool


_NOTHING = Said(b"", "", 0, wants_content=False)


def attribute(calls: Sequence[PredictCall], caller: Caller, clock: Callable[[], float]) -> None:
    """Tells the calls what their caller says beside the message: the deadline, and who calls.

    Args:
        calls: Of one request.
        caller: Whose.
        clock: The data plane's.
    """
    left_s = caller.time_remaining()
    until_s = None if left_s is None else clock() + left_s
    client, preprocessing, priority, wants_content = said_of(caller)
    for call in calls:
        if until_s is not None:
            call.deadline_s = until_s if call.deadline_s is None else min(call.deadline_s, until_s)
        call.client_key = call.client_key or client
        call.preprocessing = preprocessing
        call.wants_content = wants_content
        call.priority = call.priority or priority


def said_of(caller: Caller) -> Said:
    """What a caller's metadata say that concerns its calls."""
    metadata = caller.invocation_metadata() or ()
    for key, _ in metadata:
        if key in _KEYS:
            break
    else:
        return _NOTHING
    client, preprocessing, priority, wants_content = _NOTHING
    for key, value in metadata:  # Of a key that comes twice the first counts.
        if key not in _KEYS:
            continue
        if key == CLIENT_HEADER and not client:
            client = value if isinstance(value, bytes) else value.encode()
        elif key == PREPROCESSING_METADATA and not preprocessing:
            preprocessing = value.decode(errors="replace") if isinstance(value, bytes) else value
        elif key == PRIORITY_HEADER and not priority:
            priority = PRIORITIES.get(value.decode(errors="replace") if isinstance(value, bytes) else value, 0)
        elif (key, value) == TENSOR_CONTENT_METADATA:
            wants_content = True
    return Said(client, preprocessing, priority, wants_content)
