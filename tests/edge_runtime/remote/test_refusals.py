"""Servers that refuse at once: who is asked instead, for how long, and what that costs."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from msgspec.structs import replace
from support.clock import FakeClock
from support.far_servers import LONG_S, WAIT_S, far_server, row_request
from support.prompt_client import PromptClient
from support.remote_servers import FakeLater

from edge_runtime.remote.catalog import ServedCatalog, ServedModel, ServedVersion, Serves
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.journey import MAX_ATTEMPTS
from edge_runtime.remote.refusals import FIRST_S, LACKS_S, LONGEST_S, MAX_KEPT, Refusals
from fallback_server.protocol.status import Fault

REFUSING = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED]
KEY = ("scale", 1, None)
FULL = RemoteFault(Fault.QUEUE_FULL, "a:1", "full")
LACKING = RemoteFault(Fault.NOT_FOUND, "a:1", "not found")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def client(clock):
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock, draw=lambda: 0.0)
    made = PromptClient(table, clock=clock, timeout_s=LONG_S, later=FakeLater())
    yield made
    made.close()


def add(client, *servers):
    for server in servers:
        client.endpoints.add(Found(key=server.address, address=server.address))


def places(client, clock, count):
    """Who answers so many requests, one after the other."""
    asked = (replace(row_request(i), start_s=clock()) for i in range(count))
    return {client.submit(one).result(WAIT_S).place for one in asked}


@pytest.mark.parametrize("code", REFUSING)
def test_who_answers_is_asked_before_who_refuses(client, clock, code):
    """However fast a server refuses, it is asked once, and then not before others until some time has passed."""
    with far_server(lambda _: code) as refusing, far_server() as answering:
        add(client, refusing, answering)
        assert places(client, clock, 30) == {f"server:{answering.address}"}
        assert len(refusing.calls) <= 1
        refusing.behaviour = lambda _: None
        clock.advance(LONGEST_S)
        answering.behaviour = lambda _: code
        assert places(client, clock, 30) == {f"server:{refusing.address}"}


@pytest.mark.parametrize("code", REFUSING)
def test_going_on_to_who_has_refused_nothing_is_no_retry(client, clock, code):
    """The budget of retries is not what stands between a request and the one server that would answer it."""
    with far_server(lambda _: code) as refusing, far_server() as answering:
        add(client, refusing, answering)
        while client._means.retries.spend(patient=False):
            pass
        assert places(client, clock, 1) == {f"server:{answering.address}"}
        assert len(refusing.calls) == 1


@pytest.mark.parametrize("label", [None, "stable"])
def test_the_newest_that_is_full_keeps_nothing_from_an_older_one(client, clock, label):
    """Whoever serves an older version answers for the latest while the newest's server refuses; then it does again."""
    with far_server(lambda _: grpc.StatusCode.RESOURCE_EXHAUSTED) as newest, far_server() as older:
        add(client, newest, older)
        for version, endpoint in zip((2, 1), client.endpoints.all(), strict=True):
            states = {version: ServedVersion(state="AVAILABLE", serves=Serves.YES)}
            model = ServedModel(versions=states, labels={"stable": version}, default=version)
            endpoint.told(ServedCatalog(models={"scale": model}, complete=True), clock())
        client.endpoints.news()
        while client._means.retries.spend(patient=False):
            pass
        for _ in range(60):
            asked = replace(row_request(version=None, label=label), start_s=clock())
            assert client.submit(asked).result(WAIT_S).place == f"server:{older.address}"
            clock.advance(0.02)
        newest.behaviour = lambda _: None
        clock.advance(LONGEST_S)
        asked = replace(row_request(version=None, label=label), start_s=clock())
        assert client.submit(asked).result(WAIT_S).place == f"server:{newest.address}"


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, *REFUSING])
def test_many_that_refuse_do_not_hide_the_one_that_answers(client, clock, code):
    """A request goes on as long as nobody has run it; and what was found out is known to the next."""
    with contextlib.ExitStack() as stack:
        refusing = [stack.enter_context(far_server(lambda _: code)) for _ in range(MAX_ATTEMPTS + 2)]
        answering = stack.enter_context(far_server())
        add(client, *refusing, answering)
        assert places(client, clock, 20) == {f"server:{answering.address}"}
        assert all(len(server.calls) <= 1 for server in refusing)


def test_what_was_not_found_is_known_for_a_while(client, clock):
    """A server that said it lacks a version is not asked for it; then again, or as soon as its catalog tells of it."""
    request = row_request()
    with far_server(lambda _: grpc.StatusCode.NOT_FOUND) as server:
        add(client, server)
        (endpoint,) = client.endpoints.all()
        for asked in (1, 2):
            for _ in range(2):
                assert client.submit(replace(request, start_s=clock())).exception(WAIT_S).lacking
            assert (client.expects(request), len(server.calls)) == (None, asked)
            clock.advance(LACKS_S)
        assert client.submit(replace(request, start_s=clock())).exception(WAIT_S).lacking
        clock.advance(0.1)
        version = ServedVersion(state="AVAILABLE", serves=Serves.YES)
        model = ServedModel(versions={1: version}, labels={}, default=1)
        endpoint.told(ServedCatalog(models={"scale": model}, complete=True), clock())
        client.endpoints.news()
        assert client.expects(request) is not None


def test_refusals_follow_upon_each_other_ever_later():
    """Twice as long each time up to a bound, once for those that were under way together, afresh after a while."""
    refusals, now_s = Refusals(), 100.0
    for lasts_s in (FIRST_S, FIRST_S * 2, FIRST_S * 4):
        assert refusals.failed(KEY, FULL, now_s)
        assert not refusals.failed(KEY, FULL, now_s + lasts_s / 2)
        assert refusals.last(KEY, now_s + lasts_s * 0.99)
        now_s += lasts_s
        assert not refusals.last(KEY, now_s)
    for _ in range(10):
        assert refusals.failed(KEY, FULL, now_s)
        now_s += LONGEST_S
        assert not refusals.last(KEY, now_s)
    now_s += LONGEST_S
    assert refusals.failed(KEY, FULL, now_s)
    assert not refusals.last(KEY, now_s + FIRST_S)
    assert refusals.answered(KEY)
    assert not refusals.answered(KEY)


def test_refusals_are_told_apart_and_bounded():
    """What was not found is lacking; what ran and failed is no refusal; more than are kept push out the first."""
    refusals = Refusals()
    assert refusals.failed(KEY, LACKING, 5.0)
    assert (refusals.lacked_s(KEY, 5.0), refusals.last(KEY, 5.0)) == (5.0, False)
    assert refusals.lacked_s(KEY, 5.0 + LACKS_S) is None
    assert not refusals.failed(("other", 1, None), RemoteFault(Fault.INTERNAL, "a:1", "failed"), 5.0)
    for version in range(2, MAX_KEPT + 2):
        assert refusals.failed(("scale", version, None), FULL, 5.0)
    assert refusals.lacked_s(KEY, 5.0) is None
    refusals.forget()
    assert not refusals.last(("scale", 2, None), 5.0)


def test_those_that_all_refused_are_as_good_as_any(client, clock):
    """Where everybody was full one of them is asked all the same, and expected to answer."""
    with far_server(lambda _: grpc.StatusCode.RESOURCE_EXHAUSTED) as server:
        add(client, server)
        for asked in (1, 2):
            assert not client.submit(replace(row_request(), start_s=clock())).exception(WAIT_S).lacking
            assert len(server.calls) == asked
        assert client.endpoints.expects(Wanted("scale", 1, None, 16)) is not None
