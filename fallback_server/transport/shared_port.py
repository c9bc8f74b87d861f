"""The port as a worker has it: it answers inference by what is loaded here, and passes everything else on."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from fallback_server.access.rules import Scope
from fallback_server.core.errors import ConfigRefused, ServerError
from fallback_server.dataplane import DataPlane, PredictCall
from fallback_server.protocol import methods
from fallback_server.transport.accepting import Accepting
from fallback_server.transport.admission import Admission, Asked, Handler
from fallback_server.transport.arrivals import Arrivals, Arriving
from fallback_server.transport.call_guard import CallGuard, refusal_of
from fallback_server.transport.calls import Calls, Inference
from fallback_server.transport.faults import PassedOn, status_of
from fallback_server.transport.grpc_server import OFTEN, REUSE_PORT, PortUnavailable, server_options
from fallback_server.transport.native.addresses import target
from fallback_server.transport.native.calls import NativeCall
from fallback_server.transport.native.choice import front_arguments
from fallback_server.transport.native.front import NativeFront
from fallback_server.transport.native.fronts import listening
from fallback_server.transport.open_inference import model_infer
from fallback_server.transport.prediction import PredictionService
from fallback_server.transport.relay import Relay
from fallback_server.transport.rpc import Caller, Context, MessageThreads, Rpcs, Unary, aborted
from fallback_server.transport.services import Handlers
from fallback_server.transport.strangers import Strangers
from fallback_server.transport.tls import TlsKeeper
from fallback_server.transport.untaken import Untaken
from fallback_server.workers.hosted import Elsewhere

_SAYING_WHO = (
    methods.DESCRIBE_PACKAGE,
    methods.RELOAD_CONFIG,
    methods.RELOAD,
    methods.REPOSITORY_MODEL_LOAD,
    methods.REPOSITORY_MODEL_UNLOAD,
    methods.ROLLBACK,
    methods.SET_LABEL,
    methods.SET_TRAFFIC,
)
"""Passed on from here with who calls, which matters for them: the native server by itself doesn't say it."""

_LAST_S = 0.5
"""The first process has ended its streams by then: only their ends have to get out."""

_FLUSH_S = 0.05
"""What was handed over to the system last is on its way by then."""


class _Kept(NamedTuple):
    """A request as it was read, and as it came: so it can be passed on."""

    asked: Any
    data: bytes


class _Passed(NamedTuple):
    """An answer as it came from the other server."""

    data: bytes


class PassingCalls(Calls):
    """Calls of the data plane; those that are answered elsewhere are passed on.

    Args:
        dataplane: Answers with `Elsewhere` what it can't.
        relay: Where that goes.
        max_message_bytes: See `Calls`.
        guard: Knows who may run what. Whom it refuses the other server hears, which knows all, counts, and says why.
    """

    def __init__(self, dataplane: DataPlane, relay: Relay, *, max_message_bytes: int, guard: CallGuard) -> None:
        super().__init__(dataplane, max_message_bytes=max_message_bytes, guard=guard)
        self._relay = relay

    def handler(self, rpcs: Rpcs, inference: Inference[Any, Any]) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See `Calls.handler`."""
        return super().handler(rpcs, _keeping(inference))

    def admit(self, calls: Sequence[PredictCall], caller: Caller) -> None:
        """See `Calls.admit`.

        Raises:
            Elsewhere: the caller may not.
        """
        if self.guard is not None:
            try:
                self.guard.admit(caller, Scope.PREDICT, [call.target.name for call in calls])
            except ServerError:
                raise Elsewhere from None

    async def answer(self, inference: Inference[Any, Any], asked: Any, caller: Caller) -> Any:
        """See `Calls.answer`."""
        try:
            return await super().answer(inference, asked, caller)
        except Elsewhere:
            return _Passed(await self._relay.unary(inference.method.path, asked.data, caller))


class PassingAdmission(Admission):
    """Calls that may not begin are passed on: the other server refuses, counts and says why.

    Arguments as of `Admission`, and the relay.
    """

    def __init__(self, relay: Relay, handlers: Handlers, guard: CallGuard) -> None:
        super().__init__(handlers, guard)
        self._relay = relay

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """See `Admission.service`; None also for what is passed on before anything of it was read."""
        found = super().service(handler_call_details)
        return found if self._guard.certificates or not isinstance(found, Asked) else None

    async def turn_away(self, path: str, context: Context, error: ServerError) -> bytes:
        """See `Admission.turn_away`."""
        del error
        try:
            return await self._relay.unread(path, context)
        except ServerError as refusal:
            return await aborted(context, *status_of(refusal))


class PassingFront(NativeFront):
    """The native server; see `PassingCalls`. Arguments as of `NativeFront`, and the relay."""

    def __init__(self, relay: Relay, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._relay = relay
        self._passing: dict[str, Unary[bytes, bytes]] = {}

    def _admitted(self, call: NativeCall, data: bytes) -> bool:
        refusal = refusal_of(lambda: self._guard.admit_method(call, call.unary.method.path))
        if refusal is not None:
            self._pass_on(call, data)
        return refusal is None

    def _fail(self, call: NativeCall, error: Exception) -> None:
        kept = call.asked
        if isinstance(error, PassedOn):
            code, text = status_of(error)
            self._front.fail(call.call_id, code.value[0], text)
            self._over(call)
            return
        if not isinstance(error, Elsewhere) or not isinstance(kept, _Kept):
            super()._fail(call, error)
            return
        # It is open once more, as a call that the event loop answers.
        self._open[call.call_id] = call
        self._pass_on(call, kept.data)

    def _pass_on(self, call: NativeCall, data: bytes) -> None:
        call.asked, call.inference, call.unary = None, None, self._passing_of(call.unary.method, timed=call.unary.timed)
        self._in_loop(self._begin, call, [data])

    def _passing_of(self, method: methods.Method[Any, Any], *, timed: bool) -> Unary[bytes, bytes]:
        found = self._passing.get(method.path)
        if found is None:
            found = self._passing[method.path] = _passing(self._relay, method, timed=timed)
        return found


class SharedPort:
    """The port of a worker. Lives in the event loop that makes it.

    Args:
        dataplane: See `PassingCalls`.
        passes_to: The first process's UNIX socket.
        secret: By which it believes who calls; see `callers`.
        native: See `GrpcServer`, likewise all below.
        tls: What TLS is spoken with.
        guard: Knows who may do what.
        max_message_bytes: The largest message.
        message_threads: For large messages.
        channel_arguments: Given to gRPC.
        tensor_content: Whether answers to Predict hold `tensor_content`.
        inline_s: How long a run may take that a receiver does.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        *,
        passes_to: str,
        secret: bytes,
        native: bool,
        tls: TlsKeeper | None,
        guard: CallGuard,
        max_message_bytes: int,
        message_threads: int,
        channel_arguments: Sequence[tuple[str, int | str]],
        tensor_content: bool,
        inline_s: float,
    ) -> None:
        self._passes_to = passes_to
        self._native = native
        self._tls = tls
        self._max_message_bytes = max_message_bytes
        self._arguments = (REUSE_PORT, *channel_arguments)
        self._inline_s = inline_s
        self._guard = guard
        self._threads = MessageThreads(message_threads)
        self._relay = Relay(passes_to, secret, guard.certificate_of)
        self._rpcs = Rpcs(self._threads, max_message_bytes, Untaken().hold)
        self._calls = PassingCalls(dataplane, self._relay, max_message_bytes=max_message_bytes, guard=guard)
        service = PredictionService(
            self._calls, max_tensor_bytes=max_message_bytes, guard=guard, tensor_content=tensor_content
        )
        made = {
            **service.handlers(self._rpcs),
            methods.MODEL_INFER: self._calls.handler(self._rpcs, model_infer(dataplane.refused)),
        }
        self._handlers: Handlers = {
            method: handler for method, handler in made.items() if method.path in self._calls.inferences
        }
        self._fronts: list[NativeFront] = []
        self._server: grpc.aio.Server | None = None
        self._accepting: Accepting | None = None

    async def start(self, *, host: str, port: int) -> None:
        """Listens beside others.

        Raises:
            PortUnavailable: it can't.
        """
        try:
            if self._native:
                self._fronts = listening(host, port, self._front_at)
                for front in self._fronts:
                    front.start(self._passes_to)
            else:
                await self._start_server(target(host, port))
        except (OSError, RuntimeError, ConfigRefused) as error:
            raise PortUnavailable(f"can't listen on {target(host, port)}: {error}") from error

    async def drain(self, *, grace_s: float) -> None:
        """Refuses what comes for the data plane, and waits for what is in flight; goes on refusing until the end.

        gRPC's server is not told to stop: what comes before its clients know would be CANCELLED, which none asks again.
        """
        self._calls.stop()
        self._relay.stopping = True
        fronts = [front.quiet(grace_s=grace_s) for front in self._fronts]
        await asyncio.gather(self._rpcs.quiet(grace_s=grace_s), self._relay.quiet(grace_s=grace_s), *fronts)

    async def flush(self) -> None:
        """Has what was answered last reach the clients: the process may end then, which ends all connections.

        An end without a word is UNAVAILABLE to a client, which asks another server then.
        """
        await self._relay.quiet(grace_s=_LAST_S)
        await asyncio.sleep(_FLUSH_S)

    def _front_at(self, address: str) -> NativeFront:
        return PassingFront(
            self._relay,
            address,
            [
                *(unary for unary in self._rpcs.unaries if unary.method.path in self._calls.inferences),
                *(_passing(self._relay, method, timed=False) for method in _SAYING_WHO),
            ],
            self._calls,
            self._threads,
            guard=self._guard,
            max_message_bytes=self._max_message_bytes,
            inline_s=self._inline_s,
            arguments=front_arguments(self._arguments),
        )

    async def _start_server(self, address: str) -> None:
        server = self._server = grpc.aio.server(options=(*self._arguments, *server_options(self._max_message_bytes)))
        door = Arriving(PassingAdmission(self._relay, self._handlers, self._guard), Arrivals())
        handlers = door, Strangers(self._relay, self._guard, self._threads)
        server.add_generic_rpc_handlers(handlers)
        self._accepting = Accepting(handlers, OFTEN)
        self._accepting.register(server)
        if self._tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, self._tls.grpc_credentials())
        if not bound:
            raise PortUnavailable(f"can't listen on {address}")
        await server.start()
        self._accepting.begin()


def _passing(relay: Relay, method: methods.Method[Any, Any], *, timed: bool) -> Unary[bytes, bytes]:
    """A call that the event loop passes on."""
    answer = functools.partial(relay.unary, method.path)
    return Unary(method=method, answer=answer, read=bytes, write=bytes, weigh=len, timed=timed)


def _keeping(inference: Inference[Any, Any]) -> Inference[Any, Any]:
    """The same, which also knows requests and answers as they travel."""

    def read(data: bytes) -> _Kept:
        return _Kept(inference.read(data), data)

    def write(answered: Any) -> bytes:
        return answered.data if isinstance(answered, _Passed) else inference.write(answered)

    def weigh(answered: Any) -> int:
        return len(answered.data) if isinstance(answered, _Passed) else inference.weigh(answered)

    return dataclasses.replace(
        inference,
        read=read,
        calls=lambda kept, now_s: inference.calls(kept.asked, now_s),
        answered=lambda kept, caller, replies: inference.answered(kept.asked, caller, replies),
        write=write,
        weigh=weigh,
    )
