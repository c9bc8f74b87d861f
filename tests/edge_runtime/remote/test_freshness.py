import math
import threading
import time

import grpc
import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_servers import scale_server
from support.knowing_servers import WAIT_S, plain_server, running_stand, until
from support.remote_servers import slow_line

from edge_runtime.remote.catalog import Serves, serves
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.endpoint import TRUSTED_S, Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.freshness import (
    AWAY_S,
    FLOOR_S,
    IDLE_S,
    INTEREST_S,
    QUICK_S,
    REFRESH_S,
    Freshness,
    Pace,
    pace_s,
)
from edge_runtime.remote.network import LARGE_BYTES
from edge_runtime.routing.breaker import FAILURES_TO_OPEN, BreakerState
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import GET_MODEL_STATUS, PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

LOADING, AVAILABLE = 20, 30


@pytest.fixture
def table():
    """A table whose servers are asked for news, by the real clock."""
    made = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    Freshness(made, clock=time.monotonic).start()
    yield made
    made.close()


def add(table, address, key=None):
    table.add(Found(key=key or address, address=address))
    return next(one for one in table.all() if one.address == address)


def wanted(version=1, label=None, model="m", nbytes=16):
    return Wanted(model, version, label, nbytes)


def send(table, what, rows=1, model="m"):
    """One Predict to whom the table chooses; the address that answered, or the fault."""
    endpoint, turn = table.acquire(what)
    message = pb.PredictRequest(
        model_spec={"name": model, "version": {"value": what.version}},
        inputs={"x": tensors.encode(np.ones((rows, 2), np.float32))},
    )
    future = endpoint.call(turn, PREDICT, message, time.monotonic() + WAIT_S, lambda response: endpoint.address)
    return future.exception(WAIT_S) or future.result()


@pytest.mark.parametrize(
    ("pace", "expected_s"),
    [
        (Pace(wanted_ago_s=math.inf), IDLE_S),
        (Pace(wanted_ago_s=INTEREST_S + 1), IDLE_S),
        (Pace(wanted_ago_s=INTEREST_S), REFRESH_S),
        (Pace(wanted_ago_s=0, looks=0), FLOOR_S),
        (Pace(wanted_ago_s=math.inf, looks=1), FLOOR_S),
        (Pace(wanted_ago_s=0, gone=True), QUICK_S),
        (Pace(wanted_ago_s=0, gone=True, looks=0), QUICK_S),
        (Pace(wanted_ago_s=math.inf, gone=True), IDLE_S),
        (Pace(wanted_ago_s=0, unmet_for_s=1), QUICK_S),
        (Pace(wanted_ago_s=0, unmet_for_s=60), REFRESH_S),
        (Pace(wanted_ago_s=0, took_s=0.5), 2.5),
        (Pace(wanted_ago_s=0, took_s=60), IDLE_S),
        (Pace(wanted_ago_s=0, took_s=2.0, away=True), AWAY_S),
        (Pace(wanted_ago_s=0, took_s=2.0, away=True, gone=True), AWAY_S),
        (Pace(wanted_ago_s=0, took_s=0.01, away=True, gone=True), QUICK_S),
        (Pace(wanted_ago_s=math.inf, took_s=2.0, away=True), IDLE_S),
    ],
)
def test_how_soon_a_server_is_looked_at_again(pace, expected_s):
    """Each second while requests want servers; sooner while news is awaited; seldom where nobody wants any."""
    assert pace_s(pace) == pytest.approx(expected_s)


def test_looks_follow_the_wishes():
    """Driven by hand: after the first two looks nothing is asked before its time, and each second once it is wanted."""
    clock = FakeClock()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    freshness = Freshness(table, clock=clock)
    with plain_server({"m": {1: AVAILABLE}}) as server:
        endpoint = add(table, server.address)

        def looks_after(pause_s):
            clock.advance(pause_s)
            before = endpoint.looks
            freshness.tick()
            until(lambda: not freshness._watches[endpoint].asking)
            return endpoint.looks - before

        assert [looks_after(pause_s) for pause_s in (0, FLOOR_S, 1, 8, 2)] == [1, 1, 0, 0, 1]
        assert table.expects(wanted()) is not None
        assert [looks_after(pause_s) for pause_s in (0.9, 0.2, 0.5, 0.6)] == [0, 1, 0, 1]
        until(lambda: server.asked == ["m", "m"])
        freshness.rouse()
        assert looks_after(FLOOR_S) == 1
    table.close()


def test_catalog_says_where_a_version_is(table, tmp_path):
    """What our server doesn't serve nobody expects of it; what it does, with the wait that it reports."""
    with running_stand(tmp_path) as server:
        server.stand.control.figures.expected_wait_ms = 700.0
        endpoint = add(table, server.address)
        until(lambda: endpoint.catalog is not None)
        assert table.expects(wanted()) >= 0.7
        assert table.expects(wanted(version=5)) is None
        assert table.expects(wanted(model="other")) is None
        assert table.lacking(wanted(version=5)) == [endpoint]
        assert table.acquire(wanted(version=5)) is None
        assert endpoint.catalog.server_id == "s1"


def test_what_comes_later_is_picked_up(table, tmp_path):
    """A label that is set while the device runs is known soon, without a request that asks in vain."""
    with running_stand(tmp_path) as server:
        endpoint = add(table, server.address)
        until(lambda: endpoint.catalog is not None)
        assert table.expects(wanted(version=None, label="canary")) is None
        server.change(lambda: server.stand.control.set_label("m", "canary", 1))
        until(lambda: serves(endpoint.catalog, "m", None, "canary") is Serves.YES)
        assert table.expects(wanted(version=None, label="canary")) is not None


def test_server_without_a_catalog_is_asked_for_the_models_that_are_wanted(table):
    """As TensorFlow Serving: the state of each wanted model, and of no other; one that is loaded later is picked up."""
    with plain_server({"m": {1: AVAILABLE, 2: LOADING}, "never": {1: AVAILABLE}}) as server:
        endpoint = add(table, server.address)
        assert table.expects(wanted()) is not None  # Before it has said anything, it is tried.
        until(lambda: table.expects(wanted(version=2)) is None and table.expects(wanted(model="gone")) is None)
        assert table.expects(wanted()) is not None
        assert serves(endpoint.catalog, "m", 2, None) is Serves.SOON
        server.states["m"][2] = AVAILABLE
        server.states["gone"] = {1: AVAILABLE}
        until(lambda: table.expects(wanted(version=2)) is not None and table.expects(wanted(model="gone")) is not None)
        assert "never" not in server.asked


@pytest.mark.parametrize("models", [(), ("m",), ("m", "other", "gone")])
@pytest.mark.parametrize("there", [True, False])
def test_look_that_is_over_makes_no_server_slow(models, there):
    """What a look leads to, the states of several models too, is over with it: between looks nothing is late."""
    clock = FakeClock()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    freshness = Freshness(table, clock=clock)
    with plain_server({"m": {1: AVAILABLE}, "other": {1: AVAILABLE}}) as server:
        endpoint = add(table, server.address)
        for model in models:
            assert table.expects(wanted(model=model)) is not None
        if not there:
            server.stop()
        freshness.tick()
        until(lambda: not freshness._watches[endpoint].asking and endpoint._lines.idle)
        until(lambda: endpoint.catalog is not None or not models or not there)
        expected_s = endpoint.expected_s
        clock.advance(REFRESH_S * 0.9)
        assert endpoint.expected_s == expected_s
    endpoint.close()
    with pytest.raises(ValueError, match="closed"):
        endpoint.look(GET_MODEL_STATUS, pb.GetModelStatusRequest(), WAIT_S)
    clock.advance(REFRESH_S * 0.9)
    assert endpoint.expected_s == expected_s
    table.close()


def test_version_is_asked_of_the_server_that_has_it(table, tmp_path):
    """Of several servers only those that serve the version get its requests, ours or not."""
    with running_stand(tmp_path) as ours, plain_server({"m": {2: AVAILABLE}}) as plain:
        add(table, ours.address)
        add(table, plain.address)
        until(
            lambda: table.expects(wanted()) and table.expects(wanted(version=2)) and len(table.lacking(wanted())) == 1
        )
        assert {send(table, wanted()) for _ in range(8)} == {ours.address}
        assert {send(table, wanted(version=2)) for _ in range(8)} == {plain.address}


def test_server_that_knows_neither_call_is_tried():
    """One that has Predict and nothing else stays usable: what it has is not known."""
    clock = FakeClock()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    freshness = Freshness(table, clock=clock)
    with scale_server({1: 2.0}) as server:
        endpoint = add(table, server.address)
        assert table.expects(wanted(model="scale")) is not None
        freshness.tick()
        until(lambda: endpoint.catalog is not None)
        assert table.expects(wanted(model="scale")) is not None
    table.close()


def test_server_that_is_killed_is_missed_and_used_again(table):
    """Without a request's failure it is known that nobody is there; and that somebody is again at the same port."""
    states = {"m": {1: AVAILABLE}}
    with plain_server(states) as first:
        endpoint = add(table, first.address)
        until(lambda: table.expects(wanted()) is not None and endpoint.looks)
    until(lambda: table.expects(wanted()) is None)
    assert endpoint.gone(time.monotonic())
    assert table.acquire(wanted()) is not None  # Whom nobody else can answer it is tried all the same.
    with plain_server(states, first.port):
        until(lambda: table.expects(wanted()) is not None)
        assert send(table, wanted()) == endpoint.address


def test_looks_go_on_whatever_a_server_answers_and_when():
    """An answer that comes while the next look is being planned is not missed, time after time."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    Freshness(table, clock=time.monotonic).start()
    with plain_server({"m": {1: AVAILABLE}}) as first:
        endpoint = add(table, first.address)
        until(lambda: table.expects(wanted()) is not None and endpoint.looks)
    for _ in range(2):
        until(lambda: table.expects(wanted()) is None)
        with plain_server({"m": {1: AVAILABLE}}, first.port):
            until(lambda: table.expects(wanted()) is not None and not endpoint.gone(time.monotonic()))
    table.close()


def test_server_at_another_address_takes_the_first_ones_place(table):
    """What a source announces under the same name somewhere else is asked there, and the old address no more."""
    with plain_server({"m": {1: AVAILABLE}}) as old, plain_server({"m": {1: AVAILABLE}}) as new:
        add(table, old.address, "robot-server")
        until(lambda: table.expects(wanted()) is not None)
        add(table, new.address, "robot-server")
        assert [one.address for one in table.all()] == [new.address]
        assert send(table, wanted()) == new.address
        table.remove("robot-server")
        assert table.expects(wanted()) is None


def test_one_address_of_two_sources_is_one_endpoint(table):
    """Given by hand and found by mDNS: one connection, which stays until both sources have lost it."""
    with plain_server({"m": {1: AVAILABLE}}) as server:
        endpoint = add(table, server.address)
        assert add(table, server.address, "by-mdns") is endpoint
        assert table.all() == [endpoint]
        table.remove("by-mdns")
        assert send(table, wanted()) == server.address


def test_two_ways_to_one_server_are_one(table, tmp_path):
    """A server that is known by two addresses gets no more than its share: the catalog says that it is the same."""
    with running_stand(tmp_path) as server, slow_line(server.address, 0.02) as other:
        ways = [add(table, address) for address in (server.address, other)]
        until(lambda: all(one.catalog is not None and one.looks > 1 for one in ways) and table.expects(wanted()))
        assert {send(table, wanted()) for _ in range(8)} == {server.address}


def test_round_trip_and_bandwidth_are_measured(table, tmp_path):
    """The way's length comes from looks, its width from large calls, less what the server says was its own time."""
    with running_stand(tmp_path) as server, slow_line(server.address, 0.05) as address:
        endpoint = add(table, address)
        until(lambda: endpoint.looks > 1)
        assert endpoint.round_trip_s >= 0.1
        assert table.expects(wanted()) >= 0.1
        assert endpoint.bandwidth_bytes_s is None
        assert send(table, wanted(nbytes=LARGE_BYTES), rows=LARGE_BYTES // 8) == address
        assert endpoint.bandwidth_bytes_s > 0


@pytest.mark.parametrize(("was_away", "state"), [(True, BreakerState.HALF_OPEN), (False, BreakerState.OPEN)])
def test_server_that_is_back_is_tried_at_once(was_away, state):
    """An answered look ends the opening of a server's breaker that was away; not of one that answers looks only."""
    clock = FakeClock()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    freshness = Freshness(table, clock=clock)
    with scale_server({1: 2.0}) as server:
        endpoint = add(table, server.address)
        server.fail_with = grpc.StatusCode.INTERNAL
        for _ in range(FAILURES_TO_OPEN):
            send(table, wanted(model="scale"), model="scale")
        assert endpoint.state is BreakerState.OPEN
        assert table.expects(wanted(model="scale")) is None
        if was_away:
            endpoint.unheard(clock(), unreachable=True)
        freshness.tick()
        until(lambda: endpoint.catalog is not None and not freshness._watches[endpoint].asking)
        assert endpoint.state is state
        assert (table.expects(wanted(model="scale")) is not None) == was_away
    table.close()


def test_what_is_lacking_is_believed_for_a_while_only(tmp_path):
    """Where a server has not been heard for some time, a request may find out whether it has the version by now."""
    clock = FakeClock()
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    freshness = Freshness(table, clock=clock)
    with running_stand(tmp_path) as server:
        endpoint = add(table, server.address)
        freshness.tick()
        until(lambda: endpoint.catalog is not None)
        assert table.expects(wanted(version=5)) is None
        clock.advance(TRUSTED_S + 1)
        assert table.expects(wanted(version=5)) is not None
    table.close()


def test_refusal_has_servers_looked_at_again_at_once(table, tmp_path):
    """A server that says NOT_FOUND is asked what it has, also while nobody wants anything."""
    with running_stand(tmp_path) as server:
        endpoint = add(table, server.address)
        until(lambda: endpoint.looks > 1)
        roused = threading.Event()
        endpoint.on_doubt = roused.set
        turn = endpoint.try_begin("m")
        message = pb.PredictRequest(model_spec={"name": "m", "version": {"value": 9}})
        endpoint.call(turn, PREDICT, message, time.monotonic() + WAIT_S, lambda response: response).exception(WAIT_S)
        assert roused.wait(WAIT_S)


def test_silent_line_is_given_up_for_a_new_one():
    """After two looks without an answer the endpoint connects anew; a call under way keeps the old line."""
    with scale_server({1: 2.0}) as server:
        endpoint = Endpoint(server.address, time.monotonic)
        server.hold.clear()
        message = pb.PredictRequest(
            model_spec={"name": "scale"}, inputs={"x": tensors.encode(np.ones((1, 4), np.float32))}
        )
        turn = endpoint.try_begin()
        call = endpoint.call(turn, PREDICT, message, time.monotonic() + WAIT_S, lambda response: response)
        assert server.reached.wait(WAIT_S)
        for _ in range(2):
            endpoint.unheard(time.monotonic(), unreachable=False)
        assert endpoint.gone(time.monotonic())
        old = endpoint._lines._line
        endpoint.renew_line()
        endpoint.sweep()
        assert endpoint._lines._line is not old
        assert not call.done()
        server.hold.set()
        assert call.result(WAIT_S).model_spec.version.value == 1
        assert not endpoint.gone(time.monotonic())
        until(lambda: old.idle)
        endpoint.sweep()
        assert endpoint._lines._retired == []
        endpoint.close()


def test_closing_the_table_ends_the_thread():
    """Nothing is left running, also while looks are under way."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    freshness = Freshness(table, clock=time.monotonic)
    freshness.start()
    with scale_server({1: 2.0}) as server:
        add(table, server.address)
        table.close()
    assert not freshness._thread.is_alive()
