"""Between the event loop and the data plane: who waits for which answer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from fallback_server.core.errors import ServerStopping
from fallback_server.dataplane import DataPlane, PredictCall, PredictReply
from fallback_server.predict_call import PRIORITIES
from fallback_server.protocol.methods import PREPROCESSING_METADATA, Method
from fallback_server.transport.answers import Answers, reply_of
from fallback_server.transport.rpc import STOPPING_TEXT, Caller, Rpcs, Unary

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

CLIENT_HEADER = "x-client-id"
"""Requests of one client go to one version where traffic is split; a request's own field comes before it."""

PRIORITY_HEADER = "x-priority"
"""Requests that say `high` are run before others of their model's signature, those that say `low` after them."""


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
    """

    method: Method[Any, Any]
    read: Callable[[bytes], Asked]
    calls: Callable[[Asked, float], Sequence[PredictCall]]
    answered: Callable[[Asked, Caller, Sequence[PredictReply]], Answered]
    write: Callable[[Answered], bytes]
    weigh: Callable[[Answered], int]
    together: bool = False
    timed: bool = False


class Calls:
    """Runs calls of the data plane for coroutines. Lives in the event loop that makes it.

    Attributes:
        dataplane: Answers.
        inferences: What has handlers, by the methods' paths.
    """

    def __init__(self, dataplane: DataPlane) -> None:
        self.dataplane = dataplane
        self.inferences: dict[str, Inference[Any, Any]] = {}
        self._stopping = False
        self._answers = Answers(dataplane.clock)
        self._loop = asyncio.get_running_loop()
        self._turn: list[PredictCall] = []

    def stop(self) -> None:
        """From now on every call is refused: whoever asks is to ask another server."""
        self._stopping = True

    def check_open(self) -> None:
        """Refuses a call where every one is; in any thread.

        Raises:
            ServerStopping: it is.
        """
        if self._stopping:
            raise ServerStopping(STOPPING_TEXT)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._answers)

    def handler(self, rpcs: Rpcs, inference: Inference[Any, Any]) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler that gRPC has for an inference."""
        self.inferences[inference.method.path] = inference
        return rpcs.unary(
            Unary(
                method=inference.method,
                answer=functools.partial(self.answer, inference),
                read=inference.read,
                write=inference.write,
                weigh=inference.weigh,
                timed=inference.timed,
            )
        )

    async def answer(self, inference: Inference[Asked, Answered], asked: Asked, caller: Caller) -> Answered:
        """The answer to a request, within the caller's deadline.

        Raises:
            ServerError: the first fault of its calls.
        """
        dataplane = self.dataplane
        calls = inference.calls(asked, dataplane.clock())
        attribute(calls, caller, dataplane.clock)
        replies = await self._replies(calls, together=inference.together)
        return inference.answered(asked, caller, replies)

    async def _replies(self, calls: Sequence[PredictCall], *, together: bool) -> list[PredictReply]:
        self.check_open()
        futures = [self._answers.expect(call) for call in calls]
        try:
            if together:
                self.dataplane.multi(calls, self._answers.settle)
                _let_go(calls)
            else:
                self._turn += calls
                if len(self._answers) == len(calls):
                    self._hand_over()  # Nobody else waits: another turn of the loop would bring nothing but delay.
                elif len(self._turn) == len(calls):
                    self._loop.call_soon(self._hand_over)
            answers = [await future for future in futures]
        finally:
            # Cancelled, or past its deadline: gRPC cancels this coroutine.
            for call in calls:
                self._answers.give_up(call)
        return [reply_of(answer) for answer in answers]

    def _hand_over(self) -> None:
        """Hands over what came in one turn of the event loop: so it can be one batch."""
        calls, self._turn = self._turn, []
        if not calls:
            return
        try:
            self.dataplane.predict(calls, self._answers.settle, here=True)
        except Exception as error:  # noqa: BLE001  each of them has its caller, and the event loop none
            self._answers.fail(calls, error)
        _let_go(calls)


def _let_go(calls: Sequence[PredictCall]) -> None:
    """The tasks have the inputs, and free them when they have run."""
    for call in calls:
        call.inputs = {}


def attribute(calls: Sequence[PredictCall], caller: Caller, clock: Callable[[], float]) -> None:
    """Tells the calls what their caller says beside the message: the deadline, and who calls.

    Args:
        calls: Of one request.
        caller: Whose.
        clock: The data plane's.
    """
    left_s = caller.time_remaining()
    until_s = None if left_s is None else clock() + left_s
    client, preprocessing, priority = b"", "", 0
    for key, value in caller.invocation_metadata() or ():  # Of a key that comes twice the first counts.
        if key == CLIENT_HEADER and not client:
            client = value if isinstance(value, bytes) else value.encode()
        elif key == PREPROCESSING_METADATA and not preprocessing:
            preprocessing = value.decode(errors="replace") if isinstance(value, bytes) else value
        elif key == PRIORITY_HEADER and not priority:
            priority = PRIORITIES.get(value.decode(errors="replace") if isinstance(value, bytes) else value, 0)
    for call in calls:
        if until_s is not None:
            call.deadline_s = until_s if call.deadline_s is None else min(call.deadline_s, until_s)
        call.client_key = call.client_key or client
        call.preprocessing = preprocessing
        call.priority = call.priority or priority
