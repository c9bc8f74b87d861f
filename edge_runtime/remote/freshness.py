"""Keeps fresh what is known of servers: asks each what it serves, by calls that wait in no thread.

Each look measures the round trip besides, and finds out that a server is gone, or back. A server of ours answers with
its catalog (`edge.v1.Catalog`). One that knows no such call, as TensorFlow Serving, has said by that that it is there,
and is asked for the state of each model that requests ask for (`ModelService.GetModelStatus`); so is one whose catalog
can't be read.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import msgspec

from edge_runtime.remote.bell import Bell
from edge_runtime.remote.catalog import ServedCatalog, read_update, with_status
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.faults import RemoteFault
from fallback_server.protocol.methods import CATALOG_GET, GET_MODEL_STATUS
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

_log = logging.getLogger(__name__)

REFRESH_S = 1.0
"""From one look to the next while requests want servers: as often as the server's own figures deserve."""

IDLE_S = 10.0
"""The same while none does."""

QUICK_S = 0.25
"""The same while nobody is there, or a version is wanted that no server has: it may be loaded any moment."""

FLOOR_S = 0.1
"""Never sooner, whatever happens."""

_BURST_S = 0.005
"""What wakes the thread several times within so long wakes it once: a server that dies under a hundred calls."""

INTEREST_S = 30.0
"""So long after the last request servers are still wanted, and so is a model."""

_QUICK_FOR_S = 10.0
"""A version that no server had for so long is not awaited every moment any more."""

_LOOK_S = 2.0
"""How long one look may take."""

_FIRST_LOOKS = 2
"""Looks that follow upon each other: in the first the connection is made, which takes round trips of its own."""

_SHARE = 5
"""A look that takes long is followed by a pause of so many times that: on a slow line looks are no load."""

AWAY_S = 1.0
"""The longest such pause while nobody answers: requests have no use of that line, and wait for who comes back. With a
look that had begun before, which may take `_LOOK_S`, that is known within three seconds."""

_MAX_MODELS = 64
"""Models whose state is asked for in one look at a server without a catalog."""

_SAID_NOTHING = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What the time to the next look at an endpoint follows from.

    Attributes:
        wanted_ago_s: Seconds since a request asked for servers.
        unmet_for_s: Seconds since a version is asked for that none has; infinite where there is none.
        gone: Whether nobody was there at the last look.
        away: Whether nobody has answered of late, for which the last looks may have been in vain too.
        looks: Looks that were answered since it was found.
        took_s: Seconds that the last one took.
    """

    wanted_ago_s: float
    unmet_for_s: float = math.inf
    gone: bool = False
    away: bool = False
    looks: int = _FIRST_LOOKS
    took_s: float = 0.0


def pace_s(pace: Pace) -> float:
    """Seconds from the end of one look to the next."""
    if pace.wanted_ago_s > INTEREST_S:
        usual_s = IDLE_S
    elif pace.gone or pace.unmet_for_s <= _QUICK_FOR_S:
        usual_s = QUICK_S
    else:
        usual_s = REFRESH_S
    if not pace.gone and pace.looks < _FIRST_LOOKS:
        usual_s = FLOOR_S
    return max(usual_s, min(pace.took_s * _SHARE, AWAY_S if pace.away else IDLE_S))


class _Watch:
    """One endpoint's looks. Of its fields one thread at a time has use: who looks, then who brings the answer."""

    __slots__ = ("asking", "begun_s", "ended_s", "took_s", "unreadable")

    def __init__(self) -> None:
        self.asking = False
        self.begun_s = -math.inf
        self.ended_s = -math.inf
        self.took_s = 0.0
        self.unreadable = False  # Whether that has been said.


class Freshness:
    """Looks at every endpoint of a table until the table is closed."""

    def __init__(self, table: EndpointTable, *, clock: Callable[[], float]) -> None:
        """Takes the table, and monotonic seconds. Nothing is asked before `start`, or `tick`."""
        self._table = table
        self._clock = clock
        self._watches: dict[Endpoint, _Watch] = {}
        self._roused = False
        self._closed = False
        self._bell = Bell()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Freshness of {len(self._watches)} servers>"

    def start(self) -> None:
        """Starts the thread that sends what is due; the table's `close` ends it."""
        self._table.watch(self.rouse, self.close)
        self._thread = threading.Thread(target=self._run, name="edge-remote-fresh", daemon=True)
        self._thread.start()

    def rouse(self) -> None:
        """Every endpoint is looked at again at once. Returns at once."""
        self._roused = True
        self._bell.ring()

    def close(self) -> None:
        """Ends the thread. Looks under way end with their channels."""
        self._closed = True
        self._bell.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def tick(self) -> float:
        """Sends the looks that are due; seconds until the next one will be."""
        now_s = self._clock()
        roused, self._roused = self._roused, False
        interest = self._table.interest(now_s - INTEREST_S)
        wanted_ago_s = now_s - interest.wanted_s
        self._table.sleep_until(now_s if wanted_ago_s > INTEREST_S else math.inf)
        self._table.sweep()
        endpoints = self._table.all()
        self._watches = {one: self._watches.get(one) or _Watch() for one in endpoints}
        next_s = now_s + IDLE_S
        for endpoint, watch in self._watches.items():
            endpoint.sweep()
            if watch.asking or endpoint.way is None:
                continue
            pace = Pace(
                wanted_ago_s=wanted_ago_s,
                unmet_for_s=math.inf if interest.unmet_s == math.inf else now_s - interest.unmet_s,
                gone=endpoint.gone(now_s),
                away=endpoint.away_s is not None,
                looks=endpoint.looks,
                took_s=watch.took_s,
            )
            due_s = watch.ended_s + (FLOOR_S if roused else pace_s(pace))
            if now_s >= due_s:
                self._look(endpoint, watch, interest.models[:_MAX_MODELS], now_s)
            else:
                next_s = min(next_s, due_s)
                self._roused |= roused
        return next_s - now_s

    def _run(self) -> None:
        while not self._closed:
            try:
                wait_s = self.tick()
            except Exception:  # noqa: BLE001  what a server has said must not end the looks at the others
                _log.exception("servers could not be looked at")
                wait_s = IDLE_S
            if self._bell.wait(wait_s) and not self._closed:
                time.sleep(_BURST_S)

    def _look(self, endpoint: Endpoint, watch: _Watch, models: tuple[str, ...], now_s: float) -> None:
        watch.asking, watch.begun_s = True, now_s
        try:
            call = endpoint.look(CATALOG_GET, edge.CatalogRequest(), _LOOK_S)
        except ValueError:  # Closed meanwhile.
            watch.asking, watch.ended_s = False, now_s
            return
        call.add_done_callback(lambda call: self._looked(endpoint, watch, models, call))

    def _looked(self, endpoint: Endpoint, watch: _Watch, models: tuple[str, ...], call: Any) -> None:
        """A look has ended. In one of gRPC's threads, where nobody hears what is raised."""
        now_s = self._clock()
        try:
            self._tell(endpoint, watch, models, call, now_s)
        except Exception:  # noqa: BLE001  one server's answer must not end the looks at it
            _log.exception("server %s could not be looked at", endpoint.address)
        finally:
            watch.took_s = now_s - watch.begun_s
            watch.ended_s = now_s
            watch.asking = False
        self._table.news()
        self._bell.ring()  # When the next look is due is to be found out again.

    def _tell(self, endpoint: Endpoint, watch: _Watch, models: tuple[str, ...], call: Any, now_s: float) -> None:
        """Tells the endpoint what its server has said, or not."""
        begun_s, code = watch.begun_s, call.code()
        fault = RemoteFault.of_status(code, endpoint.address, call.details())
        if code in _SAID_NOTHING or fault.unreachable or fault.broken:
            endpoint.unheard(begun_s, unreachable=fault.unreachable)
            endpoint.renew_line()
            return
        endpoint.heard(now_s - begun_s)
        if code is grpc.StatusCode.OK and not call.result().error:
            endpoint.told(_catalog_of(call), begun_s)
        elif code is grpc.StatusCode.OK:
            if not watch.unreadable:
                why = call.result().error
                _log.warning("server %s: its catalog can't be read, it is asked by name: %s", endpoint.address, why)
            watch.unreadable = True
            self._ask_states(endpoint, models, begun_s)
        elif code is grpc.StatusCode.UNIMPLEMENTED:
            self._ask_states(endpoint, models, begun_s)

    def _ask_states(self, endpoint: Endpoint, models: tuple[str, ...], begun_s: float) -> None:
        lock = threading.Lock()
        catalog, left = ServedCatalog(), len(models)

        def said(name: str, call: Any) -> None:
            nonlocal catalog, left
            code = call.code()
            with lock:
                if code is grpc.StatusCode.OK and not call.result().error:
                    catalog = with_status(catalog, name, call.result().message)
                elif code is grpc.StatusCode.NOT_FOUND:
                    catalog = with_status(catalog, name, None)
                left -= 1
                if left:
                    return
            endpoint.told(catalog, begun_s)
            self._table.news()

        for name in models:
            request = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=name))
            try:
                call = endpoint.ask(GET_MODEL_STATUS, request, _LOOK_S)
            except ValueError:  # Closed meanwhile.
                return
            call.add_done_callback(lambda call, name=name: said(name, call))


def _catalog_of(call: Any) -> ServedCatalog | None:
    try:
        return read_update(call.result().message)
    except Exception as error:  # noqa: BLE001  whatever a foreign server's answer does to us: it has said nothing, then
        _log.debug("a catalog can't be read: %s", error)
        return None
