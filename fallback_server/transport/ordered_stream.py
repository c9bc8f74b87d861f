"""A stream of requests whose answers are computed side by side, and sent in the order in which they were asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from fallback_server.core.errors import ServerStopping
from fallback_server.protocol.methods import Method
from fallback_server.transport.changes import Changes
from fallback_server.transport.faults import translate
from fallback_server.transport.rpc import Context, aborted

_log = logging.getLogger(__name__)

MAX_STREAM_REQUESTS = 64
"""Of one stream, that are under way or wait for those before them; the next is not read before one of them is sent."""

MAX_STREAM_BYTES = 2**26
"""Of these, beyond which no other is read: as many as the requests have, and the answers once they are there. A request
is taken to give an answer as large as the latest one."""

Answer = Callable[[bytes, Context], Awaitable[bytes]]
"""Gives one request's answer. Must not raise."""


def ordered_stream(
    method: Method[Any, Any], answer: Answer, changes: Changes, give_back: Callable[[int], None]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A call of requests and answers in any number.

    It lasts until the caller has no more requests, or the server stops, which is UNAVAILABLE; what was taken by then is
    answered. Clients match answers to requests by their order: so one that takes long holds back those behind it.

    Args:
        method: Which.
        answer: Runs in the event loop, for several requests at a time.
        changes: Says when the server stops.
        give_back: Is called at the end with how many bytes have gone either way: what they have left behind is free.
    """

    async def handle(_requests: object, context: Context) -> None:
        held = _Held()
        context.add_done_callback(lambda _: give_back(held.gone_bytes))  # type: ignore[arg-type]  # takes any callable
        try:
            await _answer_in_order(context, answer, changes, held)
        except Exception as error:  # noqa: BLE001  no fault may go further than the call's status
            fault, text = translate(error)
            _log.debug("%s: %s: %s", method.path, fault.name, text)
        else:
            return
        await aborted(context, fault.code, text)

    return grpc.stream_stream_rpc_method_handler(handle)


class _Held:
    """What is held of one stream.

    Attributes:
        gone_bytes: Of all its messages so far.
        taken: What gives the answers, in their order; None behind the last one.
    """

    def __init__(self) -> None:
        self.gone_bytes = 0
        self.taken: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._bytes: dict[asyncio.Task[bytes], int] = {}
        self._answer_bytes = 0
        self._changed = asyncio.Event()

    async def room(self) -> None:
        """Waits until another request may be read."""
        while len(self._bytes) >= MAX_STREAM_REQUESTS or sum(self._bytes.values()) >= MAX_STREAM_BYTES:
            self._changed.clear()
            await self._changed.wait()

    def begin(self, task: asyncio.Task[bytes], size_bytes: int) -> None:
        """A request of so many bytes is answered by a task."""
        self.gone_bytes += size_bytes
        self._bytes[task] = max(size_bytes, self._answer_bytes)
        task.add_done_callback(self._answered)
        self.taken.put_nowait(task)

    def end(self, task: asyncio.Task[bytes]) -> None:
        """Its answer was sent."""
        del self._bytes[task]
        self._changed.set()

    def clear(self) -> None:
        """The stream is over."""
        self._bytes.clear()
        self.taken = asyncio.Queue()

    def _answered(self, task: asyncio.Task[bytes]) -> None:
        if task.cancelled() or task.exception() is not None:
            return
        self._answer_bytes = len(task.result())
        self.gone_bytes += self._answer_bytes
        if task in self._bytes:
            self._bytes[task] = self._answer_bytes
            self._changed.set()


async def _answer_in_order(context: Context, answer: Answer, changes: Changes, held: _Held) -> None:
    under_way: set[asyncio.Task[bytes]] = set()

    def begin(data: bytes) -> None:
        task = asyncio.ensure_future(_called(answer, [data], context))
        held.begin(task, len(data))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    async def take() -> None:
        while True:
            await held.room()
            # No variable may keep what was read: it would stay until the next request comes.
            if not await _read_into(context, begin):
                return

    async def write() -> None:
        while (task := await held.taken.get()) is not None:
            await asyncio.wait([task])
            await context.write(task.result())
            held.end(task)
            del task

    taking, writing = asyncio.ensure_future(take()), asyncio.ensure_future(write())
    stopping = asyncio.ensure_future(changes.closing())
    try:
        await asyncio.wait((taking, writing, stopping), return_when=asyncio.FIRST_COMPLETED)
        cut_off = not taking.done()
        if cut_off:
            taking.cancel()
        held.taken.put_nowait(None)
        await writing
        if cut_off:
            raise ServerStopping("the server is stopping: ask for the rest elsewhere, or later")
        await taking
    finally:
        left = (taking, writing, stopping, *under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # Answers that nobody takes: what holds them may refer to itself, and so stay until Python looks for such.
        held.clear()


async def _read_into(context: Context, begin: Callable[[bytes], None]) -> bool:
    """Whether there was another request."""
    data = await context.read()
    if not isinstance(data, bytes):
        return False
    begin(data)
    return True


async def _called(answer: Answer, box: list[bytes], context: Context) -> bytes:
    """Out of a box: this coroutine lives as long as the answer takes, and the bytes need not."""
    return await answer(box.pop(), context)
