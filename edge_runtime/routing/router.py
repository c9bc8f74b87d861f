"""An Executor that chooses between the device and the servers, and goes to the other where the first fails."""

from __future__ import annotations

from _thread import TIMEOUT_MAX
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from edge_runtime.engine.origin import Origin
from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    Overloaded,
    ServerFailed,
    VersionNotAvailable,
)
from edge_runtime.pixels import Pixels, in_reals
from edge_runtime.routing.chain import Refusal, Rescue, after, dropped, failed, failed_servers, then, timed_out
from edge_runtime.routing.complaint import Complaint
from edge_runtime.routing.hedging import Hedging, server_late_s
from edge_runtime.routing.outage import Outage
from edge_runtime.routing.policy import (
    DEVICE_FIRST,
    LOCAL,
    REASON_ENGINE_FAILED,
    REASON_HEDGED,
    REASON_NO_SERVER,
    REASON_OVERLOADED,
    REASON_POLICY,
    REASON_SERVER_FAILED,
    REASON_SERVER_LATE,
    REASON_TOO_SLOW,
    REASON_VERSION_MISSING,
    TOO_SLOW,
    DeviceView,
    Place,
    Route,
    ServerView,
    choose,
    needs_servers,
    predicted_s,
    tries_again,
    waits_in_vain,
)
from edge_runtime.routing.watch import MIN_OWN_MS, MIN_OWN_S, Watch, last_call_s, slack_s, watch_of, worth_a_copy
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.cost import CostTable, DeviceCosts
from edge_runtime.types import InferRequest, Pending, Reply

_NO_SERVERS = ServerView(usable=False)


class Remote(Protocol):
    """What the router needs of the servers: `edge_runtime.remote.client.RemoteClient`, which loads grpc."""

    def expects(self, request: InferRequest) -> float | None:
        """Seconds in which the best server should answer it; None if none may be asked, or none has the version."""
        ...

    def awaits(self, request: InferRequest) -> bool:
        """Whether a server is loading what it asks for, or is being tried after it had failed.

        Then it may wait for that where nobody else can answer.
        """
        ...

    def unasked(self, request: InferRequest) -> Mapping[str, str]:
        """Why each known server is not asked, by `host:port`, for errors."""
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
        outage: Outage | None = None,
        hedging: Hedging | None = None,
    ) -> None:
        """Takes the two places.

        Args:
            device: The version's batcher; None where it is not installed.
            remote: The servers; None where the runtime has no fallback.
            installed: The model's versions on the device, for errors.
            clock: Monotonic seconds.
            absent: Why the version is not on the device, where it isn't.
            pixels: The inputs that may come as pixels, which servers don't take.
            outage: Told of servers that are missed, and that answer.
            hedging: Sends a copy of late requests to a server; None for never.
        """
        self._absent = DeviceView(installed=False, absent=absent)
        self._pixels = pixels or {}
        self._device = device
        self._remote = remote
        self._installed = installed
        self._clock = clock
        self._origin = Origin()
        self._outage = outage or Outage(dict)
        self._complaint = Complaint("the device answers what was for a server")
        self._tried_s = float("-inf")
        self._hedging = None if device is None or remote is None else hedging

    def __repr__(self) -> str:
        return f"<Router device={self._device!r} remote={self._remote!r}>"

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`. Runs in the caller's thread where an engine is idle and fast enough."""
        device = self._device
        if device is not None and request.policy in DEVICE_FIRST:
            deadline_s = request.deadline_s
            if deadline_s is None or _fits(device.costs, request.rows, deadline_s - self._clock()):
                hedging = self._hedging
                if hedging is not None and (deadline_s is not None or hedging.ready) and self._leaves_caller(request):
                    return self._wait(request, self.submit(request))
                try:
                    reply = device.try_infer(request)
                except (EngineFailed, DeadlineExceeded) as error:
                    return self._rescued(request, error)
                if reply is not None:
                    if hedging is not None and reply.latency_ms >= MIN_OWN_MS:
                        hedging.lateness.record(reply.latency_ms / 1e3, device.costs.seconds(request.rows))
                    return reply
        return self._infer_chosen(device, request)

    def _infer_chosen(self, device: Batcher | None, request: InferRequest) -> Reply:
        """The answer of a request that no engine was idle for, or that is for a server."""
        device_first = request.policy in DEVICE_FIRST
        # Without servers there is no choice to make, and that is dear where many threads wait for one device.
        if device is None or self._remote is not None or not device_first:
            route = self._choose(request)
            if device is None or route.place is not Place.DEVICE:
                return self._wait(request, self._elsewhere(request, route))
            if route.reason != request.reason:
                request = replace(request, reason=route.reason)
            looked_after = self._watch(request)
            if looked_after is not None:
                return self._wait(request, self._queued(device, request, looked_after))
        else:
            self._refuse_late(device, request)
        try:
            # A caller that waits needs no future; and only who was for a server first may find an engine idle.
            return device.wait(request) if device_first else device.infer(request)
        except (EngineFailed, DeadlineExceeded) as error:
            return self._rescued(request, error)
        except Overloaded:  # Another thread filled the queue since the choice was made.
            return self._wait(request, self._overflow(request))

    def submit(self, request: InferRequest, *, hedge: bool = True) -> Pending:
        """See `Executor`. What nobody waits for, as in offline work, is not to be hedged."""
        device = self._device
        if device is None or self._remote is not None or request.policy not in DEVICE_FIRST:
            route = self._choose(request)
            if device is None or route.place is not Place.DEVICE:
                return self._elsewhere(request, route, hedge=hedge)
            if route.reason != request.reason:
                request = replace(request, reason=route.reason)
        else:
            self._refuse_late(device, request)
        return self._queued(device, request, self._watch(request) if hedge else None)

    def _refuse_late(self, device: Batcher, request: InferRequest) -> None:
        """Tells at once who would wait for nothing, on a runtime without servers.

        Raises:
            Overloaded: it is so.
        """
        if request.deadline_s is not None and device.is_last(request):
            view, left_s = self._view(request), request.deadline_s - self._clock()
            if waits_in_vain(view, _NO_SERVERS, left_s, request.policy):
                raise self._too_long(request, view, left_s)

    def _too_long(self, request: InferRequest, view: DeviceView, left_s: float) -> Overloaded:
        """The error of a request that would stand last in a queue that is too long for it."""
        return Overloaded(
            f"{request.subject}: the device's queue is too long ({self._device!r}): an answer is expected after "
            f"{view.predicted_s * 1e3:.0f} ms, and {left_s * 1e3:.0f} ms are left"
        )

    def _queued(self, device: Batcher, request: InferRequest, watch: Watch | None) -> Pending:
        """The answer to come of a request for the device, which is hedged where it is said how."""
        try:
            inner = device.submit(request)
        except Overloaded:  # Another thread filled the queue since the choice was made.
            return self._overflow(request)
        except EngineFailed as error:
            rescued = self._after_engine(request, error)
            if rescued is None:
                raise
            return then(*rescued)
        if watch is not None and self._hedging is not None:
            return self._hedged(self._hedging, request, watch, inner)
        if not self._may_leave(request) and isinstance(inner, Pending):
            return inner
        return then(inner, (), lambda error: self._after_engine(request, error))

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

    def absence(
        self, model: str, pin: int | str | None, asked: Mapping[str, str] | None = None, *, confined: bool
    ) -> VersionNotAvailable:
        """The error of a request for a version that is not on the device.

        Args:
            model: The model's name.
            pin: The version or label; None for the latest.
            asked: What each server that was asked said.
            confined: Whether the policy keeps the request on the device.
        """
        if confined:
            hint = "Its policy keeps it on the device."
        elif self._remote is None:
            hint = "The runtime was opened without a fallback server."
        else:
            hint = "" if asked else "No server has been found."
        return VersionNotAvailable(model, pin, self._installed(), asked or {}, hint)

    def close(self) -> None:
        """Nothing of its own: device and servers belong to the runtime."""

    def _choose(self, request: InferRequest) -> Route:
        deadline_s, policy = request.deadline_s, request.policy
        remaining_s = None if deadline_s is None else deadline_s - self._clock()
        view = self._view(request)
        server, remote = _NO_SERVERS, self._remote
        if remote is not None and needs_servers(view, remaining_s, policy):
            self._origin.check(request.subject)
            expected_s = remote.expects(request)
            if expected_s is not None:
                server = ServerView(True, expected_s)
            elif self._device is None and (remote.awaits(request) or remote.expects(request) is not None):
                # Asked once more: what it awaits may have come between the two.
                server = ServerView(True, remaining_s or 0.0)
            else:
                self._outage.missed()
        route = choose(view, server, remaining_s, policy)
        if route.place is Place.DEVICE and remaining_s is not None:
            device = self._device
            in_vain = (
                waits_in_vain(view, server, remaining_s, policy) and device is not None and device.is_last(request)
            )
            if route is LOCAL and (in_vain or view.predicted_s > remaining_s):
                now_s = self._clock()
                if tries_again(server, remaining_s, now_s - self._tried_s):
                    self._tried_s = now_s
                    return Route(Place.SERVER, REASON_OVERLOADED if view.waits else REASON_TOO_SLOW)
            if in_vain:
                raise self._too_long(request, view, remaining_s)
        if route is TOO_SLOW and self._probes(request, remaining_s or 0.0):
            return LOCAL
        return route

    def _view(self, request: InferRequest) -> DeviceView:
        device = self._device
        if device is None:
            return self._absent
        load, costs = device.load, device.costs
        own_s = costs.seconds(request.rows)
        queued_rows, running_rows, engines = load.queued_rows, load.running_rows, load.engines
        if not queued_rows and not running_rows:
            # By position: half the time that names take.
            return DeviceView(True, load.full, own_s, False, engines > 0)
        row_s = costs.row_seconds(queued_rows // max(load.queued_requests, 1))
        return DeviceView(
            installed=True,
            full=load.full,
            predicted_s=predicted_s(
                queued_rows, running_rows, max(engines, 1), row_s, own_s, load.stalled, load.stalled_s
            ),
            healthy=engines > 0,
            stalled=load.stalled >= engines > 0,
        )

    def _probes(self, request: InferRequest, remaining_s: float) -> bool:
        return self._device is not None and self._device.costs.probe(request.rows, remaining_s)

    def _elsewhere(self, request: InferRequest, route: Route, *, hedge: bool = True) -> Pending:
        if route.place is Place.SERVER:
            return self._to_server(replace(request, reason=route.reason), hedge=hedge)
        if self._remote is not None and request.policy == "only_server":
            # None may be asked: who knows them all says it best.
            reason = route.reason if self._device is None else REASON_POLICY
            return self._to_server(replace(request, reason=reason))
        if self._remote is None or request.policy == "only_device":
            raise self._nowhere(request, {})
        raise self._nowhere(request, self._remote.unasked(request))

    def _leaves_caller(self, request: InferRequest) -> bool:
        """Whether its run is so long that the caller waits instead of making it, to be free for a server's answer."""
        device = self._device
        return device is not None and device.costs.seconds(request.rows) >= MIN_OWN_S and bool(self._watch(request))

    def _watch(self, request: InferRequest) -> Watch | None:
        """How the device's request is looked after; None where a server could not be of use."""
        device, remote, hedging = self._device, self._remote, self._hedging
        if hedging is None or device is None or remote is None or request.policy != "prefer_device":
            return None
        own_s = device.costs.seconds(request.rows)
        if own_s < MIN_OWN_S and request.deadline_s is None:
            return None
        view = self._view(request)
        if own_s < MIN_OWN_S and not view.stalled:
            return None
        expected_s = remote.expects(request)
        if expected_s is None:
            return None
        return watch_of(view, own_s, expected_s, hedging.lateness.factor, request, self._clock())

    def _hedged(self, hedging: Hedging, request: InferRequest, watch: Watch, inner: Future[Reply]) -> Pending:
        """The device's answer, or a server's where the device takes longer than usual."""

        def copy() -> Future[Reply] | None:
            remaining_s = None if request.deadline_s is None else request.deadline_s - self._clock()
            remote = self._remote
            if remote is None or not worth_a_copy(remote.expects(request), remaining_s):
                return None
            return remote.submit(self._sendable(replace(request, reason=REASON_HEDGED)))

        def stall_s() -> float | None:
            view = self._view(request)
            return view.predicted_s if view.stalled else None

        def rescue(error: BaseException) -> Rescue | None:
            return self._after_engine(request, error)

        return hedging.race(request, watch, inner, copy=copy, stall_s=stall_s, rescue=rescue)

    def _sendable(self, request: InferRequest) -> InferRequest:
        return in_reals(self._pixels, request) if self._pixels else request

    def _overflow(self, request: InferRequest) -> Pending:
        """The queue was full after all."""
        if not self._may_leave(request):
            raise self._nowhere(request, {})
        return self._to_server(replace(request, reason=REASON_OVERLOADED))

    def _may_leave(self, request: InferRequest) -> bool:
        """Whether a server may be asked for what the device can't answer."""
        return self._remote is not None and request.policy != "only_device"

    def _rescued(self, request: InferRequest, error: EngineFailed | DeadlineExceeded) -> Reply:
        """The server's answer to what the device's engines failed on, or would be too late with.

        Raises:
            EngineFailed, DeadlineExceeded: the error, if no server may be asked.
        """
        rescued = self._after_engine(request, error)
        if rescued is None:
            raise error
        future, tried = rescued
        return after(tried, self._wait(request, future))

    def _to_server(self, request: InferRequest, *, hedge: bool = False) -> Pending:
        if self._remote is None:
            raise self._nowhere(request, {})
        self._origin.check(request.subject)
        begun_s = self._clock()
        inner = self._remote.submit(self._sendable(request))
        if self._outage.lasts:
            inner.add_done_callback(self._outage.ended)

        def rescue(error: BaseException) -> Rescue | None:
            return self._after_server(request, error, begun_s)

        if hedge and self._hedging is not None and request.deadline_s is not None and request.policy == "prefer_server":
            predicted_s = self._view(request).predicted_s
            last_s = last_call_s(request.deadline_s, predicted_s, slack_s(request.deadline_s - request.start_s))
            expected_s = self._remote.expects(request) or 0.0
            # A server has had its time already where the version was unloaded under the last call: it is made now.
            had_its_time = begun_s >= server_late_s(request, expected_s) and begun_s > request.start_s
            if last_s > begun_s or (had_its_time and begun_s + predicted_s <= request.deadline_s):
                copy = partial(self._overtaking, replace(request, reason=REASON_SERVER_LATE))
                return self._hedging.overtake(request, expected_s, last_s, inner, copy=copy, rescue=rescue)
        return then(inner, (), rescue, "a server")

    def _overtaking(self, request: InferRequest) -> Future[Reply] | None:
        """The device's answer to come, of a request that a server hangs with; None if it is not taken.

        Raises:
            RuntimeClosed: the version has been unloaded meanwhile.
        """
        try:
            return None if self._device is None else self._device.submit(request)
        except (EngineFailed, Overloaded):
            return None

    def _after_server(self, request: InferRequest, error: BaseException, begun_s: float) -> Rescue | None:
        """No server answered: the device does, if it has the version. Whether that is too late is judged there."""
        if not isinstance(error, ServerFailed | Refusal):
            return None
        failure = error if isinstance(error, ServerFailed) else None
        if failure is not None:
            self._outage.missed()
        if self._device is None:
            if failure is not None and failure.lacking:
                raise self._nowhere(request, failure.asked) from error
            return None
        if request.reason == REASON_ENGINE_FAILED or request.policy == "only_server":
            return None
        tried = failed_servers(error, (self._clock() - begun_s) * 1e3)
        if failure is None:
            self._complaint.about(error)
        inner = self._device.submit(replace(request, reason=REASON_SERVER_FAILED))
        return inner if failure is not None else then(inner, (), partial(self._refused_too, error)), tried

    def _refused_too(self, refusal: BaseException, error: BaseException) -> None:
        """The device fails on what servers refused: then it is for the request, and the first to say so said it.

        Raises:
            InvalidInput, ServerRefused: that refusal.
        """
        if isinstance(error, EngineFailed):
            raise refusal from error

    def _after_engine(self, request: InferRequest, error: BaseException) -> Rescue | None:
        """The engine failed, or would be too late: a server answers, if there is one and it has not been asked yet."""
        remote, now_s = self._remote, self._clock()
        if remote is None or not self._may_leave(request) or request.reason in {REASON_SERVER_FAILED, REASON_NO_SERVER}:
            return None
        left_s = dropped(error, request, now_s)
        if left_s is not None and worth_a_copy(remote.expects(request), left_s):
            reason = REASON_OVERLOADED
        elif isinstance(error, EngineFailed):
            reason = REASON_ENGINE_FAILED
        else:
            return None
        tried = failed("device", error, (now_s - request.start_s) * 1e3)
        return self._to_server(replace(request, reason=reason)), (tried,)

    def _nowhere(self, request: InferRequest, asked: Mapping[str, str]) -> EdgeRuntimeError:
        confined = request.policy == "only_device"
        if self._device is not None and request.policy == "only_server":
            return ServerFailed(request.subject, asked, lacking=True)
        if self._device is not None:
            more = "its policy keeps it here" if confined else "no server is usable"
            return Overloaded(f"{request.subject}: the device's queue is full ({self._device!r}), and {more}")
        return self.absence(request.model, request.version or request.label, asked, confined=confined)

    def _wait(self, request: InferRequest, pending: Future[Reply]) -> Reply:
        deadline_s = request.deadline_s
        wait_s = None if deadline_s is None else min(max(deadline_s - self._clock(), 0.0), TIMEOUT_MAX)
        try:
            return pending.result(wait_s)
        except EdgeRuntimeError:
            raise
        except TimeoutError:
            pending.cancel()
            raise timed_out(request, pending, self._clock()) from None
        except BaseException:
            pending.cancel()  # The caller was interrupted: nobody waits any more.
            raise


def _fits(costs: CostTable | DeviceCosts, rows: int, remaining_s: float) -> bool:
    """Whether an idle engine should be tried: it will be in time, or it is time to see whether it would."""
    return costs.seconds(rows) <= remaining_s or costs.probe(rows, remaining_s)
