"""An Executor that has servers asked where the device's answer is unsure, and keeps that answer at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Literal, NamedTuple, Protocol

from msgspec.structs import replace

from converter.artifact import Manifest
from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, ServerFailed, ServerRefused
from edge_runtime.pixels import Pixels, in_reals
from edge_runtime.routing.chain import Refusal, failed, failed_servers, settle
from edge_runtime.routing.complaint import Complaint
from edge_runtime.routing.outage import Outage
from edge_runtime.routing.policy import REASON_LOCAL, REASON_UNSURE
from edge_runtime.routing.unsure import Bar, Rows, bars, merged, numberless, of_rows, unsure_rows, why_never
from edge_runtime.types import EngineReport, Executor, InferRequest, Pending, Reply, Tried

_log = logging.getLogger(__name__)

Asked = Literal["off", "on"] | float
"""As `edge_runtime.config.Cascade`."""

KEPT_S = 0.005
"""So long before the deadline the device's answer is handed over, if no better one has come: waking its caller takes
some of that."""

KEPT_SHARE = 0.1
"""Of what is left, where that is less: 10 ms must not lose a fifth."""

PATIENCE_S = 5.0
"""How long a better answer is waited for at most, also where the deadline is far: one is at hand."""

_DEVICE = "device:"


class Asking(Protocol):
    """What is needed of the servers: as of `routing.router.Remote`."""

    def expects(self, request: InferRequest) -> float | None:
        """Seconds in which the best server should answer it; None if none may be asked, or none has the version."""
        ...

    def submit(self, request: InferRequest) -> Future[Reply]:
        """Sends the request."""
        ...


class Judge:
    """Knows by what the answers of a loaded version are judged. Thread-safe."""

    def __init__(self, manifest: Manifest, reports: Callable[[], tuple[EngineReport, ...]]) -> None:
        """Takes the package's manifest, and what says which of its variants runs on which device."""
        self._manifest = manifest
        self._reports = reports
        self._bars: dict[str, dict[str, Bar]] = {}

    def bar(self, place: str, signature: str) -> Bar | None:
        """By what an answer of a signature from a place (`device:cpu`) is judged; None where that can't be."""
        known = self._bars.get(place)
        if known is None:
            # One entry for each device: a version's variant on a device stays the same.
            known = self._bars[place] = self._of(place.removeprefix(_DEVICE))
        return known.get(signature)

    def _of(self, device: str) -> dict[str, Bar]:
        variant = next((one.variant for one in self._reports() if one.device == device), "")
        return bars(self._manifest, variant)


class _Doubt(NamedTuple):
    """An answer of the device's that is unsure.

    Attributes:
        request: What was asked.
        reply: The answer.
        rows: The rows that are unsure.
        begun_s: When the servers were asked, or would have been.
    """

    request: InferRequest
    reply: Reply
    rows: Rows
    begun_s: float


def over(
    inner: Executor,
    remote: Asking | None,
    manifest: Manifest,
    reports: Callable[[], tuple[EngineReport, ...]],
    asked: Asked,
    *,
    clock: Callable[[], float],
    pixels: Pixels | None = None,
    outage: Outage | None = None,
) -> CascadeExecutor | None:
    """A version's executor with the cascade around it; None where there is no server to ask.

    Where the cascade was asked for and can't be, the log says so.

    Args:
        inner: Answers first.
        remote: The servers.
        manifest: The package's.
        reports: Says which of its variants runs on which device.
        asked: See `CascadeExecutor`, as for the others.
        clock: Monotonic seconds.
        pixels: The inputs that may come as pixels.
        outage: Told of servers that are missed.
    """
    if remote is None:
        return None
    if why := why_never(manifest, asked):
        _log.warning("%s/%d: the cascade does nothing: %s", manifest.model, manifest.version, why)
    judge = Judge(manifest, reports)
    return CascadeExecutor(inner, remote, judge, asked, clock=clock, pixels=pixels, outage=outage)


class CascadeExecutor:
    """Wraps the executor that answers on the device, where it can; unsure answers go on to servers. Thread-safe.

    A request is sent only where a server is expected to answer in time, and of a batch only those rows that are unsure.
    Whatever becomes of it, the device's answer is handed over before the deadline: then with the reason `local`, and
    `tried` shows the doubt.
    """

    def __init__(
        self,
        inner: Executor,
        remote: Asking,
        judge: Judge,
        asked: Asked,
        *,
        clock: Callable[[], float],
        pixels: Pixels | None = None,
        outage: Outage | None = None,
        complaint: Complaint | None = None,
    ) -> None:
        """Takes its parts.

        Args:
            inner: Answers first.
            remote: The servers.
            judge: What is known of the version's answers.
            asked: `on` for the package's threshold, or one in its place; `off` leaves all answers as they are.
            clock: Monotonic seconds.
            pixels: The inputs that may come as pixels, which servers don't take.
            outage: Told of servers that are missed, and that answer.
            complaint: Told of servers that refuse.
        """
        self._inner = inner
        self._remote = remote
        self._judge = judge
        self._asked = asked
        self._clock = clock
        self._pixels = pixels or {}
        self._outage = outage or Outage(dict)
        self._complaint = complaint or Complaint("unsure answers of the device are kept")

    def __repr__(self) -> str:
        return f"<CascadeExecutor {self._asked} {self._inner!r}>"

    @property
    def doubts(self) -> bool:
        """Whether any answer may count as unsure."""
        return self._asked != "off"

    def asking(self, asked: Asked) -> CascadeExecutor:
        """The same with another threshold, for one request."""
        return CascadeExecutor(
            self._inner,
            self._remote,
            self._judge,
            asked,
            clock=self._clock,
            pixels=self._pixels,
            outage=self._outage,
            complaint=self._complaint,
        )

    def infer(self, request: InferRequest) -> Reply:
        """See `Executor`."""
        reply = self._inner.infer(request)
        doubt = self._doubt(request, reply)
        if doubt is None:
            return reply
        until_s = self._until_s(doubt)
        future = self._ask(doubt, until_s)
        if future is None:
            return self._kept(doubt, ())
        try:
            # The servers' call ends by then too; this is for a caller whose thread they can't wake.
            future.exception(max(until_s - self._clock(), 0.0))
        except (TimeoutError, CancelledError):
            future.cancel()
            return self._given_up(doubt)
        return self._ended(doubt, future)

    def submit(self, request: InferRequest) -> Pending:
        """See `Executor`."""
        inner = self._inner.submit(request)
        outer = Pending()
        outer.stage = getattr(inner, "stage", Pending.stage)
        current: Future[Reply] = inner

        def follow(done: Future[Reply]) -> None:
            nonlocal current
            if done.cancelled() or outer.cancelled():
                return
            error = done.exception()
            doubt = None if error is not None else self._doubt(request, done.result())
            if doubt is None:
                settle(outer, done, error)
                return
            future = self._ask(doubt, self._until_s(doubt))
            if future is None:
                _give(outer, self._kept(doubt, ()))
                return
            current = future
            outer.stage = getattr(future, "stage", "a server")
            outer.at_hand = partial(self._given_up, doubt)
            future.add_done_callback(partial(_guarded, outer, partial(end, doubt)))
            if outer.cancelled():  # Between the look above and here: then nobody has told the new one.
                future.cancel()

        def end(doubt: _Doubt, done: Future[Reply]) -> None:
            if not done.cancelled():
                _give(outer, self._ended(doubt, done))

        def cancel(_: Future[Reply]) -> None:
            if outer.cancelled():
                current.cancel()

        outer.add_done_callback(cancel)
        inner.add_done_callback(partial(_guarded, outer, follow))
        return outer

    def close(self) -> None:
        """Closes what it wraps; the servers belong to the runtime."""
        self._inner.close()

    def _doubt(self, request: InferRequest, reply: Reply) -> _Doubt | None:
        """What is unsure of an answer; None where it stands.

        Only what the device answered because that was the choice: where servers failed, they are not asked again.
        """
        asked = self._asked
        if asked == "off" or reply.reason != REASON_LOCAL or request.policy == "only_device":
            return None
        bar = self._judge.bar(reply.place, request.signature)
        threshold = None if bar is None else bar.threshold if asked == "on" else float(asked)
        if bar is None or threshold is None:
            return None
        rows = unsure_rows(bar, threshold, reply.outputs)
        return _Doubt(request, reply, rows, self._clock()) if rows.any() else None

    def _until_s(self, doubt: _Doubt) -> float:
        deadline_s, patient_s = doubt.request.deadline_s, doubt.begun_s + PATIENCE_S
        if deadline_s is None:
            return patient_s
        kept_s = min(KEPT_S, max(deadline_s - doubt.begun_s, 0.0) * KEPT_SHARE)
        return min(deadline_s - kept_s, patient_s)

    def _ask(self, doubt: _Doubt, until_s: float) -> Future[Reply] | None:
        """A better answer to come; None where no server may be asked, or none is expected to answer in time."""
        whole = replace(doubt.request, reason=REASON_UNSURE, deadline_s=until_s)
        request = of_rows(whole, doubt.rows)
        if self._pixels:
            request = in_reals(self._pixels, request)
        expected_s = self._remote.expects(request)
        if expected_s is None:
            self._outage.missed()
            return None
        if doubt.begun_s + expected_s > until_s:
            return None
        try:
            future = self._remote.submit(request)
        except EdgeRuntimeError as error:
            future = Future()
            future.set_exception(error)
        if self._outage.lasts:
            future.add_done_callback(self._outage.ended)
        return future

    def _ended(self, doubt: _Doubt, done: Future[Reply]) -> Reply:
        """The servers have answered, or failed."""
        error = done.exception()
        if error is None:
            try:
                return self._better(doubt, done.result())
            except ValueError as unfit:
                error = ServerRefused(f"{doubt.request.subject}: can't be put together: {unfit}")
        ms = self._ms_since(doubt.begun_s)
        if isinstance(error, DeadlineExceeded):
            return self._given_up(doubt)
        if isinstance(error, ServerFailed):
            self._outage.missed()
            return self._kept(doubt, failed_servers(error, ms))
        self._complaint.about(error)
        tried = failed_servers(error, ms) if isinstance(error, Refusal) else (failed("server", error, ms),)
        return self._kept(doubt, tried)

    def _better(self, doubt: _Doubt, better: Reply) -> Reply:
        local, rows = doubt.reply, doubt.rows
        bar = self._judge.bar(local.place, doubt.request.signature)
        if bar is not None and numberless(bar, better.outputs):
            raise ValueError(f"output {bar.output!r} of {better.place} is no number")
        whole = not doubt.request.batched or len(rows) != doubt.request.rows or bool(rows.all())
        asked_ms = better.asked_ms
        if asked_ms is None:
            asked_ms = (doubt.begun_s - doubt.request.start_s) * 1e3 + sum(one.ms for one in better.before)
        return replace(
            better,
            outputs=better.outputs if whole else merged(local.outputs, rows, better.outputs),
            reason=REASON_UNSURE,
            latency_ms=self._ms_since(doubt.request.start_s),
            before=(*local.before, _unsure(local), *better.before),
            asked_ms=asked_ms,
        )

    def _kept(self, doubt: _Doubt, tried: tuple[Tried, ...]) -> Reply:
        """The device's answer after all."""
        local = doubt.reply
        latency_ms = self._ms_since(doubt.request.start_s)
        return replace(
            local, latency_ms=latency_ms, before=(*local.before, _unsure(local), *tried), asked_ms=latency_ms
        )

    def _given_up(self, doubt: _Doubt) -> Reply:
        return self._kept(doubt, (Tried(place="server", outcome="late", ms=self._ms_since(doubt.begun_s)),))

    def _ms_since(self, begun_s: float) -> float:
        return (self._clock() - begun_s) * 1e3


def _unsure(reply: Reply) -> Tried:
    """The device's turn, which ended in doubt."""
    return replace(reply.tried[-1], outcome="unsure")


def _give(outer: Pending, reply: Reply) -> None:
    if outer.set_running_or_notify_cancel():
        outer.set_result(reply)


def _guarded(outer: Pending, follow: Callable[[Future[Reply]], None], done: Future[Reply]) -> None:
    """Whatever is raised on the way ends in the future: callbacks run in other threads, where it would be lost."""
    try:
        follow(done)
    except Exception as error:  # noqa: BLE001  see above
        if not outer.done() and outer.set_running_or_notify_cancel():
            outer.set_exception(error)
