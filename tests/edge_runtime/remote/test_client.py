import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing

import grpc
import numpy as np
import pytest
from msgspec.structs import replace
from support.clock import FakeClock
from support.edge_models import rows
from support.edge_servers import scale_server
from support.far_servers import far_server, until
from support.prompt_client import PromptClient
from support.remote_servers import answering

from edge_runtime import DeadlineExceeded, InvalidInput, ServerFailed, ServerRefused
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import MAX_ENDPOINTS, EndpointTable, Found
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.misfits import REFUSALS_IN_A_ROW
from edge_runtime.routing.breaker import FAILURES_TO_OPEN, BreakerState
from edge_runtime.routing.budget import BURST
from edge_runtime.types import InferRequest
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.status import Fault

WAIT_S = 10


@pytest.fixture
def client():
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    made = PromptClient(table, clock=time.monotonic, timeout_s=WAIT_S)
    yield made
    made.close()


def add(client, *addresses):
    for address in addresses:
        client.endpoints.add(Found(key=address, address=address))


def request(version=1, count=2, deadline_in_s=None, reason="overloaded"):
    now_s = time.monotonic()
    return InferRequest(
        model="scale",
        version=version,
        signature="serving_default",
        inputs={"x": rows(count)},
        rows=count,
        start_s=now_s,
        deadline_s=None if deadline_in_s is None else now_s + deadline_in_s,
        reason=reason,
    )


def test_answer_says_version_place_and_reason(client):
    """A reply from a server carries the version that answered, the server's address and the request's reason."""
    with scale_server({1: 2.0, 2: 3.0}) as server:
        add(client, server.address)
        reply = client.submit(request(version=2)).result(WAIT_S)
    np.testing.assert_array_equal(reply.outputs["y"], rows(2) * 3)
    assert (reply.version, reply.place, reply.reason) == (2, f"server:{server.address}", "overloaded")
    assert reply.latency_ms > 0


def test_large_tensors_pass(client):
    """A message far over gRPC's own 4 MiB goes there and back."""
    with scale_server({1: 2.0}) as server:
        add(client, server.address)
        big = request(count=700_000)
        reply = client.submit(big).result(WAIT_S * 3)
    assert big.inputs["x"].nbytes > 10 * 2**20
    np.testing.assert_array_equal(reply.outputs["y"], big.inputs["x"] * 2)


def test_server_that_lacks_the_version_is_followed_by_one_that_has_it(client):
    """NOT_FOUND at one endpoint means the next is asked."""
    with scale_server({1: 2.0}) as lacking, scale_server({2: 3.0}) as having:
        add(client, lacking.address, having.address)
        places = {client.submit(request(version=2)).result(WAIT_S).place for _ in range(4)}
    assert places == {f"server:{having.address}"}


def test_server_that_does_not_know_the_label_is_followed_by_one_that_does(client):
    """TensorFlow Serving gives an unknown label the code of a bad input, which nobody else would be asked after."""

    def knows(request):
        y = tensors.encode(tensors.decode(request.inputs["x"]))
        response = pb.PredictResponse(outputs={"y": y})
        response.model_spec.version.value = 2
        return response

    def lacks(_):
        return grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: stable"

    labelled = replace(request(), version=None, label="stable")
    with answering(predict=lacks) as lacking:
        add(client, lacking)
        with pytest.raises(ServerFailed, match="Unrecognized") as caught:
            client.submit(labelled).result(WAIT_S)
        assert caught.value.lacking
        with answering(predict=knows) as having:
            add(client, having)
            places = {client.submit(labelled).result(WAIT_S).place for _ in range(4)}
    assert places == {f"server:{having}"}


def test_dead_server_is_followed_by_a_living_one(client):
    """An endpoint nobody listens on costs one failed connection, and the request is answered elsewhere."""
    with scale_server({1: 2.0}) as gone:
        pass
    with scale_server({1: 2.0}) as alive:
        add(client, gone.address, alive.address)
        for _ in range(5):
            assert client.submit(request()).result(WAIT_S).place == f"server:{alive.address}"


def test_error_says_what_each_server_said(client):
    """When nobody answers, each server's own words are in the error, and whether all of them merely lack it."""
    with scale_server({1: 2.0}) as lacking, scale_server({1: 2.0}) as broken:
        broken.fail_with = grpc.StatusCode.INTERNAL
        add(client, lacking.address, broken.address)
        with pytest.raises(ServerFailed, match="Servable not found") as caught:
            client.submit(request(version=9)).result(WAIT_S)
    assert set(caught.value.asked) == {lacking.address, broken.address}
    assert not caught.value.lacking


def test_answer_as_another_version_is_refused(client):
    """A server that answers as another version than was asked for is not believed."""
    with scale_server({1: 2.0}) as server:
        server.answer_as = 2
        add(client, server.address)
        with pytest.raises(ServerFailed, match="asked for version 1, the server answered as version 2"):
            client.submit(request()).result(WAIT_S)


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.INVALID_ARGUMENT, InvalidInput), (grpc.StatusCode.FAILED_PRECONDITION, ServerRefused)],
)
def test_what_every_server_refuses_is_the_requests_fault(client, code, error):
    """The first refusal is the error, which knows whom else was asked; a server that lacks the version says nothing."""
    with scale_server({1: 2.0}) as first, scale_server({1: 2.0}) as second, scale_server({2: 2.0}) as lacking:
        first.fail_with = second.fail_with = code
        add(client, first.address, second.address, lacking.address)
        with pytest.raises(error, match="the test wants it so") as caught:
            client.submit(request()).result(WAIT_S)
    refused = [one.place.removeprefix("server:") for one in caught.value.tried if "Servable" not in one.outcome]
    assert set(refused) == {first.address, second.address}
    assert f"refused by server {refused[0]}" in str(caught.value)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
def test_what_one_server_refuses_another_may_take(client, code):
    """Whoever refuses some in a row is asked last."""
    with scale_server({1: 2.0}) as bad, scale_server({1: 2.0}) as good:
        bad.fail_with = code
        add(client, bad.address)
        for _ in range(REFUSALS_IN_A_ROW - 1):
            assert isinstance(client.submit(request()).exception(WAIT_S), InvalidInput | ServerRefused)
        add(client, good.address)
        good.fail_with = grpc.StatusCode.INTERNAL
        first = client.submit(request()).exception(WAIT_S)
        assert "the test wants it so" in str(first)
        good.fail_with = None
        replies = [client.submit(request()).result(WAIT_S) for _ in range(20)]
        assert {reply.place for reply in replies} == {f"server:{good.address}"}
        assert not any(reply.before for reply in replies)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
def test_a_refusal_is_no_load(client, code, caplog):
    """Far more are asked again than the budget for retries has room for; the log says who refused what another took."""
    count = 3 * BURST
    with far_server(lambda x: code) as bad, far_server(lambda x: time.sleep(0.01)) as good:
        add(client, bad.address, good.address)
        # Each asks for a label of its own, so that nothing is held against anybody for the next.
        asked = [replace(request(), version=None, label=f"label-{i}") for i in range(count)]
        replies = [client.submit(one).result(WAIT_S) for one in asked]
    refused = [one for reply in replies for one in reply.before]
    assert len(refused) > 2 * BURST
    assert all(one.place == f"server:{bad.address}" and "the test wants it so" in one.outcome for one in refused)
    said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(said) == 1
    assert f"server {bad.address} is set up otherwise than it should be" in said[0]


def test_no_copy_goes_to_a_misfit(client):
    """It is asked where no other is left, and not beside one that may still answer."""
    add(client, "127.0.0.1:1")
    wanted = Wanted.of(request())
    assert client.endpoints.acquire(wanted, copy=True) is not None
    client.endpoints.unfit(wanted, RemoteFault(Fault.INTERNAL, "127.0.0.1:1", "other outputs", unfit=True))
    assert client.endpoints.acquire(wanted, copy=True) is None
    assert client.endpoints.acquire(wanted) is not None


def test_a_refusal_beside_a_failure_is_no_fault_of_the_request(client):
    """Who failed might have taken it."""
    with scale_server({1: 2.0}) as bad, scale_server({1: 2.0}) as broken:
        bad.fail_with, broken.fail_with = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
        add(client, bad.address, broken.address)
        with pytest.raises(ServerFailed, match=r"invalid input: .*the test wants it so"):
            client.submit(request()).result(WAIT_S)


def test_deadline_travels_and_is_kept(client):
    """A server that hangs costs no more than the deadline, and the error says who was asked."""
    with scale_server({1: 2.0}) as server:
        server.hold.clear()
        add(client, server.address)
        with pytest.raises(DeadlineExceeded, match=server.address):
            client.submit(request(deadline_in_s=0.3)).result(WAIT_S)


def test_failing_server_is_left_alone(client):
    """After a few failures in a row the breaker keeps requests away, and says so."""
    with scale_server({1: 2.0}) as server:
        server.fail_with = grpc.StatusCode.INTERNAL
        add(client, server.address)
        for _ in range(3):
            with pytest.raises(ServerFailed, match="the test wants it so"):
                client.submit(request()).result(WAIT_S)
        assert client.expects(request()) is None
        with pytest.raises(ServerFailed, match="not asked, it failed before"):
            client.submit(request()).result(WAIT_S)


def test_cancelled_call_ends(client):
    """Cancelling a request ends its call; the endpoint is not blamed."""
    with scale_server({1: 2.0}) as server:
        server.hold.clear()
        add(client, server.address)
        future = client.submit(request())
        assert future.cancel()
        server.hold.set()
        with pytest.raises(CancelledError):
            future.result(0)
        assert client.submit(request()).result(WAIT_S).version == 1


def test_signatures_are_asked_for_once(client):
    """The signatures of a numbered version are remembered: they can't change."""
    with scale_server({1: 2.0}) as server:
        add(client, server.address)
        now_s = time.monotonic()
        first = client.describe("scale", 1, None, now_s, None).result(WAIT_S)
    second = client.describe("scale", 1, None, now_s, None).result(WAIT_S)
    assert first is second
    assert str(first["serving_default"].input("x")) == "float32[-1, 4]"
    assert first["serving_default"].batch_axis == 0


def test_server_that_hangs_gives_way_to_a_healthy_one(client):
    """Callers that give up at their deadlines are few: the hanging server is not chosen again and again."""
    deadline_s = 0.3
    with scale_server({1: 2.0}) as hanging, scale_server({1: 2.0}) as healthy:
        hanging.hold.clear()
        add(client, hanging.address, healthy.address)
        given_up = 0
        for _ in range(30):
            future = client.submit(request(deadline_in_s=deadline_s))
            try:
                future.result(deadline_s)
            except TimeoutError:
                future.cancel()
                given_up += 1
        assert given_up <= FAILURES_TO_OPEN
        assert len(healthy.asked) >= 30 - FAILURES_TO_OPEN


def test_calls_under_way_are_spread():
    """Of two servers that are alike the one with less to do is asked, before any has answered."""
    still = FakeClock(time.monotonic())  # The age of what is under way counts too, and would tip the scales.
    table = EndpointTable(lambda address: Endpoint(address, still), clock=still)
    made = closing(PromptClient(table, clock=still, timeout_s=WAIT_S))
    with made as client, scale_server({1: 2.0}) as first, scale_server({1: 2.0}) as second:
        first.hold.clear()
        second.hold.clear()
        add(client, first.address, second.address)
        futures = [client.submit(request()) for _ in range(6)]
        until(lambda: sum(one.in_flight for one in client.endpoints.all()) == 6, "the calls")
        assert [one.in_flight for one in client.endpoints.all()] == [3, 3]
        first.hold.set()
        second.hold.set()
        for future in futures:
            future.result(WAIT_S)


def test_input_without_a_wire_form_is_the_callers_fault(client):
    """What can't be encoded is InvalidInput in the future, and no server is held to account."""
    with scale_server({1: 2.0}) as server:
        add(client, server.address)
        odd = replace(request(), inputs={"x": np.array([[object()]])})
        with pytest.raises(InvalidInput, match=r"scale/1: can't be sent .* only bytes and str"):
            client.submit(odd).result(WAIT_S)
        (endpoint,) = client.endpoints.all()
        assert (endpoint.in_flight, endpoint.state.value) == (0, "closed")


def odd_reply(*outputs):
    protos = {f"y{i}": tensors.encode(array) for i, array in enumerate(outputs)}
    response = pb.PredictResponse(outputs=protos)
    response.model_spec.version.value = 1
    return response


@pytest.mark.parametrize(
    ("response", "match"),
    [
        (odd_reply(), "internal: unreadable answer: the answer has no output"),
        (odd_reply(rows(3)), "the request has 2 rows"),
    ],
)
def test_reply_that_does_not_fit_is_a_failure(client, response, match):
    """An answer without outputs or with other rows than the request's is that server's failure."""
    with answering(predict=lambda _: response) as address:
        add(client, address)
        with pytest.raises(ServerFailed, match=match):
            client.submit(replace(request(), batched=True)).result(WAIT_S)


@pytest.mark.parametrize("response", [odd_reply(), odd_reply(rows(3)), pb.PredictResponse()])
def test_server_whose_answers_are_of_no_use_is_left_alone(client, response):
    """However fast they come, answers that can't be used open the breaker, and are no sample of the answer time."""
    with answering(predict=lambda _: response) as address:
        add(client, address)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ServerFailed, match=r"unreadable answer|unfit answer"):
                client.submit(replace(request(), batched=True)).result(WAIT_S)
        (endpoint,) = client.endpoints.all()
        assert endpoint.state is not BreakerState.CLOSED


def test_metadata_that_can_not_be_used_say_nothing_of_the_server(client):
    """A model whose signatures nobody can use here keeps no request from the server's other models."""
    with answering(metadata=lambda _: pb.GetModelMetadataResponse()) as address:
        add(client, address)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ServerFailed, match="no usable signature"):
                client.describe("scale", 1, None, time.monotonic(), None).result(WAIT_S)
        (endpoint,) = client.endpoints.all()
        assert endpoint.state is BreakerState.CLOSED


def test_metadata_without_signatures_is_a_failure(client):
    """A server that knows no signature of the version has failed; the caller gets no empty answer."""
    with answering(metadata=lambda _: pb.GetModelMetadataResponse()) as address:
        add(client, address)
        with pytest.raises(ServerFailed, match="no usable signature"):
            client.describe("scale", 1, None, time.monotonic(), None).result(WAIT_S)


def test_signatures_are_described_from_many_threads(client):
    """More versions than are remembered, asked for from several threads, are all described."""
    versions = range(1, 300)
    with scale_server(dict.fromkeys(versions, 2.0)) as server, ThreadPoolExecutor(4) as pool:
        add(client, server.address)

        def describe(version):
            return client.describe("scale", version % 299 + 1, None, time.monotonic(), None).result(WAIT_S)

        found = list(pool.map(describe, [*versions, *versions, *versions]))
    assert all("serving_default" in one for one in found)


def test_endpoints_are_bounded():
    """A flood of announcements adds no more endpoints than the bound."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    for i in range(MAX_ENDPOINTS + 20):
        table.add(Found(key=str(i), address=f"127.0.0.1:{i + 1}"))
    assert len(table.all()) == MAX_ENDPOINTS
    table.close()


def test_server_that_is_withdrawn_answers_what_it_was_asked(client):
    """It drains after it has said that it goes, or that it is somewhere else now; then the connection is closed."""
    with far_server() as server, far_server() as other:
        client.endpoints.add(Found(key="robot", address=server.address))
        (first,) = client.endpoints.all()
        for leave in (
            lambda: client.endpoints.add(Found(key="robot", address=other.address)),
            lambda: client.endpoints.remove("robot"),
        ):
            server.hold.clear()
            other.hold.clear()
            (endpoint,) = client.endpoints.all()
            future = client.submit(request())
            leave()
            assert endpoint not in client.endpoints.all()
            client.endpoints.sweep()
            server.hold.set()
            other.hold.set()
            assert future.result(WAIT_S).place == f"server:{endpoint.address}"
        until(lambda: first.idle)
        client.endpoints.sweep()
        turn = first.try_begin()
        late = first.call(turn, PREDICT, pb.PredictRequest(), time.monotonic() + WAIT_S, lambda response: response)
        assert late.exception(WAIT_S).unreachable


def test_server_that_moved_is_taken_at_its_new_address():
    """An announcement with another address replaces the endpoint; a withdrawal removes it."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    table.add(Found(key="id", address="127.0.0.1:1"))
    table.add(Found(key="id", address="127.0.0.1:2"))
    assert [one.address for one in table.all()] == ["127.0.0.1:2"]
    table.remove("id")
    assert table.all() == []
    assert not table.wait_for_any(0)
