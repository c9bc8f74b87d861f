"""What a runtime tells of its servers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edge_runtime.remote.catalog import ServedCatalog, Serves
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.telemetry import ServerStats


def server_stats(endpoints: Iterable[Endpoint]) -> tuple[ServerStats, ...]:
    """What is known of each, in the order of their addresses."""
    return tuple(map(_stats, sorted(endpoints, key=lambda endpoint: endpoint.address)))


def _stats(endpoint: Endpoint) -> ServerStats:
    trip_s = endpoint.round_trip_s
    # Before the first answer it is a guess, and no figure.
    expected_s = math.inf if trip_s is None else endpoint.expected_s
    return ServerStats(
        address=endpoint.address,
        state=endpoint.state.value,
        in_flight=endpoint.in_flight,
        expected_ms=expected_s * 1e3 if math.isfinite(expected_s) else None,
        round_trip_ms=None if trip_s is None else trip_s * 1e3,
        bandwidth_bytes_s=endpoint.bandwidth_bytes_s,
        serves=_serves(endpoint.catalog),
    )


def _serves(catalog: ServedCatalog | None) -> dict[str, tuple[int, ...]] | None:
    if catalog is None or not (catalog.models or catalog.complete):
        return None
    return {
        name: tuple(sorted(version for version, one in model.versions.items() if one.serves is Serves.YES))
        for name, model in catalog.models.items()
    }
