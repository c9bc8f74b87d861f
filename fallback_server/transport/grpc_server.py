"""gRPC on asyncio: one event loop takes requests and sends answers, and never runs a model."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import grpc

from fallback_server.control import Control
from fallback_server.core.errors import ConfigRefused
from fallback_server.dataplane import DataPlane
from fallback_server.package_shelf import Shelf
from fallback_server.protocol import methods
from fallback_server.sequences.figures import SequenceFigures
from fallback_server.sequences.options import SequenceOptions
from fallback_server.transport.accepting import Accepting
from fallback_server.transport.admission import Admission
from fallback_server.transport.arrivals import Arrivals, Arriving
from fallback_server.transport.call_guard import CallGuard, open_guard
from fallback_server.transport.calls import Calls
from fallback_server.transport.changes import Changes
from fallback_server.transport.client_bounds import client_bounds
from fallback_server.transport.delivery import DeliveryService
from fallback_server.transport.edge_services import CatalogService, OperatorService
from fallback_server.transport.farewell import Farewell
from fallback_server.transport.health import HealthService
from fallback_server.transport.model_service import ModelService
from fallback_server.transport.native.addresses import addresses, target
from fallback_server.transport.native.choice import front_arguments
from fallback_server.transport.native.front import NativeFront
from fallback_server.transport.native.fronts import listening
from fallback_server.transport.open_inference import AbsentCalls, InferenceService
from fallback_server.transport.prediction import PredictionService
from fallback_server.transport.private_server import PrivateServer, private_arguments
from fallback_server.transport.reflection import reflection_handlers
from fallback_server.transport.rpc import MAX_MESSAGE_BYTES, MessageThreads, Rpcs
from fallback_server.transport.sequence_service import SequenceService
from fallback_server.transport.services import Handlers
from fallback_server.transport.strangers import Strangers
from fallback_server.transport.tls import TlsKeeper
from fallback_server.transport.unix_socket import SocketUnavailable, UnixSocket
from fallback_server.transport.untaken import Untaken

MAX_PENDING_CALLS = 2**16
"""Calls that have come and are not taken yet. gRPC's own bounds are 1,000, from where on it drops some at random, and
3,000: a burst, or a stall of a second, would be answered with CANCELLED that nobody has said. What is too much is
refused by the queues, with a reason."""

_PING_TIMEOUT_MS = 3_600_000
"""gRPC pings a client that sends, and its minute's wait for the echo counts what is queued before it: at 64 kbit/s a
request of 1 MB lost its connection after 60 s. A client that is gone is left to TCP."""

OFTEN = (methods.PREDICT.path, methods.MODEL_INFER.path)
"""What is taken as it comes, see `Accepting`."""

_TOLD_S = 0.01
"""By then gRPC has begun to tell clients that it stops, which goes ahead of answers on each connection."""

_DISTRIBUTION = "edge-runtime"


REUSE_PORT = ("grpc.so_reuseport", 1)
"""Has several processes of one user listen on a port; the system spreads connections among them."""


class PortUnavailable(Exception):
    """The address can't be listened on: taken, or none of this machine's."""


class GrpcServer:
    """TensorFlow Serving's calls, Open Inference, our own, health and reflection, on one port.

    Lives in the event loop that makes it.

    Args:
        dataplane: Answers inference.
        control: Answers what is asked of the models as a whole.
        server_id: In the catalog.
        max_message_bytes: The largest message that is taken or sent; a larger one is RESOURCE_EXHAUSTED.
        tls: What TLS is spoken with; None for plain text.
        guard: Knows who may do what; by default everybody may do everything.
        message_threads: How many large messages are read and written at a time.
        channel_arguments: Given to gRPC as they are; they win over ours.
        tensor_content: Whether answers to Predict hold `tensor_content` even if nobody asks for it.
        packages: Those that devices may fetch; None where they may fetch none.
        sequences: How many sequences there may be; None for the usual bounds.
        sequence_figures: Are told of them; None where nobody reads them.
        native: Whether the port is the native server's, see `native.choice`. What it doesn't speak goes to gRPC's own
            behind it, over a socket that nobody else can reach.
        inline_s: How long a run may take that a receiver of the native server does by itself: longer than in the event
            loop, as another receiver takes over where one is held up.
        shared: Whether other processes listen on the port as well, and pass on to `private_path` what they don't
            answer.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        control: Control,
        *,
        server_id: str = "",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: TlsKeeper | None = None,
        guard: CallGuard | None = None,
        message_threads: int = 2,
        channel_arguments: Sequence[tuple[str, int | str]] = (),
        tensor_content: bool = False,
        packages: Shelf | None = None,
        sequences: SequenceOptions | None = None,
        sequence_figures: SequenceFigures | None = None,
        native: bool = False,
        inline_s: float = 1e-3,
        shared: bool = False,
    ) -> None:
        self._tls = tls
        self._shared = shared
        self._native = native
        self._inline_s = inline_s
        self._max_message_bytes = max_message_bytes
        self._channel_arguments = channel_arguments
        self._fronts: list[NativeFront] = []
        self._private: PrivateServer | None = None
        self._threads = MessageThreads(message_threads)
        self._changes = Changes(control.watch)
        self._serving = False
        self._socket: UnixSocket | None = None
        self._farewell = Farewell()
        self._guard = guard = open_guard() if guard is None else guard
        self.calls = Calls(dataplane, max_message_bytes=max_message_bytes, guard=guard)
        self._delivery = DeliveryService(packages, self._changes, guard)
        self._health = HealthService(control.index, self._changes, guard)
        self._rpcs = rpcs = Rpcs(self._threads, max_message_bytes, Untaken().hold)
        services = (
            PredictionService(
                self.calls, max_tensor_bytes=max_message_bytes, guard=guard, tensor_content=tensor_content
            ),
            ModelService(control, self._changes, guard),
            InferenceService(
                self.calls,
                control,
                self._changes,
                self._threads,
                guard=guard,
                serving=lambda: self._serving,
                version=_version(),
            ),
            CatalogService(control, self._changes, server_id=server_id, clock=dataplane.clock, guard=guard),
            OperatorService(control, self._changes, guard),
            self._delivery,
            SequenceService(
                self.calls,
                control,
                self._changes,
                self._threads,
                options=sequences or SequenceOptions(),
                max_tensor_bytes=max_message_bytes,
                figures=sequence_figures,
            ),
            self._health,
        )
        if shared:
            channel_arguments = self._channel_arguments = (REUSE_PORT, *channel_arguments)
        handlers: Handlers = {
            method: handler for service in services for method, handler in service.handlers(rpcs).items()
        }
        door = Arriving(Strangers(Admission(handlers, guard), guard, self._threads), Arrivals(), self._farewell)
        self._handlers = (door, *reflection_handlers(handlers, guard), AbsentCalls())
        self._server = self._made(channel_arguments)
        self._accepting = Accepting(self._handlers, OFTEN)
        self._accepting.register(self._server)

    async def start(self, *, host: str, port: int, socket_path: str | None = None) -> int:
        """Listens; returns the port, which is another than the given one when that is 0.

        Args:
            host: Name or address.
            port: 0 picks a free one.
            socket_path: A UNIX socket beside the port, in plain text; None for none. Of a server that has ended it is
                taken over, and one at which somebody listens is left alone.

        Raises:
            PortUnavailable: it can't.
        """
        try:
            return await self._start(host, port, socket_path)
        except BaseException:
            self._close_native()
            raise

    async def set_serving(self, *, serving: bool) -> None:
        """What health checks hear."""
        self._serving = serving
        self._health.set_serving(serving=serving)

    def waiting(self) -> int:
        """How many calls wait for the data plane."""
        return len(self.calls) + sum(len(front) for front in self._fronts)

    async def stop(self, *, grace_s: float) -> None:
        """Refuses what comes, waits for what is in flight, and gives up on what outlasts the grace."""
        self.calls.stop()
        self._changes.close()
        if self._socket is not None:
            self._socket.release()
        begun_s = time.monotonic()
        fronts = [front.quiet(grace_s=grace_s) for front in self._fronts]
        await asyncio.gather(self._rpcs.quiet(grace_s=grace_s), *fronts)
        try:
            await self._farewell.gather(most_s=grace_s - (time.monotonic() - begun_s))
            left_s = max(0.0, grace_s - (time.monotonic() - begun_s))
            stops = [asyncio.ensure_future(self._server.stop(left_s))]
            if self._private is not None:
                stops.append(asyncio.ensure_future(self._private.stop(left_s)))
            await asyncio.sleep(_TOLD_S)
        finally:
            self._farewell.end()
        await asyncio.gather(*stops)
        await self._accepting.end()
        self._close_native()
        self._delivery.close()
        self._threads.close()

    async def _start(self, host: str, port: int, socket_path: str | None) -> int:
        if self._shared:
            with contextlib.suppress(OSError):  # Of a name that is none whoever listens tells.
                check_free(host, port)
        bound = self._listen_natively(host, port) if self._native else self._listen(target(host, port), tls=self._tls)
        if self._native or self._shared:
            await self._listen_privately()
        if socket_path is not None:
            try:
                self._socket = UnixSocket(Path(socket_path), lambda path: self._listen(f"unix:{path}", tls=None))
            except (SocketUnavailable, PortUnavailable) as error:
                raise PortUnavailable(f"can't listen on unix:{socket_path}: {error}") from error
        await self._server.start()
        self._accepting.begin()
        for front in self._fronts:
            front.start(str(self.private_path))
        return bound

    def _close_native(self) -> None:
        for front in self._fronts:
            front.close()
        if self._private is not None:
            self._private.close()

    @property
    def private_path(self) -> Path:
        """A UNIX socket for processes that belong to this one, once it listens; where there are any."""
        assert self._private is not None
        return self._private.socket

    async def _listen_privately(self) -> None:
        try:
            self._private = PrivateServer(lambda: self._made(private_arguments(self._channel_arguments)))
            await self._private.start()
        except SocketUnavailable as error:
            raise PortUnavailable(str(error)) from error

    def _listen_natively(self, host: str, port: int) -> int:
        try:
            self._fronts = listening(host, port, self._front_at)
        except OSError as error:
            raise PortUnavailable(f"can't listen on {target(host, port)}: {error}") from error
        return self._fronts[0].port

    def _front_at(self, address: str) -> NativeFront:
        return NativeFront(
            address,
            self._rpcs.unaries,
            self.calls,
            self._threads,
            guard=self._guard,
            max_message_bytes=self._max_message_bytes,
            inline_s=self._inline_s,
            arguments=front_arguments(self._channel_arguments),
        )

    def _made(self, arguments: Sequence[tuple[str, int | str]]) -> grpc.aio.Server:
        # gRPC takes the first of two.
        server = grpc.aio.server(options=(*arguments, *server_options(self._max_message_bytes)))
        server.add_generic_rpc_handlers(self._handlers)
        return server

    def _listen(self, address: str, *, tls: TlsKeeper | None) -> int:
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, tls.grpc_credentials())
        except RuntimeError as error:
            raise PortUnavailable(f"can't listen on {address}: {error}") from error
        if not bound:
            raise ConfigRefused(f"can't listen on {address}: gRPC refused the TLS key or certificate")
        return bound


def server_options(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """What gRPC's server is told, unless the operator says otherwise."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Otherwise a second server on the same port would start, and take a part of the first one's connections.
        ("grpc.so_reuseport", 0),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        *client_bounds(),
    )


def check_free(host: str, port: int) -> None:
    """Refuses a port that others listen on: with `REUSE_PORT` a second server would take a part of their connections.

    Raises:
        PortUnavailable: it is taken.
        OSError: there is no such host.
    """
    for address in addresses(host):
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except OSError as error:  # Of others than this whoever listens there tells.
            if error.errno == errno.EADDRINUSE:
                raise PortUnavailable(f"can't listen on {target(host, port)}: {error}") from error


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
