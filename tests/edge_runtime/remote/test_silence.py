"""Calls that would be lost at a server that has fallen silent."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import rows
from support.far_servers import LONG_S, WAIT_S, far_server, row_request, until
from support.prompt_client import PromptClient
from support.remote_servers import FakeLater

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.parcel import Member, Parcel
from edge_runtime.remote.silence import Silence, is_late, is_lost, is_silent, last_s, look_s
from edge_runtime.routing.budget import Budget
from edge_runtime.routing.watch import GLANCE_S
from fallback_server.protocol.methods import CATALOG_GET, GET_MODEL_METADATA
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

WITHIN_S = 10.0
"""Of the clock, which is the test's; gRPC's own never comes to it."""


@pytest.fixture
def clock():
    return FakeClock(time.monotonic())


@pytest.fixture
def later():
    return FakeLater()


@pytest.fixture
def client(clock, later):
    """Its budget of copies is spent."""
    hedges = Budget(0.05, 1)
    hedges.spend()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    made = PromptClient(table, clock=clock, timeout_s=LONG_S, later=later, hedges=hedges)
    yield made
    made.close()


@pytest.fixture
def servers(client):
    with far_server() as one, far_server() as two:
        for server in (one, two):
            client.endpoints.add(Found(key=server.address, address=server.address))
        yield one, two


def held(client, servers, **fields):
    """A request that waits; the server that has it, and the other, which answers."""
    for server in servers:
        server.hold.clear()
    now_s = client.endpoints._clock()
    future = client.submit(row_request(3, start_s=now_s, deadline_s=now_s + WITHIN_S, **fields))
    until(lambda: any(server.calls for server in servers), "the call")
    slow, fast = servers if servers[0].calls else servers[::-1]
    fast.hold.set()
    return future, slow, fast


def endpoint_of(client, server):
    return next(one for one in client.endpoints.all() if one.address == server.address)


def look_in_vain(client, server):
    """Begins a look that nobody answers."""
    endpoint_of(client, server).look(CATALOG_GET, edge.CatalogRequest(), LONG_S)


def pass_looks(later, clock, meanwhile=lambda: None):
    """All looks at the call, one after the other, while it has none; when each is, from the beginning."""
    begin_s, instants = clock(), []
    while len(later.waits_s) > len(instants):
        clock.advance(later.waits_s[-1])
        instants.append(clock() - begin_s)
        meanwhile()
        later.pass_time()
    return instants


def check_rescued(future, slow, fast):
    reply = future.result(WAIT_S)
    np.testing.assert_array_equal(reply.outputs["y"], rows(1, 3) * 2)
    assert [(one.place, one.outcome) for one in reply.tried] == [
        (f"server:{slow.address}", "cancelled"),
        (f"server:{fast.address}", "answered"),
    ]


def test_at_the_last_moment_another_is_asked_without_a_budget(client, servers, later, clock):
    """A server that has answered nobody for twice the time that the call should take has lost it."""
    future, slow, fast = held(client, servers)
    instants = pass_looks(later, clock)
    check_rescued(future, slow, fast)
    assert WITHIN_S - 0.1 < instants[-1] < WITHIN_S


def test_who_answers_no_look_either_is_waited_for_no_longer(client, servers, later, clock):
    """Half a second of ten is over when another is asked."""
    future, slow, fast = held(client, servers)
    look_in_vain(client, slow)
    assert pass_looks(later, clock) == [pytest.approx(0.5)]
    check_rescued(future, slow, fast)


def test_who_answers_others_is_only_slow(client, servers, later, clock):
    """It is left the call, to the end: beyond the budget a copy would be load for who may have too much already."""
    future, slow, fast = held(client, servers)
    endpoint = endpoint_of(client, slow)
    look_in_vain(client, slow)

    def refuse():
        turn = endpoint.try_begin()
        asked = endpoint.call(turn, GET_MODEL_METADATA, pb.GetModelMetadataRequest(), clock() + LONG_S, str)
        assert asked.exception(WAIT_S)

    assert pass_looks(later, clock, refuse)[-1] > WITHIN_S - 0.1
    assert fast.calls == []
    slow.hold.set()
    assert future.result(WAIT_S).place == f"server:{slow.address}"


def test_a_call_that_carries_many_is_looked_after_for_the_first_of_them():
    """Whoever has no deadline says nothing of it."""
    requests = [row_request(within_s=within_s) for within_s in (3.0, None, 1.0)]
    assert Parcel([Member(one, 1) for one in requests]).soonest_s == requests[2].deadline_s
    assert Parcel([Member(requests[1], 1)]).soonest_s is None


def test_without_a_deadline_nothing_is_looked_after(client, servers, later):
    """Such a call ends with the client's own time, and is then asked elsewhere."""
    servers[0].hold.clear()
    future = client.submit(row_request(3))
    assert later.waits_s == []
    servers[0].hold.set()
    future.result(WAIT_S)


@pytest.mark.parametrize(
    ("known", "late", "silent", "lost"),
    [
        (Silence(0.019, 0.001, 0.0, 0.0), False, False, False),
        (Silence(0.02, 0.001, 0.0, 0.0), True, False, True),
        (Silence(0.02, 0.001, 0.25, 0.0), True, True, True),
        (Silence(0.9, 1.0, 9.0, 0.0), False, False, True),
        (Silence(1.0, 1.0, 9.0, 0.0), False, True, True),
        (Silence(1.9, 1.0, 0.0, 0.0), False, False, False),
        (Silence(2.0, 1.0, 0.3, 0.1), True, False, True),
        (Silence(2.0, 1.0, 0.4, 0.1), True, True, True),
    ],
)
def test_who_is_late_and_who_is_silent(known, late, silent, lost):
    """Late is who answered nobody for twice the time; silent, who answers no look; either loses a call in the end."""
    assert (is_late(known), is_silent(known)) == (late, silent)
    assert (is_lost(known, last=False), is_lost(known, last=True)) == (silent, lost)


def test_the_last_moment_is_the_first_deadlines_and_then_the_last_s():
    """Less what another is expected to take, by a quarter more, and a slack; one that may not be asked has none."""
    first = last_s(0.0, (1.0, 3.0), 0.1, 0.0)
    assert first == pytest.approx(1.0 - 0.125 - 0.02)
    assert last_s(0.0, (1.0, 3.0), 0.1, first) == pytest.approx(3.0 - 0.125 - 0.02)
    assert last_s(0.0, (1.0, 3.0), 0.1, 2.9) is None
    assert last_s(0.0, (1.0,), float("inf"), 0.0) is None


def test_looks_come_in_the_middle_of_what_is_left():
    """Half a second apart at most, some milliseconds at least; the last is the last moment itself."""
    assert look_s(0.0, 10.0) == 0.5
    assert look_s(0.0, 0.4) == 0.2
    assert look_s(0.0, 2.5 * GLANCE_S) == 1.25 * GLANCE_S
    assert look_s(0.0, 2 * GLANCE_S) == 2 * GLANCE_S
