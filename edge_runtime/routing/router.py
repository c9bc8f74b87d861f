"""An Executor that chooses between the device and the servers, and goes to the other where the first fails."""

from __future__ import annotations

from _thread import TIMEOUT_MAX
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from msgspec.structs import replace

from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    Overloaded,
    ServerFailed,
    VersionNotAvailable,
)
from edge_runtime.pixels import Pixels, in_reals
from edge_runtime.routing.policy import (
    REASON_ENGINE_FAILED,
    REASON_LOCAL,
    REASON_OVERLOADED,
    REASON_SERVER_FAILED,
    REASON_TOO_SLOW,
    REASON_VERSION_MISSING,
    DeviceView,
    Place,
    Route,
    ServerView,
    choose,
    predicted_s,
)
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.cost import CostTable, DeviceCosts
from edge_runtime.scheduling.runs import late
from edge_runtime.types import InferRequest, Pending, Reply


class Remote(Protocol):
    """What the router needs of the servers: `edge_runtime.remote.client.RemoteClient`, which loads grpc."""

    def expects(self, request: InferRequest) -> float | None:
        """Seconds in which the best server should answer it; None if none may be asked, or none has the version."""
        ...

    def submit(self, request: InferRequest) -> Future[Reply]:
        """Sends the request; a ServerFailed in the future means that nobody answered."""
        ...


class Router:
    """Routes the requests of one model and version. Thread-safe."""

    def __init__(
        self,
        device: Batcher | None,
        remote: Remote | None,
        *,
        installed: Callable[[], list[int]],
        clock: Callable[[], float],
        absent: str = REASON_VERSION_MISSING,
        pixels: Pixels | None = None,
    ) -> None:
        """Takes the two places.

        Args:
            device: The version's batcher; None where it is not installed.
            remote: The servers; None where the runtime has no fallback.
            installed: The model's versions on the device, for errors.
            clock: Monotonic seconds.
            absent: Why the version is not on the device, where it isn't.
            pixels: The inputs that may come as pixels, which servers don't take.
        """
        self._absent = absent
        self._pixels = pixels or {}
        self._device = device
        self._remote = remote
        self._installed = installed
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Router device={self._device!r} remote={self._remote!r}>"

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`. Runs in the caller's thread where an engine is idle and fast enough."""
        device = self._device
        if device is not None:
            deadline_s = request.deadline_s
            if deadline_s is None or _fits(device.costs, request.rows, deadline_s - self._clock()):
                try:
                    reply = device.try_infer(request)
                except EngineFailed as error:
                    return self._rescued(request, error)
                if reply is not None:
                    return reply
        # Without servers there is no choice to make, and that is dear where many threads wait for one device.
        if device is None or self._remote is not None:
            route = self._choose(request)
            if device is None or route.place is not Place.DEVICE:
                return self._wait(request, self._elsewhere(request, route))
        try:
            # A caller that waits needs no future.
            return device.wait(request)
        except EngineFailed as error:
            return self._rescued(request, error)
        except Overloaded:  # Another thread filled the queue since the choice was made.
            return self._wait(request, self._to_server(replace(request, reason=REASON_OVERLOADED)))

    def submit(self, request: InferRequest) -> Pending:
        """See `Executor`."""
        if self._device is None or self._remote is not None:
            route = self._choose(request)
            if self._device is None or route.place is not Place.DEVICE:
                return self._elsewhere(request, route)
        try:
            inner = self._device.submit(request)
        except Overloaded:  # Another thread filled the queue since the choice was made.
            return self._to_server(replace(request, reason=REASON_OVERLOADED))
        except EngineFailed as error:
            rescued = self._after_engine(request, error)
            if rescued is None:
                raise
            return rescued
        if self._remote is None and isinstance(inner, Pending):
            return inner
        return _then(inner, "the device's queue", lambda error: self._after_engine(request, error))

    def submit_bulk(self, requests: Sequence[InferRequest]) -> Bulk:
        """Requests of offline work, to the device alone: see `Batcher.submit_bulk`. What fails is asked again singly.

        Raises:
            Overloaded, EngineFailed, RuntimeClosed: they were not taken.
            VersionNotAvailable: it is not on the device.
        """
        if self._device is None:
            raise self._nowhere(requests[0], {})
        return self._device.submit_bulk(requests)

    def try_bulk(self, bulk: Bulk) -> bool:
        """See `Batcher.try_bulk`."""
        return self._device is not None and self._device.try_bulk(bulk)

    @property
    def bulk_row_s(self) -> float | None:
        """Seconds that a row takes on the device in offline work; None if it is not for the device."""
        device = self._device
        if device is None or not device.slots:
            return None
        return device.costs.row_seconds(1)

    def close(self) -> None:
        """Nothing of its own: device and servers belong to the runtime."""

    def _choose(self, request: InferRequest) -> Route:
        expected_s = None if self._remote is None else self._remote.expects(request)
        server = ServerView(usable=expected_s is not None, expected_s=expected_s or 0.0)
        device = self._device
        if device is None:
            return Route(choose(DeviceView(installed=False), server, None).place, self._absent)
        load, costs = device.load, device.costs
        if not load.engines and server.usable:
            return Route(Place.SERVER, REASON_ENGINE_FAILED)
        view = DeviceView(
            installed=True,
            full=load.full,
            predicted_s=predicted_s(
                queued_rows=load.queued_rows,
                running_rows=load.running_rows,
                engines=max(load.engines, 1),
                row_s=costs.row_seconds(load.queued_rows // max(load.queued_requests, 1)),
                own_s=costs.seconds(request.rows),
            ),
            waits=bool(load.queued_rows or load.running_rows),
        )
        remaining_s = None if request.deadline_s is None else request.deadline_s - self._clock()
        route = choose(view, server, remaining_s)
        if route.reason == REASON_TOO_SLOW and costs.probe(request.rows, remaining_s or 0.0):
            return Route(Place.DEVICE, REASON_LOCAL)
        return route

    def _elsewhere(self, request: InferRequest, route: Route) -> Pending:
        if route.place is Place.SERVER:
            return self._to_server(replace(request, reason=route.reason))
        raise self._nowhere(request, {})

    def _rescued(self, request: InferRequest, error: EngineFailed) -> Reply:
        """The server's answer to what the device's engines failed on.

        Raises:
            EngineFailed: the error, if no server may be asked.
        """
        rescued = self._after_engine(request, error)
        if rescued is None:
            raise error
        return self._wait(request, rescued)

    def _to_server(self, request: InferRequest) -> Pending:
        if self._remote is None:
            raise self._nowhere(request, {})
        sent = in_reals(self._pixels, request) if self._pixels else request
        return _then(self._remote.submit(sent), "a server", lambda error: self._after_server(request, error))

    def _after_server(self, request: InferRequest, error: BaseException) -> Future[Reply] | None:
        """No server answered: the device does, if it has the version. Whether that is too late is judged there."""
        if not isinstance(error, ServerFailed):
            return None
        if self._device is None:
            if error.lacking:
                raise self._nowhere(request, error.asked) from error
            return None
        if request.reason == REASON_ENGINE_FAILED:
            return None
        return self._device.submit(replace(request, reason=REASON_SERVER_FAILED))

    def _after_engine(self, request: InferRequest, error: BaseException) -> Pending | None:
        """The engine failed: a server answers, if there is one and it has not been asked yet."""
        if self._remote is None or not isinstance(error, EngineFailed) or request.reason == REASON_SERVER_FAILED:
            return None
        return self._to_server(replace(request, reason=REASON_ENGINE_FAILED))

    def _nowhere(self, request: InferRequest, asked: Mapping[str, str]) -> EdgeRuntimeError:
        if self._device is not None:
            return Overloaded(
                f"{request.subject}: the device's queue is full ({self._device!r}), and no server is usable"
            )
        if self._remote is None:
            hint = "The runtime was opened without a fallback server."
        else:
            hint = "" if asked else "No server has been found, or none may be asked now."
        return VersionNotAvailable(request.model, request.version or request.label, self._installed(), asked, hint)

    def _wait(self, request: InferRequest, pending: Pending) -> Reply:
        if request.deadline_s is None:
            return pending.result()
        try:
            return pending.result(min(max(request.deadline_s - self._clock(), 0.0), TIMEOUT_MAX))
        except TimeoutError as error:
            if isinstance(error, EdgeRuntimeError):
                raise
            pending.cancel()
            raise timed_out(request, pending, self._clock()) from None


def _fits(costs: CostTable | DeviceCosts, rows: int, remaining_s: float) -> bool:
    """Whether an idle engine should be tried: it will be in time, or it is time to see whether it would."""
    return costs.seconds(rows) <= remaining_s or costs.probe(rows, remaining_s)


def timed_out(request: InferRequest, pending: Pending, now_s: float) -> DeadlineExceeded:
    """The error for a caller whose deadline passed while it waited."""
    return late(request, now_s, {f"waiting for {pending.stage}": (now_s - request.start_s) * 1e3})


def _then(inner: Future[Reply], stage: str, rescue: Callable[[BaseException], Future[Reply] | None]) -> Pending:
    """A future that follows `inner`; where that fails, the one that `rescue` returns. Cancelling it cancels both.

    Whatever is raised on the way ends in the future: these callbacks run in other threads, where it would be lost.
    """
    outer = Pending()
    outer.stage = stage
    current = inner

    def follow(done: Future[Reply], *, last: bool) -> None:
        nonlocal current
        if done.cancelled() or outer.cancelled():
            return
        error = done.exception()
        if error is not None and not last:
            try:
                rescued = rescue(error)
            except EdgeRuntimeError as other:
                rescued, error = None, other
            except Exception as other:  # noqa: BLE001  see above
                rescued, error = None, EngineFailed(f"{type(other).__name__}: {other}")
                error.__cause__ = other
            if rescued is not None:
                current = rescued
                outer.stage = getattr(rescued, "stage", "the device's queue, after a server failed")
                rescued.add_done_callback(lambda again: follow(again, last=True))
                if outer.cancelled():  # Between the look above and here: then nobody has told the new one.
                    rescued.cancel()
                return
        _settle(outer, done, error)

    def cancel(_: Future[Reply]) -> None:
        if outer.cancelled():
            current.cancel()

    outer.add_done_callback(cancel)
    inner.add_done_callback(lambda done: follow(done, last=False))
    return outer


def _settle(outer: Future[Reply], done: Future[Reply], error: BaseException | None) -> None:
    if not outer.set_running_or_notify_cancel():
        return
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(done.result())
