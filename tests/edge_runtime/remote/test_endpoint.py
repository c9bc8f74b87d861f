import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_servers import scale_server
from support.remote_servers import WAIT_S, slow_line

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.routing.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S, BreakerState
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT, TENSOR_CONTENT_METADATA
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.status import Fault

DEADLINE_S = 0.1
MESSAGE = pb.PredictRequest(model_spec={"name": "scale"}, inputs={"x": tensors.encode(np.ones((1, 4), np.float32))})


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def server():
    with scale_server({1: 2.0}) as running:
        yield running


@pytest.fixture
def endpoint(server, clock):
    made = Endpoint(server.address, clock)
    yield made
    made.close()


def send(endpoint, clock, turn=None, message=MESSAGE, within_s=WAIT_S):
    turn = turn or endpoint.try_begin()
    assert turn is not None
    return endpoint.call(turn, PREDICT, message, clock() + within_s, lambda response: response)


def fault_of(future):
    error = future.exception(WAIT_S)
    assert isinstance(error, RemoteFault)
    return error


def open_breaker(server, endpoint, clock):
    server.fail_with = grpc.StatusCode.INTERNAL
    for _ in range(FAILURES_TO_OPEN):
        assert fault_of(send(endpoint, clock)).fault is Fault.INTERNAL
    server.fail_with = None
    assert endpoint.state is BreakerState.OPEN


def test_server_that_hangs_is_blamed_by_callers_that_give_up(server, endpoint, clock):
    """A call that its caller cancels at the deadline counts like one that gRPC ended: estimate and breaker are told."""
    server.hold.clear()
    for _ in range(FAILURES_TO_OPEN):
        future = send(endpoint, clock, within_s=DEADLINE_S)
        clock.advance(DEADLINE_S)
        assert future.cancel()
        assert endpoint.expected_s >= DEADLINE_S * 0.999
    assert endpoint.state is BreakerState.OPEN
    assert endpoint.in_flight == 0


def test_calls_that_are_late_together_count_once(server, endpoint, clock):
    """A pause of the network makes all calls under way late at once: that does not bar a server that is well."""
    server.hold.clear()
    futures = [send(endpoint, clock, within_s=DEADLINE_S) for _ in range(FAILURES_TO_OPEN * 2)]
    clock.advance(DEADLINE_S)
    for future in futures:
        assert future.cancel()
    assert endpoint.state is BreakerState.CLOSED


def test_early_cancel_blames_nobody(server, endpoint, clock):
    """A call that is cancelled before the server had its usual time says nothing of the server."""
    server.hold.clear()
    for _ in range(FAILURES_TO_OPEN * 2):
        assert send(endpoint, clock).cancel()
    assert endpoint.state is BreakerState.CLOSED
    assert endpoint.in_flight == 0


def test_call_that_was_given_up_is_remembered_and_not_blamed(server, endpoint, clock):
    """Whose copy was answered first, long before the deadline, is expected to be slow; its breaker stays closed."""
    server.hold.clear()
    for _ in range(FAILURES_TO_OPEN + 1):
        future = send(endpoint, clock)
        clock.advance(DEADLINE_S)
        assert future.cancel()
    assert endpoint.expected_s >= DEADLINE_S * 0.999
    assert endpoint.state is BreakerState.CLOSED


HANGING_SERVER = """
import sys, time
sys.path[:0] = sys.argv[1:]
from support.edge_servers import ScaleServer
server = ScaleServer({1: 2.0})
server.hold.clear()
print(server.port, flush=True)
server.reached.wait()
print("reached", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_server_that_is_killed_under_a_call_is_not_alive():
    """Words of gRPC for a connection that broke under a call have not changed; it counts for the breaker."""
    folders = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]
    with subprocess.Popen([sys.executable, "-c", HANGING_SERVER, *folders], stdout=subprocess.PIPE, text=True) as child:
        endpoint = Endpoint(f"127.0.0.1:{int(child.stdout.readline())}", time.monotonic)
        future = send(endpoint, time.monotonic)
        assert child.stdout.readline() == "reached\n"
        child.kill()
    broken = fault_of(future)
    assert (broken.fault, broken.broken, broken.alive, broken.passing) == (Fault.NOT_READY, True, False, True)
    assert not broken.lacking
    # The connection that broke may take one more call along.
    assert any(fault_of(send(endpoint, time.monotonic)).unreachable for _ in range(3))
    endpoint.close()


def test_call_in_flight_makes_the_next_one_expected_later(server, endpoint, clock):
    """As long as a call hangs, one more is expected to take about as long as it has, or longer."""
    server.hold.clear()
    future = send(endpoint, clock)
    clock.advance(5)
    assert endpoint.expected_s >= 4.9
    future.cancel()


def test_message_that_grpc_refuses_leaves_nothing_behind(server, endpoint, clock):
    """What gRPC can't send is a fault in the future; it leaks no call and leaves no half-open breaker stuck."""
    open_breaker(server, endpoint, clock)
    clock.advance(FIRST_OPEN_S)
    fault = fault_of(send(endpoint, clock, message=object()))
    assert (fault.fault, fault.unreachable) == (Fault.INTERNAL, False)
    assert "not sent" in fault.detail
    assert endpoint.in_flight == 0
    clock.advance(FIRST_OPEN_S)
    send(endpoint, clock).result(WAIT_S)
    assert endpoint.state is BreakerState.CLOSED


def test_closed_endpoint_is_unreachable(server, clock):
    """A call on a channel that was closed meanwhile ends as a fault at once."""
    endpoint = Endpoint(server.address, clock)
    turn = endpoint.try_begin()
    endpoint.close()
    assert fault_of(send(endpoint, clock, turn)).unreachable
    assert endpoint.in_flight == 0


def test_half_open_breaker_is_passed_once(server, endpoint, clock):
    """Of many threads at once exactly one gets the turn that finds out."""
    open_breaker(server, endpoint, clock)
    clock.advance(FIRST_OPEN_S)
    start, turns = threading.Barrier(8), []

    def try_it():
        start.wait(WAIT_S)
        turns.append(endpoint.try_begin())

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    passed = [turn for turn in turns if turn is not None]
    assert len(passed) == 1
    send(endpoint, clock, passed[0]).result(WAIT_S)
    assert endpoint.state is BreakerState.CLOSED


def test_earlier_call_does_not_decide_for_the_probe(server, endpoint, clock):
    """A call from before the opening that ends now leaves the half-open breaker to its probe."""
    server.hold.clear()
    cancelled, answered = send(endpoint, clock), send(endpoint, clock)
    for _ in range(FAILURES_TO_OPEN):
        future = send(endpoint, clock, within_s=DEADLINE_S)
        clock.advance(DEADLINE_S)
        future.cancel()
    assert endpoint.state is BreakerState.OPEN
    clock.advance(FIRST_OPEN_S)
    probe = endpoint.try_begin()
    cancelled.cancel()
    server.hold.set()
    answered.result(WAIT_S)
    assert endpoint.state is BreakerState.HALF_OPEN
    assert endpoint.try_begin() is None
    send(endpoint, clock, probe).result(WAIT_S)
    assert endpoint.state is BreakerState.CLOSED


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:1"])
def test_nobody_there_is_told_apart_by_grpcs_own_words(address, clock):
    """Where no server spoke the fault says so, and the endpoint remembers; gRPC's words for it have not changed."""
    endpoint = Endpoint(address, clock)
    fault = fault_of(send(endpoint, clock))
    assert (fault.fault, fault.unreachable, fault.passing, fault.alive) == (Fault.NOT_READY, True, False, False)
    assert endpoint.unreachable
    endpoint.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_loading_or_full_server_is_alive(server, endpoint, clock, code):
    """A server that refuses for now answers other requests: the breaker stays closed."""
    server.fail_with = code
    for _ in range(FAILURES_TO_OPEN + 1):
        fault = fault_of(send(endpoint, clock))
        assert fault.passing
        assert not fault.unreachable
    assert endpoint.state is BreakerState.CLOSED


def test_announced_anew_starts_afresh(server, endpoint, clock):
    """What was held against a server is forgotten when it is announced anew."""
    open_breaker(server, endpoint, clock)
    endpoint.reset()
    assert endpoint.state is BreakerState.CLOSED


def test_restarted_server_is_used_again_soon():
    """A server that comes back on its port is connected to within about two seconds."""
    clock = time.monotonic
    with scale_server({1: 2.0}) as first:
        endpoint = Endpoint(first.address, clock)
        send(endpoint, clock).result(WAIT_S)
    for _ in range(FAILURES_TO_OPEN):
        fault_of(send(endpoint, clock))
    with scale_server({1: 2.0}, first.port):
        back_s = clock()
        while True:
            turn = endpoint.try_begin()
            if turn is not None and send(endpoint, clock, turn).exception(WAIT_S) is None:
                break
            assert clock() - back_s < WAIT_S
            threading.Event().wait(0.02)
        assert clock() - back_s < 2.5
    endpoint.close()


def test_far_server_is_connected_to():
    """The first call over a line of 240 ms and back is answered: connecting is not cut short."""
    clock = time.monotonic
    with scale_server({1: 2.0}) as server, slow_line(server.address, 0.12) as address:
        endpoint = Endpoint(address, clock)
        response = send(endpoint, clock).result(WAIT_S)
        endpoint.close()
    assert response.model_spec.version.value == 1


def test_tensor_content_is_asked_for(clock):
    """By metadata that a server may pass over, as TensorFlow Serving does."""
    heard = []

    def predict(_, context):
        heard.extend(context.invocation_metadata())
        return pb.PredictResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        predict, PREDICT.request.FromString, PREDICT.response.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICT.service, {PREDICT.name: handler})])
    endpoint = Endpoint(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", clock)
    server.start()
    try:
        send(endpoint, clock).result(WAIT_S)
    finally:
        endpoint.close()
        server.stop(0).wait(WAIT_S)
    assert TENSOR_CONTENT_METADATA in [tuple(each) for each in heard]


def late_calls(server, endpoint, clock, count, within_s):
    """Calls for a model that the server has not answered yet, each cancelled at its deadline."""
    server.hold.clear()
    for _ in range(count):
        call = send(endpoint, clock, endpoint.try_begin("scale", 16), within_s=within_s)
        clock.advance(within_s)
        call.cancel()
    server.hold.set()


def test_a_server_that_answers_looks_is_not_blamed_for_a_slow_model(server, endpoint, clock):
    """Who gives a model less than a second that has never answered bars the server for nobody."""
    endpoint.look(PREDICT, MESSAGE, WAIT_S)
    endpoint.heard(0.001)
    late_calls(server, endpoint, clock, 2 * FAILURES_TO_OPEN, within_s=0.05)
    assert endpoint.state is BreakerState.CLOSED
    late_calls(server, endpoint, clock, FAILURES_TO_OPEN, within_s=1.0)
    assert endpoint.state is not BreakerState.CLOSED


@pytest.mark.parametrize("looked", [False, True])
def test_a_server_that_says_nothing_is_blamed_whatever_it_was_asked(server, endpoint, clock, looked):
    """Be it that it has never answered, or that a look at it waits."""
    if looked:
        endpoint.look(PREDICT, MESSAGE, WAIT_S)
        endpoint.heard(0.001)
        server.hold.clear()
        endpoint.look(PREDICT, MESSAGE, WAIT_S)
        clock.advance(0.3)
    late_calls(server, endpoint, clock, FAILURES_TO_OPEN, within_s=0.05)
    assert endpoint.state is not BreakerState.CLOSED
