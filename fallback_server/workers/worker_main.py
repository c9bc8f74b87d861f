"""A worker: listens beside the first process, and answers what both have.

    python -m fallback_server.workers.worker_main SOCKET LIFELINE LOG

It ends when the first process says so, and when that has ended, however it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from fallback_server.access.attempts import Attempts
from fallback_server.access.guard import Guard
from fallback_server.batching.queue import BatchRun
from fallback_server.core.servable import ServableId
from fallback_server.counts import Gauge
from fallback_server.dataplane import Answer, DataPlane, Observe, PredictCall
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import open_litert
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.worker.nursery_main import end_with
from fallback_server.metrics import Metrics, observer
from fallback_server.package_info import PackageInfo
from fallback_server.served_model import ServedModel
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.faults import code_of
from fallback_server.transport.grpc_server import PortUnavailable
from fallback_server.transport.serving_loop import ServingLoop
from fallback_server.transport.shared_port import SharedPort
from fallback_server.transport.tls import TlsKeeper
from fallback_server.workers.channel import Channel, ChannelClosed
from fallback_server.workers.epoch import Epoch
from fallback_server.workers.hosted import Elsewhere, HostedVersions, Place
from fallback_server.workers.messages import (
    FIGURES_S,
    Access,
    Begin,
    Drain,
    Drained,
    Drop,
    End,
    Figures,
    Host,
    Hosted,
    Listening,
    View,
)

_log = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(levelname)s worker-{}/%(threadName)s %(name)s: %(message)s"

_STOP_S = 1.0


def main() -> None:
    """Answers until the first process goes away."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    end_with(int(sys.argv[2]))
    log = os.fdopen(int(sys.argv[3]), "w", errors="backslashreplace", buffering=1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Meant for the server, which says what is to end.
    code = 0
    try:
        begin, fds = channel.receive()
        assert isinstance(begin, Begin)
        logging.basicConfig(level=begin.log_level, format=_LOG_FORMAT.format(begin.index), stream=log)
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            runner.run(_answer(channel, begin, Epoch(fds[0])))
    except ChannelClosed:
        pass
    except PortUnavailable as error:
        _log.error("%s", error)
        code = 1
    _exit(code)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)  # Threads of gRPC and LiteRT need nobody to wait for them.


async def _answer(channel: Channel, begin: Begin, epoch: Epoch) -> None:
    """Answers until it is told to end."""
    worker = Worker(channel, begin, epoch)
    keeper = worker.keeper
    port = SharedPort(
        worker.dataplane,
        passes_to=begin.passes_to,
        secret=begin.secret,
        native=begin.native,
        tls=keeper,
        guard=CallGuard(
            worker.guard,
            certificates=keeper is not None and keeper.files.client_verify,
            inference=begin.asks,
        ),
        max_message_bytes=begin.max_message_bytes,
        message_threads=begin.message_threads,
        channel_arguments=begin.channel_arguments,
        tensor_content=begin.tensor_content,
        inline_s=begin.inline_s,
    )
    worker.dataplane.scheduler.start()
    await port.start(host=begin.host, port=begin.port)
    ended = asyncio.Event()
    drains: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def drain(grace_s: float) -> None:
        await port.drain(grace_s=grace_s)
        worker.tell_figures()
        channel.send(Drained())

    def begin_drain(grace_s: float) -> None:
        drains.add(loop.create_task(drain(grace_s)))

    worker.start(
        on_drain=lambda grace_s: loop.call_soon_threadsafe(begin_drain, grace_s),
        on_end=lambda: loop.call_soon_threadsafe(ended.set),
        soon=loop.call_soon_threadsafe,
    )
    channel.send(Listening())
    await ended.wait()
    worker.tell_figures()
    await port.flush()
    worker.dataplane.scheduler.stop(timeout_s=_STOP_S)
    _exit(0)  # At once: an end of the loop would have gRPC tell clients CANCELLED; see `SharedPort.drain`.


class Worker:
    """What a worker has, and is told.

    Args:
        channel: To the first process.
        begin: How it is to answer.
        epoch: The first process's.

    Attributes:
        dataplane: Answers.
        guard: Knows who may do what.
        keeper: What TLS is spoken with; None for plain text.
    """

    def __init__(self, channel: Channel, begin: Begin, epoch: Epoch) -> None:
        access = begin.access
        self._channel = channel
        self.guard = Guard(access.rules, trust=access.trust, attempts=Attempts(tells=False))
        self.keeper = None if access.tls is None else TlsKeeper(access.tls)
        self._versions = HostedVersions(epoch)
        self._metrics = Metrics()
        self._telling = threading.Lock()
        self._loads: queue.SimpleQueue[tuple[Host, int] | Drop] = queue.SimpleQueue()
        self.dataplane = DataPlane(
            versions=self._versions,
            options=begin.batching,
            clock=time.monotonic,
            check_method_names=begin.check_method_names,
            observe=_but_elsewhere(observer(self._metrics, code_of)),
        )

    def start(
        self,
        *,
        on_drain: Callable[[float], object],
        on_end: Callable[[], object],
        soon: Callable[[Callable[[], object]], object],
    ) -> None:
        """Begins to listen to the first process.

        Args:
            on_drain: Called with the grace, in another thread, when it is to refuse what comes.
            on_end: Likewise, when it is to end.
            soon: Has something called by the event loop.
        """
        threading.Thread(target=self._listen, args=(on_drain, on_end), name="first", daemon=True).start()
        threading.Thread(target=self._load_all, name="load", daemon=True).start()
        threading.Thread(target=self.tell_regularly, args=(soon,), name="figures", daemon=True).start()

    def tell_figures(self, *, turned: bool = False) -> None:
        """Tells what was counted since the last time.

        Args:
            turned: See `Figures`.
        """
        with self._telling:
            statistics, gauges = {}, {}
            for number, place in self._versions.places().items():
                model = place.servable
                gauges[number] = Gauge(model.queued_rows(), model.expected_wait_ms(), model.runs_here())
                counts = model.statistics.take()
                if counts.requests or counts.runs:
                    statistics[number] = counts
            metrics = self._metrics.take()
            busy = any(model.codes for model in metrics.models.values()) or metrics.batches
            told = metrics if busy else None
            self._channel.send(Figures(turned=turned, gauges=gauges, statistics=statistics, metrics=told))

    def tell_regularly(self, soon: Callable[[Callable[[], object]], object]) -> None:
        """Tells figures every `FIGURES_S`, as long as the event loop turns; until the channel is closed.

        Args:
            soon: See `start`.
        """
        turned = threading.Event()
        while True:
            time.sleep(FIGURES_S)
            turned.clear()
            soon(turned.set)
            turned.wait()  # Where that hangs, the first process hears nothing, and ends this one.
            try:
                self.tell_figures(turned=True)
            except ChannelClosed:
                return

    def _listen(self, on_drain: Callable[[float], object], on_end: Callable[[], object]) -> None:
        try:
            while True:
                message, fds = self._channel.receive()
                if isinstance(message, View):
                    if message.access is not None:
                        self._take(message.access)
                    self._versions.take(message)
                elif isinstance(message, Host):
                    self._loads.put((message, fds[0]))
                elif isinstance(message, Drop):
                    self._loads.put(message)
                elif isinstance(message, Drain):
                    on_drain(message.grace_s)
                elif isinstance(message, End):
                    on_end()
        except ChannelClosed:
            os._exit(0)  # The first process has ended without a word.

    def _take(self, access: Access) -> None:
        """Before the view that came with it: until then what is asked is passed on."""
        if access.tls is not None and self.keeper is not None:
            self.keeper.take(access.tls, "the first process")
        self.guard.take(access.rules, access.trust)

    def _load_all(self) -> None:
        """Loads and unloads in the order that it is told to; what answers meanwhile goes on."""
        while True:
            job = self._loads.get()
            if isinstance(job, Drop):
                with contextlib.suppress(ChannelClosed):
                    self.tell_figures()
                self._versions.drop(job.number)
                continue
            host, fd = job
            why_not = ""
            try:
                self._versions.host(host.number, Place(ServableId(host.name, host.version), self._loaded(host, fd)))
            except Exception as error:  # noqa: BLE001  requests for it are passed on
                why_not = " ".join(str(error).split()) or type(error).__name__
            try:
                self._channel.send(Hosted(number=host.number, why_not=why_not))
            except ChannelClosed:
                return

    def _loaded(self, host: Host, fd: int) -> ServedModel:
        """What the first process has loaded and tried, in this one."""
        executor = open_litert(
            SealedFile(fd),
            sizes=RunSizes(rows=host.rows, threads=host.threads),
            whole=frozenset(host.whole),
            threads=host.run_threads,
            fill=True,
        )
        executor.stands_for(host.methods, host.signature_defs)
        # From now on it is known there: loads themselves are not told.
        self._metrics.load(model=host.name, version=host.version, seconds=0.0, ok=True)
        package = None
        if host.fingerprint:
            package = PackageInfo(
                fingerprint=host.fingerprint, preprocessing_fingerprint=host.preprocessing_fingerprint
            )
        return ServedModel(
            ServableId(host.name, host.version),
            executor,
            host.batching,
            package,
            on_run=functools.partial(_ran, self._metrics, host),
        )


def _ran(metrics: Metrics, host: Host, run: BatchRun) -> None:
    metrics.batch(
        model=host.name,
        version=host.version,
        rows=run.rows,
        padded_rows=run.padded_rows,
        queued_s=run.queued_s,
        run_s=run.run_s,
    )


def _but_elsewhere(observe: Observe) -> Observe:
    """The same, but for what is passed on: the first process counts that."""

    def observe_own(call: PredictCall, servable_id: ServableId | None, answer: Answer, took_s: float) -> None:
        if not isinstance(answer, Elsewhere):
            observe(call, servable_id, answer, took_s)

    return observe_own


if __name__ == "__main__":
    main()
