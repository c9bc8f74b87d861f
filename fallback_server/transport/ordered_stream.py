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
from fallback_server.transport.rpc import Context

_log = logging.getLogger(__name__)

MAX_STREAM_REQUESTS = 64
"""Of one stream, that are under way or wait for those before them; the next is not read before one of them is sent."""


Answer = Callable[[bytes, Context], Awaitable[bytes]]
"""Gives one request's answer. Must not raise."""


def ordered_stream(method: Method[Any, Any], answer: Answer, changes: Changes) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A call of requests and answers in any number.

    It lasts until the caller has no more requests, or the server stops, which is UNAVAILABLE; what was taken by then is
    answered. Clients match answers to requests by their order: so one that takes long holds back those behind it.

    Args:
        method: Which.
        answer: Runs in the event loop, for several requests at a time.
        changes: Says when the server stops.
    """

    async def handle(_requests: object, context: Context) -> None:
        try:
            await _answer_in_order(context, answer, changes)
        except Exception as error:  # noqa: BLE001  no fault may go further than the call's status
            fault, text = translate(error)
            _log.debug("%s: %s: %s", method.path, fault.name, text)
        else:
            return
        await context.abort(fault.code, text)

    return grpc.stream_stream_rpc_method_handler(handle)


async def _answer_in_order(context: Context, answer: Answer, changes: Changes) -> None:
    slots = asyncio.Semaphore(MAX_STREAM_REQUESTS)
    under_way: set[asyncio.Task[bytes]] = set()
    taken: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()  # Its bound are the slots.

    def begin(data: bytes) -> None:
        task = asyncio.ensure_future(_called(answer, [data], context))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        taken.put_nowait(task)

    async def take() -> None:
        while True:
            await slots.acquire()
            # No variable may keep what was read: it would stay until the next request comes.
            if not await _read_into(context, begin):
                return

    async def write() -> None:
        while (task := await taken.get()) is not None:
            await asyncio.wait([task])
            await context.write(task.result())
            del task
            slots.release()

    taking, writing = asyncio.ensure_future(take()), asyncio.ensure_future(write())
    stopping = asyncio.ensure_future(changes.closing())
    try:
        await asyncio.wait((taking, writing, stopping), return_when=asyncio.FIRST_COMPLETED)
        cut_off = not taking.done()
        if cut_off:
            taking.cancel()
        taken.put_nowait(None)
        await writing
        if cut_off:
            raise ServerStopping("the server is stopping: ask for the rest elsewhere, or later")
        await taking
    finally:
        left = (taking, writing, stopping, *under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


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
