"""One server: its line, its breaker, what it is known to serve, and what it is expected to take."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from edge_runtime.remote.answer_time import Kind
from edge_runtime.remote.catalog import ServedCatalog
from edge_runtime.remote.estimate import Estimate
from edge_runtime.remote.faults import RemoteFault, Unfit
from edge_runtime.remote.line import Received, own_seconds
from edge_runtime.remote.lines import Lines
from edge_runtime.remote.refusals import Refusals
from edge_runtime.remote.silence import Silence, is_mute
from edge_runtime.remote.turn import Turn
from edge_runtime.remote.way import Way
from edge_runtime.remote.word import Word
from edge_runtime.routing.breaker import Breaker, BreakerState
from fallback_server.protocol.methods import PREDICT, TENSOR_CONTENT_METADATA, Method
from fallback_server.protocol.status import Fault

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

TRUSTED_S = 2.5
"""For how long it is believed that a server is gone, or has not got a version: longer than two looks are apart. After
that a request may find out."""

_SILENT_LOOKS = 2
"""Looks in a row that nobody answers while nothing else is answered either: then the server counts as gone."""

_STRANGE_S = 1.0
"""So long a server that answers others, or looks, may take for what it has not answered before: who asks a slow model
with less time than it needs, and never has an answer, would have the server's other models taken from everybody."""

_SAME_INSTANT_S = 0.002
"""Who waits for a deadline wakes about so long before or after gRPC."""

_DOUBTS = frozenset({Fault.NOT_FOUND, Fault.NOT_READY})
"""After these what is known of a server is looked at again at once."""


class Endpoint:
    """A server at one address. Thread-safe.

    Attributes:
        address: `host:port`.
        refusals: What it has refused of late.
        word: Whether it keeps to what it says that it serves.
        untrusted: Why it has not proved who it is; empty where it has, or has not been asked yet.
        on_doubt: Called, in any thread, when what is known of it may be true no more; must be quick.
    """

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        """Opens no connection yet: gRPC connects with the first call."""
        self.address = address
        self.refusals = Refusals()
        self.word = Word()
        self.untrusted = ""
        self.on_doubt: Callable[[], None] = _nothing
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = Breaker(clock)
        self._estimate = Estimate(clock)
        self._catalog: ServedCatalog | None = None
        self._catalog_s = -math.inf
        self._barred_until_s = 0.0
        self._silent = 0
        self._gone_s: float | None = None
        self._away_s: float | None = None
        self._answered_s = -math.inf
        self._spoke_s = self._counted_s = self._replied_s = -math.inf
        self._unheard_s: float | None = None
        self._unreachable = False
        self._lines = Lines(address)

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}, {self._breaker.state.value}, {self._estimate.time.in_flight} in flight>"

    @property
    def way(self) -> Way | None:
        """How it is spoken to; None while it has not proved who it is: then nothing is sent."""
        return self._lines.way

    @property
    def allows(self) -> bool:
        """Whether a request would be let through now."""
        with self._lock:
            return self._lines.way is not None and self._breaker.allows

    @property
    def on_trial(self) -> bool:
        """Whether one request is finding out whether it is back."""
        with self._lock:
            return self._lines.way is not None and self._breaker.tries

    @property
    def state(self) -> BreakerState:
        """The breaker's state."""
        with self._lock:
            return self._breaker.state

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        with self._lock:
            return self._estimate.time.in_flight

    @property
    def idle(self) -> bool:
        """Whether no call and no look is under way: then `close` cuts nothing off."""
        with self._lock:
            return not self._estimate.time.in_flight and self._lines.idle

    @property
    def unreachable(self) -> bool:
        """Whether the latest call found nobody there."""
        with self._lock:
            return self._unreachable

    @property
    def away_s(self) -> float | None:
        """Seconds since it was found that nobody answers there; None where the latest look or call was answered."""
        with self._lock:
            if self._away_s is None or (self._gone_s is None and not self._unreachable):
                return None
            return self._clock() - self._away_s

    @property
    def catalog(self) -> ServedCatalog | None:
        """What it serves, as it said last; None if it has not been asked, or doesn't say."""
        return self._catalog

    @property
    def round_trip_s(self) -> float | None:
        """Seconds there and back; None while it is not known."""
        return self._estimate.link.round_trip_s or None

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """Bytes a second of the way there; None while it is not known."""
        return self._estimate.link.bandwidth_bytes_s

    @property
    def looks(self) -> int:
        """Looks that were answered since it was found, up to a few."""
        with self._lock:
            return self._estimate.link.trips

    @property
    def expected_s(self) -> float:
        """Seconds in which it is expected to answer one more small request, whether it may be asked or not."""
        return self._estimate.expected_s(self._clock(), ("", 0), 0, 0.0)

    def expected_at(self, now_s: float, kind: Kind, nbytes: int, wait_s: float) -> float:
        """Seconds in which it is expected to answer one more request; infinite while the breaker lets none through.

        See `Estimate.expected_s`. Takes no lock: it is asked for each request, and each figure is right by itself.
        """
        if now_s < self._barred_until_s:
            return math.inf
        return self._estimate.expected_s(now_s, kind, nbytes, wait_s)

    def usual_s(self, now_s: float, kind: Kind) -> float:
        """Seconds that it takes for such a request; 0 where it has answered none of the model's."""
        return self._estimate.time.usual_s(kind, now_s) or 0.0

    @property
    def told_s(self) -> float:
        """The instant at which it was asked for its catalog."""
        return self._catalog_s

    def trusted(self, now_s: float) -> ServedCatalog | None:
        """The catalog, where it is so new that what is not in it is believed not to be there."""
        return self._catalog if now_s - self._catalog_s <= TRUSTED_S else None

    def gone(self, now_s: float) -> bool:
        """Whether nobody answered the latest look."""
        gone_s = self._gone_s
        return gone_s is not None and now_s - gone_s <= TRUSTED_S

    def silence(self, since_s: float, expected_s: float) -> Silence:
        """What is known of a call that waits.

        Args:
            since_s: The instant at which it was sent.
            expected_s: Seconds in which it should have been answered.
        """
        with self._lock:
            now_s = self._clock()
            return Silence(
                quiet_s=now_s - max(since_s, self._replied_s),
                expected_s=expected_s,
                unheard_s=0.0 if self._unheard_s is None else now_s - self._unheard_s,
                round_trip_s=self._estimate.link.round_trip_s,
            )

    def trust(self, way: Way | None, why: str = "") -> None:
        """It is spoken to so from now on; None for not at all. Never from a call's own callback.

        Args:
            way: What has been proved.
            why: Has nothing been proved; empty where that is not known yet.
        """
        self.untrusted = "" if way is not None else why
        self._lines.take(way)
        with self._lock:
            if way is not None:
                self._breaker.retry_now()
            self._bar()

    def reset(self) -> None:
        """The server was announced anew: what was held against it is forgotten."""
        self.refusals.forget()
        self.word.forget()
        with self._lock:
            self._breaker.reset()
            self._estimate.forget()
            self._catalog, self._catalog_s = None, -math.inf
            self._unreachable, self._gone_s, self._away_s, self._silent = False, None, None, 0
            self._bar()

    def try_begin(
        self, model: str = "", nbytes: int = 0, wait_s: float = 0.0, *, end_s: float = math.inf
    ) -> Turn | None:
        """Takes leave for one call, which must follow; None if the breaker lets none through.

        Args:
            model: Whom it is for.
            nbytes: What has to be sent.
            wait_s: As in `Estimate.expected_s`.
            end_s: The instant at which it must be answered.
        """
        with self._lock:
            permit = None if self._lines.way is None else self._breaker.acquire(end_s)
            self._bar()
            if permit is None:
                return None
            number, expected_s = self._estimate.begin(model, nbytes, wait_s)
            return Turn(permit, number, model, nbytes, expected_s)

    def await_probe(self, until_s: float, end_s: float) -> None:
        """See `Breaker.await_probe`."""
        with self._lock:
            self._breaker.await_probe(until_s, end_s)

    def call(
        self,
        turn: Turn,
        method: Method[Request, Response],
        message: Request | bytes,
        deadline_s: float,
        read: Callable[[Response], T],
        *,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Future[T]:
        """Sends a message; the future holds what `read` makes of the answer, or a RemoteFault.

        Cancelling the future ends the call. Nothing is raised, and the turn is over when the future is.

        Args:
            turn: From `try_begin`.
            method: Which call.
            message: What goes; serialized already where it is bytes.
            deadline_s: The instant at which the call ends as late. That, or being cancelled then, is held against the
                server where it had at least as long as it usually takes to answer. Being cancelled before is not: the
                copy of a late call may have been answered first; but that it took so long is remembered.
            read: What it raises is the answer's fault.
            metadata: Goes with the request, beside what always does.
        """
        future: Future[T] = Future()
        left_s = deadline_s - self._clock()
        if left_s <= 0:  # It would be copied once more, and the caller told later still.
            self._settle(turn, None)
            future.set_exception(RemoteFault(Fault.DEADLINE, self.address, "not sent, it would have been too late"))
            return future
        try:
            call = self._lines.start(method, message, left_s, (TENSOR_CONTENT_METADATA, *metadata))
        except Exception as error:  # noqa: BLE001  a closed channel, or a message that gRPC can't take: nobody was asked
            self._settle(turn, None)
            closed = isinstance(error, ValueError)
            fault = Fault.NOT_READY if closed else Fault.INTERNAL
            words = error.details() if isinstance(error, grpc.Call) else error
            future.set_exception(RemoteFault(fault, self.address, f"not sent: {words}", unreachable=closed))
            return future

        def cancel(future: Future[T]) -> None:
            if future.cancelled():
                # Callers give up at the same instant as gRPC: without this a server that hangs would never be blamed.
                late = RemoteFault(Fault.DEADLINE, self.address, "cancelled")
                self._settle(turn, late if self._clock() >= deadline_s - _SAME_INSTANT_S else None, given_up=True)
                call.cancel()

        future.add_done_callback(cancel)
        call.add_done_callback(lambda call: self._finish(call, turn, future, read, measured=method is PREDICT))
        return future

    def ask(self, method: Method[Any, Any], message: Message, timeout_s: float) -> Any:
        """Asks what there is: beside the breaker, without a turn. gRPC's future, whose result is a Received.

        Raises:
            ValueError: the endpoint has been closed.
        """
        return self._lines.start(method, message, timeout_s, ())

    def look(self, method: Method[Any, Any], message: Message, timeout_s: float) -> Any:
        """Asks what there is, as `ask`, and expects more of requests while the answer is late.

        `heard` or `unheard` must follow, whatever becomes of the call.

        Raises:
            ValueError: the endpoint has been closed: then neither must.
        """
        with self._lock:
            self._estimate.look_begins()
            before_s, self._unheard_s = self._unheard_s, self._clock() if self._unheard_s is None else self._unheard_s
        try:
            return self.ask(method, message, timeout_s)
        except Exception:
            with self._lock:
                self._estimate.look_ends(None)
                self._unheard_s = before_s
            raise

    def heard(self, took_s: float) -> None:
        """A look was answered, there and back in that time: the server is there.

        Where it was away, its breaker has the next request find out whether it answers. Where looks were answered all
        the time and requests were not, the breaker keeps to its own times.
        """
        with self._lock:
            self._estimate.look_ends(took_s)
            if self._unreachable or self._silent or self._gone_s is not None:
                self._breaker.retry_now()
                self._bar()
            self._alive()

    def told(self, catalog: ServedCatalog | None, begun_s: float) -> None:
        """The server has said what it serves; None if it doesn't say.

        Args:
            catalog: That.
            begun_s: The instant of the question.
        """
        with self._lock:
            self._catalog, self._catalog_s = catalog, begun_s

    def unheard(self, begun_s: float, *, unreachable: bool) -> None:
        """A look was not answered.

        Args:
            begun_s: The instant of the question.
            unreachable: Nobody is there; else no answer came in time.
        """
        with self._lock:
            self._estimate.look_ends(None)
            if not unreachable and self._answered_s >= begun_s:
                return
            self._silent += 1
            if unreachable or self._silent >= _SILENT_LOOKS:
                self._unreachable |= unreachable
                self._gone_s = self._clock()
                self._missed()

    def renew_line(self) -> None:
        """Connects anew where several looks in a row have not been answered; calls under way keep the old line.

        Where a network was away, the old connection waits until TCP sends again: after a minute, one minute more.
        """
        with self._lock:
            if self._silent < _SILENT_LOOKS:
                return
            self._silent = 0
        self._lines.renew()

    def sweep(self) -> None:
        """Closes the lines that nobody uses any more."""
        self._lines.sweep()

    def close(self) -> None:
        """Closes the lines; calls in flight end as failed."""
        self._lines.close()

    def _finish(self, call: Any, turn: Turn, future: Future[T], read: Callable[[Any], T], *, measured: bool) -> None:
        code = call.code()
        received: Received | None = call.result() if code is grpc.StatusCode.OK else None
        fault: RemoteFault | None = None
        if received is None:
            fault = RemoteFault.of_status(code, self.address, call.details())
        elif received.error:
            fault = RemoteFault(Fault.INTERNAL, self.address, f"unreadable answer: {received.error}")
        else:
            try:
                answer = read(received.message)
            except Unfit as error:
                fault = RemoteFault(Fault.INTERNAL, self.address, str(error), unfit=True)
            except Exception as error:  # noqa: BLE001  whatever a foreign server's answer does to us is that call's fault
                fault = RemoteFault(Fault.INTERNAL, self.address, f"unreadable answer: {error}")
        if fault is None:
            own_s = own_seconds(call.trailing_metadata())
            self._settle(turn, None, received=received, own_s=own_s, measured=measured)
        elif measured or received is None or received.error:
            self._settle(turn, fault)
        else:
            # Metadata that one model has and nobody can use here say nothing of the server's other models.
            self._settle(turn, None, received=received)
        if fault is not None and fault.fault in _DOUBTS:
            self.on_doubt()
        if not future.set_running_or_notify_cancel():
            return
        if fault is None:
            future.set_result(answer)
        else:
            future.set_exception(fault)

    def _settle(
        self,
        turn: Turn,
        fault: RemoteFault | None,
        *,
        received: Received | None = None,
        own_s: float | None = None,
        measured: bool = False,
        given_up: bool = False,
    ) -> None:
        """Ends a turn, once. Neither `fault` nor `received`: the call said nothing of whether the server works."""
        with self._lock:
            took_s = self._estimate.end(turn.number)
            if took_s is None:
                return
            if received is not None and measured:
                self._spoke_s = self._clock()
                self._estimate.answered(turn.model, turn.nbytes, received.nbytes, took_s, own_s)
            late = given_up or (fault is not None and fault.fault is Fault.DEADLINE)
            if late and not self._is_silent(turn, took_s):
                fault = None
            if received is not None or (fault is not None and fault.alive):
                self._alive()
                self._replied_s = self._clock()
                self._breaker.succeeded(turn.permit)
            elif fault is None:
                self._breaker.abandoned(turn.permit)
            else:
                self._unreachable = fault.unreachable
                if fault.unreachable:
                    self._missed()
                self._breaker.failed(turn.permit)
            self._bar()

    def _is_silent(self, turn: Turn, took_s: float) -> bool:
        """Whether a call that was not answered in its time speaks against the server.

        Not where it had less time than such calls usually take. Nor where another was answered meanwhile, or was under
        way together with one that counted: a pause of this machine or of the network makes all of them late at once.
        """
        now_s = self._clock()
        news = max(self._spoke_s, self._counted_s) <= now_s - took_s
        if not self._estimate.late(turn.model, turn.nbytes, took_s, news=news) or not news:
            return False
        if took_s < _STRANGE_S and not self._estimate.knows(turn.model) and self._seems_well(now_s):
            return False
        self._counted_s = now_s
        return True

    def _seems_well(self, now_s: float) -> bool:
        unheard_s = 0.0 if self._unheard_s is None else now_s - self._unheard_s
        return now_s - self._answered_s <= TRUSTED_S and not is_mute(unheard_s, self._estimate.link.round_trip_s)

    def _bar(self) -> None:
        self._barred_until_s = math.inf if self._lines.way is None else self._breaker.until_s

    def _alive(self) -> None:
        self._answered_s = self._clock()
        self._unreachable, self._gone_s, self._away_s, self._silent = False, None, None, 0
        self._unheard_s = None

    def _missed(self) -> None:
        if self._away_s is None:
            self._away_s = self._clock()


def _nothing() -> None:
    """Nobody wants to know."""
