"""What a runtime tells of its servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge_runtime.remote.catalog import ServedCatalog, Serves
from edge_runtime.remote.certificate import Certificate
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.routing.breaker import BreakerState
from edge_runtime.telemetry import ServerStats

_NO_CERTIFICATES: Mapping[str, Certificate] = {}


def server_stats(
    endpoints: Iterable[Endpoint], certificates: Mapping[str, Certificate] = _NO_CERTIFICATES
) -> tuple[ServerStats, ...]:
    """What is known of each, in the order of their addresses.

    Args:
        endpoints: They.
        certificates: By address, what those have shown that are trusted by it.
    """
    found = sorted(endpoints, key=lambda endpoint: endpoint.address)
    return tuple(_stats(one, certificates.get(one.address)) for one in found)


def state_of(endpoint: Endpoint) -> str:
    """Its breaker's, or why no request would be sent there all the same.

    `unreachable`: nobody answers. `untrusted`: it has not proved who it is; `unproved`: nor been asked to, until now.
    """
    if endpoint.way is None:
        return "untrusted" if endpoint.untrusted else "unproved"
    state = endpoint.state
    return "unreachable" if state is not BreakerState.OPEN and endpoint.away_s is not None else state.value


def why_not_asked(endpoint: Endpoint, *, lacks: bool) -> str:
    """Why a request was not sent there, for errors; empty where nothing speaks against it.

    Args:
        endpoint: Which.
        lacks: Whether it is known not to serve what was asked for.
    """
    if endpoint.way is None:
        return f"not asked, it is not trusted: {endpoint.untrusted or 'it has not proved yet who it is'}"
    away_s = endpoint.away_s
    if away_s is not None:
        return f"not asked, unreachable for {away_s:.1f} s (breaker {endpoint.state.value})"
    if lacks:
        return "not asked, it doesn't serve that"
    free = endpoint.allows and not endpoint.on_trial
    return "" if free else f"not asked, it failed before (breaker {endpoint.state.value})"


def _stats(endpoint: Endpoint, certificate: Certificate | None) -> ServerStats:
    trip_s, catalog = endpoint.round_trip_s, endpoint.catalog
    return ServerStats(
        address=endpoint.address,
        state=state_of(endpoint),
        unreachable_s=endpoint.away_s,
        in_flight=endpoint.in_flight,
        round_trip_ms=None if trip_s is None else trip_s * 1e3,
        bandwidth_bytes_s=endpoint.bandwidth_bytes_s,
        wait_ms=_wait_ms(catalog),
        serves=_serves(catalog),
        certificate="" if certificate is None else certificate.owner or certificate.fingerprint,
        certificate_until_s=None if certificate is None else certificate.until_s,
    )


def _wait_ms(catalog: ServedCatalog | None) -> float | None:
    """The longest of all versions; None where none has been run yet, or the server doesn't say."""
    models = () if catalog is None else catalog.models.values()
    waits_s = [one.wait_s for model in models for one in model.versions.values()]
    return max(waits_s, default=0.0) * 1e3 or None


def _serves(catalog: ServedCatalog | None) -> dict[str, tuple[int, ...]] | None:
    if catalog is None or not (catalog.models or catalog.complete):
        return None
    return {
        name: tuple(sorted(version for version, one in model.versions.items() if one.serves is Serves.YES))
        for name, model in catalog.models.items()
    }
