"""Copies of late calls, and how often a request is asked again."""

from __future__ import annotations

import contextlib
import time

import grpc
import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import rows
from support.far_servers import LONG_S, WAIT_S, far_server, row_request, until
from support.prompt_client import PromptClient
from support.remote_servers import FakeLater

from edge_runtime import ServerFailed
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.hedging import KEPT, LEAST_ANSWERS, MAX_KINDS, Hedging
from edge_runtime.remote.retries import TRICKLE_S, Retries
from edge_runtime.routing.budget import BURST, RETRY_SHARE, Budget


@pytest.fixture
def later():
    return FakeLater()


@pytest.fixture
def hedges():
    return Budget(0.05, 2)


@pytest.fixture
def client(later, hedges):
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    made = PromptClient(table, clock=time.monotonic, timeout_s=LONG_S, later=later, hedges=hedges)
    yield made
    made.close()


@pytest.fixture
def servers(client):
    with far_server() as one, far_server() as two:
        for server in (one, two):
            client.endpoints.add(Found(key=server.address, address=server.address))
        yield one, two


def usual(client, servers, took_s=0.02):
    """Both are known to answer in that time."""
    for server in servers:
        for _ in range(LEAST_ANSWERS):
            client.hedging.took(server.address, "scale", took_s)


def held(servers):
    """Both wait; the one that was asked, and the other, once it has come to that."""
    for server in servers:
        server.hold.clear()

    def first():
        until(lambda: any(server.calls for server in servers), "the call")
        return servers if servers[0].calls else servers[::-1]

    return first


def spent(budget):
    count = 0
    while budget.spend():
        count += 1
    return count


def test_a_late_call_has_a_copy_and_the_first_answer_counts(client, servers, later):
    """Past the 95th percentile another server is asked too; the slow one's call is ended, and the reply shows both."""
    usual(client, servers)
    first = held(servers)
    future = client.submit(row_request(3))
    slow, fast = first()
    assert later.waits_s == [pytest.approx(0.02)]
    later.pass_time()
    fast.await_calls(1)
    fast.hold.set()
    reply = future.result(WAIT_S)
    np.testing.assert_array_equal(reply.outputs["y"], rows(1, 3) * 2)
    assert reply.place == f"server:{fast.address}"
    assert [(one.place, one.outcome) for one in reply.tried] == [
        (f"server:{slow.address}", "cancelled"),
        (f"server:{fast.address}", "answered"),
    ]
    until(lambda: not any(endpoint.in_flight for endpoint in client.endpoints.all()), "the end of the slow call")


def test_a_model_may_have_none(client, servers, later, hedges):
    """Its late calls are not even watched, and earn no copies for the others'."""
    plain = PromptClient(
        client.endpoints, clock=time.monotonic, timeout_s=LONG_S, later=later, hedges=hedges, hedged="other".__eq__
    )
    usual(plain, servers)
    spent(hedges)
    for _ in range(20):
        plain.submit(row_request()).result(WAIT_S)
    assert not later.waits_s
    assert not hedges.spend()


def test_the_first_server_may_still_win(client, servers, later):
    """A copy that is not needed any more is ended; its server is blamed for nothing."""
    usual(client, servers)
    first = held(servers)
    future = client.submit(row_request(3))
    slow, other = first()
    later.pass_time()
    other.await_calls(1)
    slow.hold.set()
    assert future.result(WAIT_S).place == f"server:{slow.address}"
    until(lambda: not any(endpoint.in_flight for endpoint in client.endpoints.all()), "the end of the copy")
    assert all(endpoint.allows for endpoint in client.endpoints.all())


def test_a_copy_that_fails_leaves_the_first_call_alone(client, servers, later):
    """An error of the copy is no error of the request while the first server may answer."""
    usual(client, servers)
    first = held(servers)
    future = client.submit(row_request(3))
    slow, other = first()
    other.behaviour = lambda x: grpc.StatusCode.INVALID_ARGUMENT
    later.pass_time()
    other.hold.set()
    other.await_calls(1)
    slow.hold.set()
    assert future.result(WAIT_S).place == f"server:{slow.address}"


def test_both_may_fail(client, servers, later):
    """Where the copy fails as the first call did, the error says what each server said."""
    usual(client, servers)
    first = held(servers)
    future = client.submit(row_request(3))
    first()
    for server in servers:
        server.behaviour = lambda x: grpc.StatusCode.INTERNAL
    later.pass_time()
    for server in servers:
        server.hold.set()
    error = future.exception(WAIT_S)
    assert isinstance(error, ServerFailed)
    assert set(error.asked) == {server.address for server in servers}
    assert len(error.tried) == 2


def test_no_copy_is_sent_on_a_guess(client, servers, later):
    """Until enough answers are known nothing is late."""
    first = held(servers)
    future = client.submit(row_request(3))
    first()
    assert later.waits_s == []
    for server in servers:
        server.hold.set()
    future.result(WAIT_S)


def test_copies_stay_within_their_budget(client, servers, later, hedges):
    """Where the budget is spent a late call waits for its answer."""
    usual(client, servers)
    spent(hedges)
    first = held(servers)
    future = client.submit(row_request(3))
    _, other = first()
    later.pass_time()
    for server in servers:
        server.hold.set()
    future.result(WAIT_S)
    assert other.calls == []


def test_a_copy_of_many_requests_counts_as_many(client, servers, later, hedges):
    """A call that carries more requests than the budget has room for is not copied."""
    usual(client, servers)
    first = held(servers)
    futures = [client.submit(row_request(i, batched=True)) for i in range(40)]
    first()
    for server in servers:
        server.hold.set()
    for future in futures:
        future.result(WAIT_S)
    assert sum(sum(server.calls) for server in servers) == 40
    assert spent(hedges) == 2


def test_nobody_else_to_ask_gives_the_budget_back(client, servers, later, hedges):
    """A copy that finds no second server costs nothing."""
    usual(client, servers)
    first = held(servers)
    future = client.submit(row_request(3))
    slow, other = first()
    client.endpoints.remove(other.address)
    later.pass_time()
    slow.hold.set()
    future.result(WAIT_S)
    assert spent(hedges) == 2


def test_an_answered_request_leaves_no_timer(client, servers, later):
    """What was answered in time is not looked after any more."""
    usual(client, servers)
    client.submit(row_request(3)).result(WAIT_S)
    later.pass_time()
    assert sum(len(server.calls) for server in servers) == 1


def test_percentile_follows_what_answers_take():
    """Times are kept for each server and model, and the latest count."""
    hedging = Hedging(Budget(0.05, 2))
    for i in range(LEAST_ANSWERS - 1):
        hedging.took("a:1", "scale", 0.01 + (i % 25 == 0) * 0.2)
        assert hedging.after_s("a:1", "scale") is None
    hedging.took("a:1", "scale", 0.01)
    assert hedging.after_s("a:1", "scale") == 0.01
    for _ in range(KEPT):
        hedging.took("a:1", "scale", 0.5)
    assert hedging.after_s("a:1", "scale") == 0.5
    assert hedging.after_s("a:1", "other") is None
    assert hedging.after_s("b:1", "scale") is None


def test_kinds_are_bounded():
    """More models than are kept push out the oldest."""
    hedging = Hedging(Budget(0.05, 2))
    for i in range(MAX_KINDS + 1):
        for _ in range(LEAST_ANSWERS):
            hedging.took("a:1", f"m{i}", 0.01)
    assert hedging.after_s("a:1", "m0") is None
    assert hedging.after_s("a:1", f"m{MAX_KINDS}") == 0.01


def test_retries_are_a_tenth():
    """Where every server refuses, they see a tenth more calls and the burst, not three for each request.

    That another is asked for the first time is none of these.
    """
    clock, count = FakeClock(), 150
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    with (
        contextlib.closing(PromptClient(table, clock=clock, timeout_s=LONG_S, later=FakeLater())) as client,
        contextlib.ExitStack() as stack,
    ):
        full = [stack.enter_context(far_server(lambda x: grpc.StatusCode.RESOURCE_EXHAUSTED)) for _ in range(3)]
        for server in full:
            table.add(Found(key=server.address, address=server.address))
        for i in range(count):
            error = client.submit(row_request(i)).exception(WAIT_S)
            assert isinstance(error, ServerFailed)
        assert sum(len(server.calls) for server in full) <= count * (1 + RETRY_SHARE) + BURST + len(full) - 1
    assert "too many requests were asked again already" in str(error)
    assert not error.lacking


def test_asking_who_has_the_version_is_no_retry(client):
    """A server that doesn't have it has done nothing: each request finds the one that has, however many there are."""
    with far_server(lambda x: grpc.StatusCode.NOT_FOUND) as lacking, far_server() as having:
        for server in (lacking, having):
            client.endpoints.add(Found(key=server.address, address=server.address))
        for i in range(50):
            assert client.submit(row_request(i)).result(WAIT_S).place == f"server:{having.address}"


def test_reply_says_who_failed_before(client):
    """What a server said before another answered is in the reply, with the time."""
    came = []

    def refuse_the_first(_):
        came.append(True)
        return grpc.StatusCode.RESOURCE_EXHAUSTED if len(came) == 1 else None

    with far_server(refuse_the_first) as one, far_server(refuse_the_first) as two:
        for server in (one, two):
            client.endpoints.add(Found(key=server.address, address=server.address))
        tried = client.submit(row_request()).result(WAIT_S).tried
    assert {entry.place for entry in tried} == {f"server:{one.address}", f"server:{two.address}"}
    assert tried[0].outcome.startswith("failed: queue full: ")
    assert tried[0].ms > 0


def test_without_budget_the_patient_are_asked_again_now_and_then():
    """A request that nobody else can answer is not lost because others were asked again: it gets a turn in time."""
    clock = FakeClock()
    retries = Retries(clock)
    while retries.spend(patient=False):
        pass
    assert retries.spend(patient=True)
    assert not retries.spend(patient=True)
    clock.advance(TRICKLE_S)
    assert retries.spend(patient=True)
    assert not retries.spend(patient=False)
