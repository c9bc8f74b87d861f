import asyncio
import time
from contextlib import contextmanager

import pytest
from support.clock import FakeClock
from support.grpc_stand import loaded
from support.model_servers import model_statuses, serving

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.freshness import Freshness
from edge_runtime.remote.told import server_stats, why_not_asked
from edge_runtime.routing.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S
from fallback_server.protocol.methods import PREDICT

WAIT_S = 30


@contextmanager
def looked_at(address):
    """The table with one server, which is looked at."""
    table = EndpointTable(lambda found: Endpoint(found, time.monotonic))
    Freshness(table, clock=time.monotonic).start()
    try:
        table.add(Found(key="a", address=address))
        yield table
    finally:
        table.close()


def until(table, condition):
    end_s = time.monotonic() + WAIT_S
    while not condition(found := server_stats(table.all())[0]):
        assert time.monotonic() < end_s, found
        time.sleep(0.02)
    return found


def test_a_server_with_a_catalog_is_told_of_whole(tmp_path):
    """What it serves, how long a row waits and runs there, and the way; from looks alone, without a request."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            stand.control.figures.expected_wait_ms = 4.5

            def told():
                with looked_at(f"127.0.0.1:{stand.port}") as table:
                    return until(table, lambda one: one.round_trip_ms is not None and one.serves is not None)

            return await asyncio.to_thread(told)

    found = asyncio.run(story())
    assert (found.state, found.serves, found.wait_ms) == ("closed", {"m": (1,)}, 4.5)
    assert found.round_trip_ms > 0
    assert found.bandwidth_bytes_s is None


def test_what_is_not_known_is_none():
    """A server without a catalog has said nothing of models that nobody has asked for; one that is away nothing."""
    with serving(model_statuses(digits=(3,))) as address, looked_at(address) as table:
        found = until(table, lambda one: one.round_trip_ms is not None)
        assert (found.serves, found.wait_ms) == (None, None)
    table = EndpointTable(lambda found: Endpoint(found, time.monotonic))
    table.add(Found(key="a", address=address))
    (found,) = server_stats(table.all())
    assert (found.serves, found.wait_ms, found.round_trip_ms, found.in_flight) == (None, None, None, 0)
    table.close()


@pytest.mark.parametrize("unreachable", [True, False])
def test_a_server_that_is_away_is_not_told_of_as_healthy(unreachable):
    """Nobody is there, or two looks were not answered: since when is kept over further looks, until one is answered."""
    clock = FakeClock()
    endpoint = Endpoint("a:1", clock)
    for _ in range(2):
        endpoint.unheard(clock(), unreachable=unreachable)
    clock.advance(3.0)
    endpoint.unheard(clock(), unreachable=unreachable)
    (found,) = server_stats([endpoint])
    assert (found.state, found.unreachable_s) == ("unreachable", 3.0)
    assert why_not_asked(endpoint, lacks=True) == "not asked, unreachable for 3.0 s (breaker closed)"
    endpoint.heard(0.001)
    (found,) = server_stats([endpoint])
    assert (found.state, found.unreachable_s) == ("closed", None)
    assert why_not_asked(endpoint, lacks=True) == "not asked, it doesn't serve that"
    assert not why_not_asked(endpoint, lacks=False)
    endpoint.close()


@pytest.mark.parametrize(("after_s", "state"), [(0.0, "open"), (FIRST_OPEN_S, "unreachable")])
def test_a_server_that_stays_away_is_not_told_of_as_half_open(after_s, state):
    """Once its breaker would let a request through again, it is still known that nobody is there to answer it."""
    clock = FakeClock()
    endpoint = Endpoint("127.0.0.1:1", clock)
    for _ in range(FAILURES_TO_OPEN):
        turn = endpoint.try_begin()
        gone = endpoint.call(turn, PREDICT, b"", clock() + WAIT_S, lambda response: response).exception(WAIT_S)
        assert gone.unreachable
    clock.advance(after_s)
    endpoint.unheard(clock(), unreachable=True)
    assert endpoint.state.value == ("half-open" if after_s else "open")
    assert server_stats([endpoint])[0].state == state
    endpoint.close()
