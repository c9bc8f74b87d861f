"""The native server: takes calls in lists, and answers them from whichever thread has the answer."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fallback_server.core.errors import ServerError
from fallback_server.dataplane import Answer, PredictCall, PredictReply
from fallback_server.protocol.status import Fault
from fallback_server.transport.call_guard import CallGuard, refusal_of
from fallback_server.transport.calls import Calls, attribute
from fallback_server.transport.farewell import is_quiet
from fallback_server.transport.faults import translate
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.native.calls import Details, NativeCall
from fallback_server.transport.native.choice import load
from fallback_server.transport.native.receivers import Receivers
from fallback_server.transport.rpc import (
    GIVE_BACK_BYTES,
    MessageThreads,
    Unary,
    freed_and_read,
    server_ms,
)

_log = logging.getLogger(__name__)

MAX_EVENTS = 64
"""Calls that are taken at a time; what is beyond a batch waits in its queue."""

_LOOK_S = 0.01

_FLUSH_S = 0.05
"""What was handed over to the system last is on its way by then: closing would cut it off."""

Event = tuple[int, int, int, bytes | None, object, Details | None]
"""Kind, number of the call, number of the method, message, and the call's details."""


class NativeFront:
    """Unary calls on one port in plain text; whatever else comes there is passed on to another gRPC server.

    Made in the event loop that also answers what the data plane doesn't.

    Args:
        address: Where to listen: `host:port`.
        unaries: The calls.
        calls: Those of them that the data plane answers.
        threads: Read and write large messages.
        guard: Knows who may do what.
        max_message_bytes: The largest message that is taken or sent.
        inline_s: How long a run may take that a receiver does by itself.
        arguments: Of the native server; see `front_arguments`.

    Raises:
        OSError: it can't listen there.
    """

    def __init__(
        self,
        address: str,
        unaries: Sequence[Unary[Any, Any]],
        calls: Calls,
        threads: MessageThreads,
        *,
        guard: CallGuard,
        max_message_bytes: int,
        inline_s: float,
        arguments: Mapping[str, int],
    ) -> None:
        native = load()
        self._event_call: int = native.EVENT_CALL
        self._front = native.NativeGrpcFront(
            address,
            [(unary.method.path, False) for unary in unaries],
            call_details=True,
            metrics=True,  # They say what has been sent; see `quiet`.
            **{"keepalive_permit_without_calls": False, **arguments},
        )
        self._loop = asyncio.get_running_loop()
        self._kinds = [(unary, calls.inferences.get(unary.method.path)) for unary in unaries]
        self._guard = guard
        self._asked = [guard.asks(unary.method.path) for unary in unaries]
        self._calls = calls
        self._dataplane = calls.dataplane
        self._clock = calls.dataplane.clock
        self._threads = threads
        self._max_bytes = max_message_bytes
        self._inline_s = inline_s
        # Whoever takes a call out of this answers it, or nobody does: so each is answered once, in any thread.
        self._open: dict[int, NativeCall] = {}
        self._waiting: dict[PredictCall, NativeCall] = {}
        self._came_s = float("-inf")
        self._closed = False
        self._receivers = Receivers(functools.partial(self._front.recv_batch_details, MAX_EVENTS), self._take)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._front.bound_port)

    def __len__(self) -> int:
        """How many calls wait for the data plane."""
        return len(self._waiting)

    def start(self, fallback_path: str) -> None:
        """Takes calls from now on.

        Args:
            fallback_path: The UNIX socket of the server that answers what is none of the calls here.
        """
        self._front.set_fallback(fallback_path)
        self._front.start()
        self._receivers.start()

    async def quiet(self, *, grace_s: float) -> None:
        """Waits until every call is answered, the answers are sent, and no call has come for a moment.

        At most the grace; and who asks again at once, for ever, keeps nobody: see `is_quiet`.
        """
        begun_s = self._clock()
        while (waited_s := self._clock() - begun_s) < grace_s:
            if is_quiet(bool(self._open) or self._unsent(), self._clock() - self._came_s, waited_s):
                await asyncio.sleep(_FLUSH_S)
                return
            await asyncio.sleep(_LOOK_S)

    def close(self) -> None:
        """Ends connections, and gives up on calls that are under way. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._front.close()
        self._receivers.close()
        for call_id in tuple(self._open):
            self._left(call_id)

    def _unsent(self) -> bool:
        metrics = self._front.metrics()
        return any(
            method["started"] > sum(told["count"] for told in method["status"].values())
            for method in metrics["methods"].values()
        )

    def _take(self, events: list[Event], may_run: bool) -> None:  # noqa: FBT001  as `Receivers` calls it
        """What a receiver has received: calls of the data plane are handed over together."""
        alone: list[PredictCall] = []
        for kind, call_id, number, data, _, details in events:
            if kind != self._event_call or data is None or details is None:
                self._left(call_id)
                continue
            call = self._open[call_id] = NativeCall(call_id, self._kinds[number], details, len(data), self._clock)
            self._came_s = call.came_s
            inference = call.inference
            if self._asked[number] and not self._admitted(call, data):
                continue
            if len(data) > self._max_bytes:
                self._exceeds(call, "Received", len(data))
            elif inference is None:
                self._in_loop(self._begin, call, [data])
            elif len(data) >= LARGE_BYTES:
                self._in_thread(call, self._read_large, data)
            elif self._read(call, data):
                if inference.together:
                    self._multi(call, may_run=may_run)
                else:
                    alone += call.calls
        events.clear()
        data = None
        if alone:
            self._predict(alone, may_run=may_run)

    def _admitted(self, call: NativeCall, data: bytes) -> bool:
        """Whether a call may be looked at, by who calls; False where it was refused. Its bytes are here, and unread."""
        del data
        refusal = refusal_of(lambda: self._guard.admit_method(call, call.unary.method.path))
        if refusal is not None:
            self._refuse(call, refusal)
        return refusal is None

    def _read_large(self, work: tuple[NativeCall, bytes]) -> None:
        call, data = work
        del work
        if call.call_id in self._open and self._read(call, data):
            del data
            if call.inference is not None and call.inference.together:
                self._multi(call, may_run=False)
            else:
                self._predict(call.calls, may_run=False)

    def _read(self, call: NativeCall, data: bytes) -> bool:
        """Reads a request, whose calls are then expected; False where it was refused."""
        inference = call.inference
        assert inference is not None
        try:
            self._calls.check_open()
            asked = freed_and_read(inference.read, data) if len(data) >= GIVE_BACK_BYTES else inference.read(data)
            call.asked = asked
            calls = inference.calls(asked, self._clock())
            attribute(calls, call, self._clock)
            if self._calls.guard is not None:
                self._calls.admit(calls, call)
            self._calls.bound(inference, asked, call, calls)
        except Exception as error:  # noqa: BLE001  no fault of one request may go further than its status
            self._refuse(call, error)
            return False
        call.calls = calls
        for each in calls:
            self._waiting[each] = call
        if call.call_id not in self._open:  # It was given up meanwhile, and its calls were not there to be found.
            self._give_up(call)
            return False
        return True

    def _predict(self, calls: Sequence[PredictCall], *, may_run: bool) -> None:
        try:
            if may_run and len(calls) == 1:
                answer = self._dataplane.now(calls[0], self._settle, inline_s=self._inline_s)
                if answer is not None:
                    self._settle(((calls[0], answer),))
            else:
                self._dataplane.predict(calls, self._settle, here=may_run, inline_s=self._inline_s)
        except Exception as error:  # noqa: BLE001  as in `_read`
            self._fail_all(calls, error)
        for call in calls:
            call.inputs = {}  # The task has them, and frees them when they have run.

    def _multi(self, call: NativeCall, *, may_run: bool) -> None:
        try:
            self._dataplane.multi(call.calls, self._settle, here=may_run, inline_s=self._inline_s)
        except Exception as error:  # noqa: BLE001  as in `_read`
            self._fail_all(call.calls, error)
        for each in call.calls:
            each.inputs = {}

    def _settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        """The data plane's `Settle`: answers are written and sent by the thread that has them."""
        for asked, answer in answers:
            call = self._waiting.pop(asked, None)
            if call is None:
                continue
            call.answers[asked] = answer
            if len(call.answers) == len(call.calls) and self._open.pop(call.call_id, None) is not None:
                self._answer(call)

    def _answer(self, call: NativeCall) -> None:
        """Answers a call that the data plane has settled."""
        inference = call.inference
        assert inference is not None
        try:
            replies: list[PredictReply] = []
            for asked in call.calls:
                answer = call.answers[asked]
                if isinstance(answer, ServerError):  # Not raised: see `reply_of`.
                    self._fail(call, answer)
                    return
                replies.append(answer)
            answered = inference.answered(call.asked, call, replies)
            if inference.weigh(answered) >= LARGE_BYTES:
                del replies
                call.answers = {}
                self._threads.submit(self._write_large, [call, answered])
            else:
                self._respond(call, inference.write(answered))
        except Exception as error:  # noqa: BLE001  as in `_read`
            self._fail(call, error)

    def _write_large(self, box: list[Any]) -> None:
        answered, call = box.pop(), box.pop()
        try:
            data = call.unary.write(answered)
            del answered
            self._respond(call, data)
        except Exception as error:  # noqa: BLE001  as in `_read`
            self._fail(call, error)

    def _respond(self, call: NativeCall, data: bytes) -> None:
        """Sends an answer to a call that is no longer among the open ones."""
        if len(data) > self._max_bytes:
            self._exceeds(call, "Sent", len(data))
            return
        trailing = [server_ms(self._clock() - call.came_s)] if call.unary.timed else None
        self._front.respond(call.call_id, data, None, trailing)
        self._over(call)

    def _exceeds(self, call: NativeCall, what: str, size: int) -> None:
        """Refuses a message that is too large, in gRPC's words."""
        self._open.pop(call.call_id, None)
        text = f"SERVER: {what} message larger than max ({size} vs. {self._max_bytes})"
        self._front.fail(call.call_id, Fault.QUEUE_FULL.code.value[0], text)
        self._over(call)

    def _refuse(self, call: NativeCall, error: Exception) -> None:
        """Answers an open call with its fault."""
        if self._open.pop(call.call_id, None) is not None:
            self._fail(call, error)

    def _fail(self, call: NativeCall, error: Exception) -> None:
        fault, text = translate(error)
        _log.debug("%s: %s: %s", call.unary.method.path, fault.name, text)
        self._front.fail(call.call_id, fault.code.value[0], text)
        self._over(call)

    def _fail_all(self, calls: Sequence[PredictCall], error: Exception) -> None:
        """What the data plane could not even refuse."""
        for asked in calls:
            call = self._waiting.pop(asked, None)
            if call is not None:
                self._refuse(call, error)

    def _over(self, call: NativeCall) -> None:
        self._calls.unbound(call.calls)
        if call.size_bytes >= LARGE_BYTES:
            call.asked = None
            self._threads.give_back(call.size_bytes)

    def _left(self, call_id: int) -> None:
        """Nobody waits for a call any more."""
        call = self._open.pop(call_id, None)
        if call is None:
            return
        if call.inference is None:
            self._in_loop(self._cancel, call, [])
        else:
            self._give_up(call)

    def _give_up(self, call: NativeCall) -> None:
        left_s = self._clock()
        for asked in call.calls:
            if self._waiting.pop(asked, None) is not None:
                asked.left_s = left_s
        self._over(call)

    def _in_thread(self, call: NativeCall, work: Callable[[tuple[NativeCall, bytes]], None], data: bytes) -> None:
        try:
            self._threads.submit(work, (call, data))
        except ServerError as error:
            self._refuse(call, error)

    def _in_loop(self, work: Callable[[NativeCall, list[bytes]], None], call: NativeCall, box: list[bytes]) -> None:
        try:
            self._loop.call_soon_threadsafe(work, call, box)
        except RuntimeError:
            _log.debug("%s came after the server had stopped", call.unary.method.path)

    def _begin(self, call: NativeCall, box: list[bytes]) -> None:
        if call.call_id in self._open:
            call.task = self._loop.create_task(self._answer_in_loop(call, box))

    def _cancel(self, call: NativeCall, _box: list[bytes]) -> None:
        if call.task is not None:
            call.task.cancel()

    async def _answer_in_loop(self, call: NativeCall, box: list[bytes]) -> None:
        unary, threads = call.unary, self._threads
        try:
            answered = await unary.answer(await threads.run(unary.read, box.pop(), size=call.size_bytes), call)
            written = await threads.run(unary.write, answered, size=unary.weigh(answered))
        except Exception as error:  # noqa: BLE001  as in `_read`
            self._refuse(call, error)
        else:
            if self._open.pop(call.call_id, None) is not None:
                self._respond(call, written)
        finally:
            call.done()
