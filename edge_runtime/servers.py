"""The servers of a runtime: found, asked, waited for and missed. Made only where there is a fallback: it loads grpc."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from converter.artifact import Signature
from edge_runtime.config import MDNS, RuntimeOptions
from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, RuntimeClosed, ServerFailed
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.freshness import Freshness
from edge_runtime.remote.sightings import PlainText
from edge_runtime.remote.suspects import Suspects
from edge_runtime.remote.timers import Timers
from edge_runtime.remote.tls_files import MaterialFiles
from edge_runtime.remote.told import server_stats, state_of
from edge_runtime.remote.trust import Trust
from edge_runtime.routing.budget import BURST, HEDGE_SHARE, Budget
from edge_runtime.routing.hedging import Hedging
from edge_runtime.routing.outage import Outage
from edge_runtime.target import Target
from edge_runtime.telemetry import ServerStats, TrustStats

_DISCOVERY_S = 3.0
"""How long after the opening a request that needs a server waits for the first announcement. mDNS answers within
about a second; a server that registers at the same moment needs some two."""


class Servers:
    """Everything of a runtime that knows of servers. Thread-safe.

    Attributes:
        remote: Sends requests.
        outage: What the log says of servers that are missed.
    """

    def __init__(self, options: RuntimeOptions, clock: Callable[[], float]) -> None:
        """Starts to look for servers where the options say so, and to ask all that are known what they serve."""
        self._clock = clock
        self._closed = False
        self._opened_s = clock()
        table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
        self._suspects = Suspects(clock)
        self._trust = (
            None if options.tls is None else Trust(table, MaterialFiles(options.tls), self._suspects, clock=clock)
        )
        for address in options.addresses:
            if self._trust is None:
                table.add(Found(key=address, address=address))
            else:
                self._trust.give(address)
        Freshness(table, clock=clock).start()
        # Of both: what late requests cost beside, whether the device is late or a server.
        self._hedges = Budget(HEDGE_SHARE, BURST)
        self._later = Timers()
        self.remote = RemoteClient(
            table,
            clock=clock,
            timeout_s=options.server_timeout_s,
            later=self._later,
            hedges=self._hedges,
            hedged=partial(_hedged, options),
        )
        self.outage = Outage(lambda: self.states, lambda: table.awaits_first(clock()))
        if self._trust is not None:
            self._trust.start()
            table.sought_until_s = self._opened_s + _DISCOVERY_S
        self._discovery = None
        if MDNS in options.fallbacks:
            from edge_runtime.remote.discovery import Discovery  # noqa: PLC0415  loads zeroconf

            plain = PlainText(table, self._suspects, insecure=options.insecure)
            self._discovery = Discovery(self._trust or plain)
            table.sought_until_s = self._opened_s + _DISCOVERY_S

    def __repr__(self) -> str:
        return repr(self.remote)

    @property
    def states(self) -> dict[str, str]:
        """The known servers: `host:port` and the state of each, as in `ServerStats`."""
        return {one.address: state_of(one) for one in self.remote.endpoints.all()}

    @property
    def stats(self) -> tuple[ServerStats, ...]:
        """What is known of each of them."""
        certificates = {} if self._trust is None else self._trust.certificates()
        return server_stats(self.remote.endpoints.all(), certificates)

    @property
    def trust(self) -> TrustStats:
        """Those that are not trusted."""
        stats = self._suspects.stats
        return stats if self._trust is None else msgspec.structs.replace(stats, files=self._trust.refused_files)

    def wait_for_any(self, timeout_s: float) -> bool:
        """Waits until a server is known; whether one is."""
        return self.remote.endpoints.wait_for_any(timeout_s)

    def hedging(self) -> Hedging:
        """For the requests of one model and version."""
        return Hedging(self._hedges, self._later, self._clock)

    def signatures(self, target: Target, start_s: float, deadline_s: float | None) -> dict[str, Signature]:
        """See `edge_runtime.target.Describer`; a ServerFailed may be for lack of the version."""
        self._await_discovery(deadline_s)
        future = self.remote.describe(target.model, target.version, target.label, start_s, deadline_s)
        try:
            return future.result(None if deadline_s is None else max(deadline_s - self._clock(), 0.0))
        except ServerFailed as error:
            if self._closed:  # The connection was closed under the question: that is no fault of the server.
                raise RuntimeClosed(f"{target.subject}: the runtime has been closed") from error
            raise
        except TimeoutError as error:
            if isinstance(error, EdgeRuntimeError):
                raise
            future.cancel()
            spent_ms = (self._clock() - start_s) * 1e3
            limit_ms = spent_ms if deadline_s is None else (deadline_s - start_s) * 1e3
            spent = {"asking a server for the signatures": spent_ms}
            raise DeadlineExceeded(target.subject, limit_ms, spent) from None
        except BaseException:
            future.cancel()  # The caller was interrupted: nobody waits any more.
            raise

    def stop_looking(self) -> None:
        """No server is found any more."""
        if self._discovery is not None:
            self._discovery.close()
        if self._trust is not None:
            self._trust.close()

    def close(self) -> None:
        """Closes every connection; what waits for a server fails."""
        self._closed = True
        self.stop_looking()
        self.remote.close()

    def _await_discovery(self, deadline_s: float | None) -> None:
        """Just after the opening none may have been found, or proved itself: waits for one, within the deadline."""
        if self._discovery is None and self._trust is None:
            return
        until_s = self.remote.endpoints.sought_until_s
        if deadline_s is not None:
            until_s = min(until_s, deadline_s)
        self.remote.endpoints.wait_for_any(max(until_s - self._clock(), 0.0))


def _hedged(options: RuntimeOptions, model: str) -> bool:
    """Whether late requests of a model may have copies: asked for each, and so without what `options.of` makes."""
    own = options.models.get(model)
    return options.hedge if own is None or own.hedge is None else own.hedge
