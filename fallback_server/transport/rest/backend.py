"""What every REST handler works with: the data plane as a coroutine, and threads for large messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from starlette.requests import Request

from fallback_server.access.guard import Guard, rules_without_file
from fallback_server.core.errors import RequestCancelled
from fallback_server.core.handle import ServableHandle
from fallback_server.core.servable import ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import Answer, DataPlane, PredictCall, PredictReply
from fallback_server.served_model import ServedModel
from fallback_server.transport.answers import Answers, reply_of
from fallback_server.transport.changes import Changes
from fallback_server.transport.rest.held import HeldBodies
from fallback_server.transport.rest.json_readers import JsonReaders, Reading
from fallback_server.transport.rest.rest_guard import RestGuard
from fallback_server.transport.settling import wait_settled

LARGE_BYTES = 2**17
"""Work on more than this goes to a thread: the event loop has other callers, and JSON takes some 20 ns a byte."""

JSON_BYTES = 2**18
"""More JSON than this is read in another process: at worst it holds Python's lock for 130 ns a byte."""

BODY_STEP_BYTES = 2**14
"""A client that sends less than this of a body in the time that it has for it does not send, but holds a place."""

GROWTH = 32
"""A body must grow by this part of what it holds in the time for a step, and of an answer as much be taken: they hold
others' room."""

P = ParamSpec("P")
T = TypeVar("T")


class Models(Protocol):
    """What REST asks of the set of models; see `Control`."""

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means."""
        ...

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """The states of a model's versions, the highest first."""
        ...

    def index(self) -> tuple[ServableState, ...]:
        """Every model's every version."""
        ...

    def lack(self, name: str) -> str:
        """Why nothing, or nothing new, of a model is on disk."""
        ...

    def load(self, name: str, *, who: str = "") -> None:
        """Takes a model back into service."""

    def unload(self, name: str, *, who: str = "") -> None:
        """Takes a model out of service."""

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls a function after each change, in any thread; the result ends that."""
        ...


class Backend:
    """Lives in the event loop that makes it.

    Args:
        dataplane: Runs.
        models: Knows who may.
        threads: How many large messages are read or written at a time.
        max_body_bytes: The largest body of a request.
        stall_s: How long a client may take for the next `BODY_STEP_BYTES` of a body, or for its end.
        max_held_bytes: The most bytes of the bodies of one address' requests; at least one of the largest fits. Those
            of all addresses together may be twice as many.
        guard: Knows who may do what; by default everybody may do everything.

    Attributes:
        guard: See above.
        held: The bodies that are held.
        serving: Whether the server takes requests, as it says to who asks.
        stopping: Whether what comes is refused, and connections are closed with the answer.
        no_bodies: Whether bodies that are not whole are waited for no more.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        models: Models,
        *,
        threads: int,
        max_body_bytes: int,
        stall_s: float,
        max_held_bytes: int = 2**30,
        guard: RestGuard | None = None,
    ) -> None:
        self.guard = guard or RestGuard(Guard(rules_without_file(certified=False, control=True)), inference=False)
        self.dataplane = dataplane
        self.models = models
        self.max_body_bytes = max_body_bytes
        self.stall_s = stall_s
        self.serving = False
        self.stopping = False
        self.no_bodies = False
        self.held = HeldBodies(2 * max(max_held_bytes, max_body_bytes))
        self._arriving: set[asyncio.Timeout] = set()
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rest")
        self._readers = JsonReaders(at_once=threads)
        self._waiting = Answers()
        self._changes: Changes | None = None

    async def work(self, size_bytes: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function: here where it has little to do, in a thread where the message is large."""
        if size_bytes <= LARGE_BYTES:
            return function(*args, **kwargs)
        return await self._loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def read(
        self, request: Request, size_bytes: int, function: Callable[..., T], body: bytearray, *args: object
    ) -> T:
        """Calls a function that reads JSON of so many bytes in a body: in another process where there is much of it.

        That is ended when the client leaves, or this coroutine is cancelled.

        Raises:
            ServerError: as the function does; QueueFull where there is no process to be had; RequestCancelled when the
                client has left.
            HttpRefused: what is in the body takes more memory than it may, or what read it was killed.
        """
        if size_bytes <= JSON_BYTES:
            return await self.work(size_bytes, function, body, *args)
        reading = Reading(function, body, *args)
        read: Callable[[], T] = partial(self._readers.run, reading)
        future = self._loop.run_in_executor(self._pool, read)
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((future, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise RequestCancelled("the client is gone")
            return future.result()
        finally:
            leaving.cancel()
            if not future.done():
                future.cancel()  # Also where no thread has come to it yet.
                reading.give_up()

    async def predict(self, call: PredictCall, request: Request) -> PredictReply:
        """Runs a call; it is cancelled when the client leaves, or this coroutine is.

        Raises:
            ServerError: as the data plane says; RequestCancelled when the client has left.
        """
        future = self._waiting.expect(call)
        self.dataplane.predict([call], self._waiting.settle)
        call.inputs = {}  # The task has them, and frees them when they have run.
        watch = None if future.done() else asyncio.ensure_future(_watch(request, future))
        try:
            return reply_of(await future)
        finally:
            self._waiting.give_up(call)
            if watch is not None:
                watch.cancel()

    async def settled(self, name: str) -> None:
        """Waits until nothing of a model is on its way any more.

        Raises:
            VersionNotReady: none of its versions could be loaded.
        """
        if self._changes is None:
            self._changes = Changes(self.models.watch)
        await wait_settled([name], self.models.states, self._changes, self.models.lack)

    @contextlib.contextmanager
    def waiting_for_body(self, bound: asyncio.Timeout) -> Iterator[None]:
        """While it is waited for more of a body: what ends that with a TimeoutError, also where no more is waited."""
        if self.no_bodies:
            bound.reschedule(self._loop.time())
        self._arriving.add(bound)
        try:
            yield
        finally:
            self._arriving.discard(bound)

    def give_up_bodies(self) -> None:
        """Waits for no more of any request: those whose bodies are not there are refused."""
        self.no_bodies = True
        for bound in self._arriving:
            if not bound.expired():
                bound.reschedule(self._loop.time())

    def close(self) -> None:
        """Ends the threads once their work is done, without waiting, and the processes that read."""
        if self._changes is not None:
            self._changes.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._readers.close()


async def _left(request: Request) -> None:
    """Waits for the client to leave. The body has come: nothing else can."""
    receive: Callable[[], Awaitable[object]] = request.receive
    await receive()


async def _watch(request: Request, future: asyncio.Future[Answer]) -> None:
    await _left(request)
    if not future.done():
        future.set_result(RequestCancelled("the client is gone"))
