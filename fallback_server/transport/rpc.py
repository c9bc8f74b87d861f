"""One call over gRPC: bytes in, bytes or a status out; what is large is read and written in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from fallback_server.core.errors import DeadlineExceeded, InvalidInput, QueueFull, ServerStopping
from fallback_server.core.memory import give_back
from fallback_server.protocol.methods import SERVER_MS_METADATA, Method
from fallback_server.transport.callers import passed_caller
from fallback_server.transport.faults import status_of
from fallback_server.transport.gathering import Gathering, Soon, given
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.serving_loop import ServingLoop

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

MAX_MESSAGE_BYTES = 2**31 - 1
"""The largest bound that gRPC takes."""

MAX_LARGE_WAITING = 256
"""Large messages that wait for a thread; each of them holds its bytes."""

_LOOK_S = 0.01

STOPPING_TEXT = "the server is stopping"

SMALL_IN_A_ROW = 100
"""Requests of a method after which it is taken for one of small messages; see `_UnaryHandler`."""

GIVE_BACK_BYTES = 2**24
"""Messages of this size leave enough freed memory behind to be worth the milliseconds that giving it back takes."""


COUNTED_BYTES = 2**12
"""Answers from here on are counted until they are taken; of smaller ones a connection's calls hold 4 MiB at most."""


class Caller(Protocol):
    """What a call says beside its message, over whichever transport it came; gRPC's own context is one."""

    def peer(self) -> str:
        """Who calls: `ipv4:10.0.0.7:51234`, or what else the transport says of it."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Keys and values, as they came."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until nobody waits any more; None where that is not said."""
        ...

    def add_done_callback(self, callback: Any) -> None:
        """Has something called, in the event loop, when the call is over. For calls that it answers."""
        ...


def peer_of(caller: Caller) -> str:
    """Who calls: `ipv4:10.0.0.7:51234`, or what else the transport says of it; also where a worker passes it on."""
    return passed_caller(caller.invocation_metadata()) or str(caller.peer())


@dataclass(frozen=True, kw_only=True, slots=True)
class Unary(Generic[Asked, Answered]):
    """A call of one request and one response, which any transport can take.

    Attributes:
        method: Which.
        answer: Runs in the event loop.
        read: Reads the request; in any thread.
        write: Writes what `answer` gave; in any thread.
        weigh: About how many bytes it will have.
        timed: Whether the answer's trailing metadata say how long it took here; see `SERVER_MS_METADATA`.
        soon: What `read` and `answer` would come to, for small requests whose answers are there at once; None where
            there are no such.
    """

    method: Method[Any, Any]
    answer: Callable[[Asked, Caller], Awaitable[Answered]]
    read: Callable[[bytes], Asked]
    write: Callable[[Answered], bytes]
    weigh: Callable[[Answered], int]
    timed: bool = False
    soon: Soon[Any, Answered] | None = None


def check_sent(data: bytes, max_bytes: int) -> None:
    """Refuses an answer that is too large, in gRPC's words; gRPC itself would log each with a traceback.

    Raises:
        QueueFull: it is.
    """
    if len(data) > max_bytes:
        raise QueueFull(f"SERVER: Sent message larger than max ({len(data)} vs. {max_bytes})")


class MessageThreads:
    """Reads and writes messages: small ones at once, large ones in threads.

    Args:
        threads: How many large messages are worked on at a time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="message")
        self._lock = threading.Lock()
        self._waiting = 0
        self._giving_back = False

    async def run(self, work: Callable[[Asked], Answered], what: Asked, *, size: int) -> Answered:
        """The work's result; in a thread where the message is large. In the event loop alone.

        Raises:
            QueueFull: `MAX_LARGE_WAITING` wait already.
            Exception: what the work raises.
        """
        if size < LARGE_BYTES:
            return work(what)
        self._enter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _worked_off, work, [what])
        finally:
            self._leave()

    def submit(self, work: Callable[[Asked], object], what: Asked) -> None:
        """Has a large message worked on in a thread, by work that doesn't raise. In any thread.

        Raises:
            QueueFull: `MAX_LARGE_WAITING` wait already.
            ServerStopping: the threads have ended.
        """
        self._enter()
        try:
            self._pool.submit(_worked_off, work, [what]).add_done_callback(lambda _: self._leave())
        except RuntimeError:
            self._leave()
            raise ServerStopping(STOPPING_TEXT) from None

    def give_back(self, size: int) -> None:
        """Returns to the system what a message of that size has left behind; returns before that is done."""
        if size < GIVE_BACK_BYTES or self._giving_back:
            return
        self._giving_back = True
        with contextlib.suppress(RuntimeError):  # The threads have ended: so will the process.
            self._pool.submit(self._give_back)

    def close(self) -> None:
        """Takes no more; what is under way goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _enter(self) -> None:
        with self._lock:
            if self._waiting >= MAX_LARGE_WAITING:
                raise QueueFull(f"{self._waiting} messages of over {LARGE_BYTES} bytes wait to be read or written")
            self._waiting += 1

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _give_back(self) -> None:
        self._giving_back = False  # Before: what is freed meanwhile may need another turn.
        give_back()


class _UnaryHandler(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """A unary call, which gRPC takes in one of two ways, whichever this says when it comes. In the event loop alone.

    As a stream of one request, which is the same on the wire: else gRPC would hold the request's bytes until the answer
    is sent, which matters where they are many. Or, while a method's requests are small, as what it is: that costs a
    seventh less of all that gRPC does.

    Attributes:
        request_streaming: Which of the two, as gRPC asks for it.
        unary_unary: Takes the call in the second way.
        stream_unary: Takes it in the first.
    """

    response_streaming = False
    request_deserializer = None
    response_serializer = None
    unary_stream = None
    stream_stream = None

    def __init__(self) -> None:
        self.request_streaming = True
        self.unary_unary: Any = None
        self.stream_unary: Any = None
        self._small = 0

    def came(self, size: int) -> None:
        """A request of so many bytes has come as a stream, or is large."""
        self._small = 0 if size >= LARGE_BYTES else self._small + 1
        self.request_streaming = self._small < SMALL_IN_A_ROW


class Rpcs:
    """Makes gRPC's handlers, and turns whatever is raised in them into gRPC's status.

    No handler has gRPC's own serializers: what those raise would reach the caller past the rim, as UNKNOWN and with its
    inner names.

    Args:
        threads: Read and write large messages.
        max_message_bytes: The largest answer to a unary call.
        hold: Is told the size of each answer of more than a few bytes, before it is written, and whose it is; raises
            where that may not have it. By default they are not counted.

    Attributes:
        unaries: The unary calls that it has made handlers for.
    """

    def __init__(
        self,
        threads: MessageThreads,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        hold: Callable[[int, Caller], None] = lambda _size, _caller: None,
    ) -> None:
        self._hold = hold
        self.unaries: list[Unary[Any, Any]] = []
        self._max_bytes = max_message_bytes
        self._threads = threads
        self._under_way = 0
        self._gathering: Gathering | None = None

    def _gathers(self) -> Gathering | None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, ServingLoop):
            self._gathering = Gathering(loop)
        return self._gathering

    async def quiet(self, *, grace_s: float) -> None:
        """Waits until no unary call is under way, at most the grace."""
        end_s = time.monotonic() + grace_s
        while time.monotonic() < end_s:
            if not self._under_way:
                return
            await asyncio.sleep(_LOOK_S)

    def unary(self, unary: Unary[Any, Any]) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A call of one request and one response."""
        self.unaries.append(unary)
        handler = _UnaryHandler()
        handler.unary_unary = self._plain(unary, handler)
        handler.stream_unary = self._streamed(unary, handler)
        return handler

    def _plain(self, unary: Unary[Any, Any], handler: _UnaryHandler) -> Callable[[bytes, Context], Awaitable[bytes]]:
        clock = time.monotonic
        read, answer, weigh, write, soon = unary.read, unary.answer, unary.weigh, unary.write, unary.soon
        weighed = self._weighed

        async def handle(data: bytes, context: Context) -> bytes:
            came_s = clock()
            self._under_way += 1
            try:
                if len(data) >= LARGE_BYTES:
                    handler.came(len(data))
                    written = await self._answered(unary, [data], context)
                else:
                    answered = None
                    if soon is not None and (found := soon.find(data, context)) is not None:
                        gathering = self._gathering or self._gathers()
                        if gathering is not None and gathering.joins(soon, found):
                            answered = given(await gathering.join(soon, found))
                        else:
                            answered = soon.answer(found)
                    if answered is None:
                        answered = await answer(read(data), context)
                    weight = weighed(weigh(answered), context)
                    if weight < LARGE_BYTES:
                        written = write(answered)
                    else:
                        written = await self._threads.run(write, answered, size=weight)
                    check_sent(written, self._max_bytes)
            except Exception as error:  # noqa: BLE001  no fault of one request may go further than its status
                code, text = _told(unary.method, error)
                answered = None  # What is refused is not kept until its caller has heard of that.
            else:
                if unary.timed:
                    context.set_trailing_metadata((server_ms(clock() - came_s),))
                return written
            finally:
                self._under_way -= 1
            return await aborted(context, code, text)

        return handle

    def _streamed(
        self, unary: Unary[Any, Any], handler: _UnaryHandler
    ) -> Callable[[object, Context], Awaitable[bytes]]:
        clock = time.monotonic

        async def handle(_requests: object, context: Context) -> bytes:
            try:
                box = await _received(unary.method, context)
            except Exception as error:  # noqa: BLE001  as above
                return await aborted(context, *_told(unary.method, error))
            self._under_way += 1  # Not before: a stop waits for what is under way, and not for who sends half of it.
            came_s = clock()  # Not the handler's start: it begins before the bytes are here.
            try:
                handler.came(len(box[0]))
                written = await self._answered(unary, box, context)
            except Exception as error:  # noqa: BLE001  as above
                code, text = _told(unary.method, error)
            else:
                if unary.timed:
                    context.set_trailing_metadata((server_ms(clock() - came_s),))
                return written
            finally:
                self._under_way -= 1
            return await aborted(context, code, text)

        return handle

    def message(
        self, method: Method[Request, Response], answer: Callable[[Request, Caller], Awaitable[Response]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A unary call whose messages are protobuf's as they are."""
        return self.unary(
            Unary(method=method, answer=answer, read=reader(method), write=serialize, weigh=_message_bytes)
        )

    def responses(
        self,
        method: Method[Request, Response],
        answer: Callable[[Request, Context], AsyncGenerator[Response, None]],
        *,
        limit_s: float | None = None,
        stall_s: float | None = None,
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A call of one request and a stream of responses.

        Args:
            method: Which.
            answer: Runs in the event loop.
            limit_s: How long it may take, the caller's reading included; None for ever.
            stall_s: How long the caller may take none of the responses; None for ever.
        """

        async def handle(_requests: object, context: Context) -> None:
            try:
                async with asyncio.timeout(limit_s):
                    request = await self._read(reader(method), await _received(method, context), context)
                    async with contextlib.aclosing(answer(request, context)) as responses:
                        async for response in responses:
                            await _taken(method, context, serialize(response), stall_s)
            except TimeoutError:
                code, text = status_of(DeadlineExceeded(f"{method.name} took longer than {limit_s} s"))
            except Exception as error:  # noqa: BLE001  as in unary
                code, text = _told(method, error)
            else:
                return
            await aborted(context, code, text)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _answered(self, unary: Unary[Any, Any], box: list[bytes], context: Context) -> bytes:
        """The answer to a request that lies in a box: nothing here keeps it, nor what was read of it."""
        answered = await unary.answer(await self._read(unary.read, box, context), context)
        weight = self._weighed(unary.weigh(answered), context)
        written = await self._threads.run(unary.write, answered, size=weight)
        check_sent(written, self._max_bytes)
        return written

    def _weighed(self, weight: int, context: Context) -> int:
        """An answer's weight, which it is counted by, or refused."""
        if weight >= COUNTED_BYTES:
            self._hold(weight, context)
        return weight

    async def _read(self, read: Callable[[bytes], Asked], box: list[bytes], context: Context) -> Asked:
        size = len(box[0])
        if size < LARGE_BYTES:
            return read(box.pop())
        context.add_done_callback(functools.partial(self._give_back, size))  # type: ignore[arg-type]  # takes any callable
        if size >= GIVE_BACK_BYTES:
            read = functools.partial(freed_and_read, read)
        return await self._threads.run(read, box.pop(), size=size)

    def _give_back(self, size: int, _context: object) -> None:
        self._threads.give_back(size)


def _told(method: Method[Any, Any], error: Exception) -> tuple[grpc.StatusCode, str]:
    """What the caller is told of a fault, which the log may tell too."""
    code, text = status_of(error)
    _log.debug("%s: %s: %s", method.path, code.name, text)
    return code, text


async def _received(method: Method[Any, Any], context: Context) -> list[bytes]:
    """The one request of a call, in a box that whoever reads it takes it out of.

    Raises:
        InvalidInput: there is none.
    """
    data = await context.read()
    if not isinstance(data, bytes):
        raise InvalidInput(f"the call ended before its {method.request.DESCRIPTOR.name}")
    return [data]


async def aborted(
    context: Context, code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, str | bytes], ...] = ()
) -> NoReturn:
    """Ends a call with a status.

    Raises:
        BaseException: gRPC's own, for its handler; or CancelledError where the caller left meanwhile, which gRPC would
            log as a fault of ours.
    """
    try:
        await context.abort(code, text, trailing)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


async def _taken(method: Method[Any, Any], context: Context, data: bytes, stall_s: float | None) -> None:
    try:
        async with asyncio.timeout(stall_s):
            await context.write(data)
    except TimeoutError as error:
        raise DeadlineExceeded(f"{method.name}: nothing of it was taken for {stall_s} s") from error


def _worked_off(work: Callable[[Asked], Answered], box: list[Asked]) -> Answered:
    """The thread keeps its arguments until it has something else to do: so it gets what they are in out of a box."""
    return work(box.pop())


def freed_and_read(read: Callable[[bytes], Asked], data: bytes) -> Asked:
    """Before the tensors are copied anywhere, the pieces go that they came in: they have their size once more."""
    give_back()
    return read(data)


def server_ms(took_s: float) -> tuple[str, str]:
    """The metadata that say how long an answer took here."""
    return SERVER_MS_METADATA, f"{took_s * 1e3:.3f}"


def reader(method: Method[Request, Any]) -> Callable[[bytes], Request]:
    """Parses the method's request. It raises InvalidInput for bytes that are none."""
    return lambda data: parse(method, data)


def parse(method: Method[Request, Any], data: bytes) -> Request:
    """The method's request.

    Raises:
        InvalidInput: the bytes are none.
    """
    try:
        return method.request.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the request is no {method.request.DESCRIPTOR.name}") from error


def serialize(message: Message) -> bytes:
    """A message's bytes."""
    return message.SerializeToString()


def _message_bytes(message: Message) -> int:
    return message.ByteSize()
