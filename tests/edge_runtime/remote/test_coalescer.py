"""Requests that wait for the same model leave as one call."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import grpc
import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import rows
from support.far_servers import LONG_S, WAIT_S, far_server, row_request, until
from support.prompt_client import PromptClient

from edge_runtime import DeadlineExceeded, InvalidInput, RuntimeClosed, ServerFailed, ServerRefused
from edge_runtime.remote import coalescer
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.lanes import LOST_S, MAX_BARE_IN_FLIGHT, MAX_ROWS, MAX_STUCK

POISON = 1e6


def submit(client, request):
    """Hands it over without waiting until it is sent."""
    return RemoteClient.submit(client, request)


@pytest.fixture
def clock():
    """Stands still, so that no call takes too long to be waited for unless the test wants it."""
    return FakeClock(time.monotonic())


@pytest.fixture
def client(clock):
    table = EndpointTable(lambda address: Endpoint(address, clock))
    made = PromptClient(table, clock=clock, timeout_s=LONG_S)
    yield made
    made.close()


@pytest.fixture
def live():
    """A client whose clock goes."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    made = PromptClient(table, clock=time.monotonic, timeout_s=LONG_S)
    yield made
    made.close()


@pytest.fixture
def live_server(live):
    with far_server() as running:
        live.endpoints.add(Found(key=running.address, address=running.address))
        yield running


@pytest.fixture
def server(client):
    with far_server() as running:
        client.endpoints.add(Found(key=running.address, address=running.address))
        yield running


def under_way(client, server, **fields):
    """As many calls as go alone, held by the server."""
    server.hold.clear()
    first = [client.submit(row_request(i, **fields)) for i in range(MAX_BARE_IN_FLIGHT)]
    server.await_calls(MAX_BARE_IN_FLIGHT)
    return first


def check(future, start, count=1):
    """Its own rows came back."""
    np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(count, start) * 2)


def test_a_burst_is_a_few_calls(client, server):
    """What waits while two calls are under way leaves together; everyone gets the answer to its own rows."""
    first = under_way(client, server)
    futures = [client.submit(row_request(i, count=1 + i % 3)) for i in range(200)]
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i, 1 + i % 3)
    for i, future in enumerate(first):
        check(future, i)
    assert len(server.calls) <= MAX_BARE_IN_FLIGHT + 4
    assert max(server.calls) > MAX_ROWS / 2


def test_a_request_that_is_alone_goes_at_once(client, server):
    """Where nothing is under way nobody waits for company."""
    for i in range(4):
        check(client.submit(row_request(i)), i)
    assert server.calls == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"version": 2},
        {"version": None, "label": "stable"},
        {"signature": "other"},
        {"fingerprint": "sha256:ab"},
        {"reason": "version-missing"},
        {"inputs": {"x": np.ones((1, 4), np.float64)}},
        {"inputs": {"x": np.ones((1, 5), np.float32)}},
    ],
)
def test_what_differs_does_not_wait_for_each_other(client, server, other):
    """Requests of another version, label, signature, dtype, shape or preprocessing never share a call."""
    under_way(client, server)
    waiting = [client.submit(row_request(i)) for i in range(3)]
    client.submit(row_request(**other))
    server.await_calls(MAX_BARE_IN_FLIGHT + 1)
    server.hold.set()
    for i, future in enumerate(waiting):
        check(future, i)


def test_rows_of_an_unbatched_signature_are_never_joined(client, server):
    """Where the signature doesn't say that rows stand alone each request is a call of its own."""
    server.hold.clear()
    futures = [client.submit(row_request(i, batched=False)) for i in range(8)]
    server.await_calls(8)
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i)
    assert server.calls == [1] * 8


def test_reply_is_the_members_own(client, server):
    """Each has its own reason and time, and arrays that can be written to and hold nobody else's rows."""
    under_way(client, server)
    one, two = (client.submit(row_request(i, reason=reason)) for i, reason in enumerate(("overloaded", "too-slow")))
    server.hold.set()
    first, second = one.result(WAIT_S), two.result(WAIT_S)
    assert (first.reason, second.reason) == ("overloaded", "too-slow")
    first.outputs["y"][:] = -1
    assert first.outputs["y"].base is None
    check(two, 1)


def test_a_late_member_leaves_and_the_others_stay(live, live_server):
    """A deadline that passes ends its own request alone, in the queue as in a call that others wait for."""
    under_way(live, live_server)
    late = live.submit(row_request(5, within_s=0.05))
    patient = live.submit(row_request(6, within_s=WAIT_S))
    with pytest.raises(DeadlineExceeded, match="waiting"):
        late.result(WAIT_S)
    live_server.hold.set()
    check(patient, 6)


def test_a_member_of_a_call_is_late_by_its_own_deadline(live, live_server):
    """The call lives as long as its latest member; whoever asked for less gets its error in time."""
    under_way(live, live_server)
    late = live.submit(row_request(5, within_s=0.4))
    patient = live.submit(row_request(6))
    live_server.await_calls(MAX_BARE_IN_FLIGHT + 1)  # What waits does not wait for calls that hang.
    with pytest.raises(DeadlineExceeded, match="waiting for a server"):
        late.result(WAIT_S)
    live_server.hold.set()
    check(patient, 6)


def test_whoever_waits_and_is_cancelled_is_not_sent(client, server):
    """A cancelled request frees its place in the queue."""
    under_way(client, server)
    gone = [client.submit(row_request(i, count=3)) for i in range(5)]
    stays = client.submit(row_request(9))
    assert all(future.cancel() for future in gone)
    server.hold.set()
    check(stays, 9)
    assert set(server.calls) == {1}
    with pytest.raises(CancelledError):
        gone[0].result(0)


def test_a_call_ends_when_its_last_member_has_gone(client, server, clock):
    """One who leaves does not take the call from the others; the last one ends it."""
    first = under_way(client, server)
    members = [client.submit(row_request(i)) for i in range(2)]
    clock.advance(1)  # What waits does not wait for calls that hang.
    server.await_calls(MAX_BARE_IN_FLIGHT + 1)
    (endpoint,) = client.endpoints.all()
    assert members[0].cancel()
    assert endpoint.in_flight == MAX_BARE_IN_FLIGHT + 1
    assert members[1].cancel()
    until(lambda: endpoint.in_flight == MAX_BARE_IN_FLIGHT, "the call's end")
    server.hold.set()
    for i, future in enumerate(first):
        check(future, i)


def test_one_bad_request_harms_nobody_else(client, server):
    """A call that is refused is asked again in parts, until only the request that is at fault is refused."""
    server.behaviour = lambda x: grpc.StatusCode.INVALID_ARGUMENT if (x >= POISON).any() else None
    under_way(client, server)
    futures = {i: client.submit(row_request(POISON if i == 7 else i)) for i in range(20)}
    server.hold.set()
    with pytest.raises(InvalidInput, match="the test wants it so"):
        futures.pop(7).result(WAIT_S)
    for i, future in futures.items():
        check(future, i)


@pytest.mark.parametrize(
    ("code", "error"),
    [("INTERNAL", ServerFailed), ("UNKNOWN", ServerFailed), ("FAILED_PRECONDITION", ServerRefused)],
)
def test_one_request_that_a_model_fails_on_harms_nobody_else(client, server, code, error):
    """The requests of a call that fails in the server are asked once more, each by itself."""
    server.behaviour = lambda x: grpc.StatusCode[code] if (x >= POISON).any() else None
    first = under_way(client, server)
    futures = {i: client.submit(row_request(POISON if i == 7 else i)) for i in range(20)}
    server.hold.set()
    with pytest.raises(error, match="the test wants it so"):
        futures.pop(7).result(WAIT_S)
    for i, future in (*futures.items(), *enumerate(first)):
        check(future, i)
    assert sorted(server.calls) == [1] * (len(first) + 20) + [20]


@pytest.mark.parametrize(("code", "times"), [("INTERNAL", 1), ("INVALID_ARGUMENT", 2)])
def test_a_reply_tells_of_the_calls_that_failed_together(client, server, code, times):
    """Each call that a request was in is in `tried`, also of halves; and in the error of who failed."""
    server.behaviour = lambda x: grpc.StatusCode[code] if (x >= POISON).any() else None
    under_way(client, server)
    futures = [client.submit(row_request(POISON if i == 3 else i)) for i in range(4)]
    server.hold.set()
    tried = futures[2].result(WAIT_S).tried
    assert [one.outcome.split(":")[0] for one in tried] == ["failed"] * times + ["answered"]
    assert all(one.place == f"server:{server.address}" for one in tried)
    error = futures[3].exception(WAIT_S)
    assert [one.outcome.split(":")[0] for one in error.tried] == ["failed"] * (times + 1)


@pytest.mark.parametrize("policy", ["prefer_device", "only_server"])
def test_a_call_too_large_for_the_server_is_divided(client, policy):
    """What a server does not read in one message it is sent in smaller ones; one that is too large alone fails."""
    wide = 2**17
    with far_server(max_bytes=2**20) as server:
        client.endpoints.add(Found(key=server.address, address=server.address))
        under_way(client, server)
        futures = [
            client.submit(row_request(inputs={"x": np.full((1, wide), i, np.float32)}, policy=policy)) for i in range(8)
        ]
        server.hold.set()
        for i, future in enumerate(futures):
            assert future.result(WAIT_S).outputs["y"][0, 0] == 2 * i
        with pytest.raises(ServerFailed, match=r"too large: .*larger than max"):
            client.submit(row_request(inputs={"x": np.zeros((1, 4 * wide), np.float32)}, policy=policy)).result(WAIT_S)


def test_what_has_no_wire_form_harms_nobody_else(client, server):
    """An input that can't be encoded is refused; those that would have gone with it go without it."""

    def text(*values):
        return row_request(inputs={"x": np.array([[value] for value in values], object)})

    server.behaviour = lambda x: grpc.StatusCode.NOT_FOUND
    server.hold.clear()
    first = [client.submit(text(b"a")) for _ in range(MAX_BARE_IN_FLIGHT)]
    server.await_calls(MAX_BARE_IN_FLIGHT)
    good, bad = client.submit(text(b"b")), client.submit(text({"no": "bytes"}))
    server.hold.set()
    with pytest.raises(InvalidInput, match="only bytes and str"):
        bad.result(WAIT_S)
    for future in (good, *first):
        with pytest.raises(ServerFailed):
            future.result(WAIT_S)


def test_what_a_server_takes_at_most_is_learnt(client, server):
    """A server with a smaller largest batch refuses one call, and is then sent no more than it takes."""
    server.behaviour = lambda x: grpc.StatusCode.INVALID_ARGUMENT if len(x) > 16 else None
    for turn in range(3):
        server.calls.clear()
        under_way(client, server)
        futures = [client.submit(row_request(i)) for i in range(100)]
        server.hold.set()
        for i, future in enumerate(futures):
            check(future, i)
        if turn:
            assert max(server.calls) <= 16


def test_a_server_that_hangs_does_not_hold_up_what_another_would_answer(client, server, clock):
    """Calls that take much longer than usual count no more: those behind them leave."""
    first = under_way(client, server)
    futures = [client.submit(row_request(i)) for i in range(50)]
    with far_server() as other:
        client.endpoints.add(Found(key="other", address=other.address))
        clock.advance(1)
        for i, future in enumerate(futures):
            check(future, i)
        assert not any(future.done() for future in first)
        server.hold.set()
        for i, future in enumerate(first):
            check(future, i)


def test_calls_that_never_end_hold_nobody_up_for_good(client, server, clock):
    """So many may hang that nothing leaves any more: until it is long enough ago."""
    server.hold.clear()
    hanging = MAX_BARE_IN_FLIGHT + MAX_STUCK
    futures = [client.submit(row_request(i)) for i in range(MAX_BARE_IN_FLIGHT)]
    for count in range(MAX_BARE_IN_FLIGHT, hanging):
        server.await_calls(count)
        clock.advance(1)
        futures.append(client.submit(row_request(count)))
    server.await_calls(hanging)
    clock.advance(1)
    futures.append(client.submit(row_request(hanging)))
    assert "1 waiting" in repr(client._coalescer)
    clock.advance(LOST_S)
    server.await_calls(hanging + 1)
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i)


def test_what_no_timer_looks_after_is_looked_after_by_the_next(client, server, clock, monkeypatch):
    """Where as many wait for timers as may, a kind of requests is not left without one for good."""
    first = under_way(client, server)
    with monkeypatch.context() as patched:
        patched.setattr(client._later, "call", lambda delay_s, what: None)
        futures = [client.submit(row_request(0))]
    futures.append(client.submit(row_request(1)))
    clock.advance(1)
    server.await_calls(len(first) + 1)
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i)


def test_all_that_wait_learn_that_no_server_is_left(client, server):
    """However many wait, each gets the error, and soon."""
    server.behaviour = lambda x: grpc.StatusCode.NOT_FOUND
    under_way(client, server)
    futures = [client.submit(row_request(i, count=MAX_ROWS)) for i in range(300)]
    client.endpoints.remove(server.address)
    server.hold.set()
    for future in futures:
        with pytest.raises(ServerFailed):
            future.result(WAIT_S)


@pytest.mark.parametrize("policy", ["prefer_device", "only_server"])
def test_closing_ends_what_waits_and_what_is_under_way(client, server, policy):
    """Nobody is left waiting when the client is closed, and nobody is told of a server that failed."""
    futures = [*under_way(client, server, policy=policy), client.submit(row_request(1, policy=policy))]
    client.close()
    for future in futures:
        with pytest.raises(RuntimeClosed, match="scale/1: the runtime has been closed"):
            future.result(WAIT_S)


def test_what_waits_is_bounded(client, server, monkeypatch):
    """Past the bound a request fails at once, and the text says how full the queue is."""
    monkeypatch.setattr(coalescer, "MAX_WAITING", 3)
    under_way(client, server)
    futures = [client.submit(row_request(i)) for i in range(4)]
    with pytest.raises(ServerFailed, match="the queue to the servers: full: 3 requests"):
        futures[-1].result(WAIT_S)
    server.hold.set()
    for i, future in enumerate(futures[:-1]):
        check(future, i)


def test_what_would_be_late_by_then_is_not_sent(client, server, clock):
    """Who has waited too long goes back to the device in time, unless nobody else may answer; others go on."""
    under_way(client, server)
    late = client.submit(row_request(5, start_s=clock(), deadline_s=clock() + LONG_S))
    only = client.submit(row_request(6, start_s=clock(), deadline_s=clock() + LONG_S, policy="only_server"))
    goes = client.submit(row_request(7))
    clock.advance(LONG_S - 1e-4)
    with pytest.raises(ServerFailed, match="not sent, after it had waited"):
        late.result(WAIT_S)
    server.hold.set()
    check(goes, 7)
    check(only, 6)


def test_a_thin_line_has_small_calls(client, server, clock, monkeypatch):
    """So many go together that their bytes arrive within the nearest deadline that can be kept."""
    monkeypatch.setattr(client.endpoints, "expects", lambda wanted: wanted.nbytes / 1600)
    under_way(client, server)
    futures = [client.submit(row_request(i, start_s=clock(), deadline_s=clock() + 1.0)) for i in range(64)]
    hopeless = [client.submit(row_request(i, start_s=clock(), deadline_s=clock() + 1e-6)) for i in range(2)]
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i)
    for future in hopeless:
        assert future.exception(WAIT_S) is not None
    assert 16 <= max(server.calls) <= 1600 / rows(1).nbytes


def test_high_priority_leaves_first(client, server):
    """Where not all that wait fit into the next call, those of high priority are in it."""
    under_way(client, server)
    futures = [client.submit(row_request(i, count=MAX_ROWS)) for i in range(3)]
    urgent = client.submit(row_request(7, count=2, priority=0))
    server.hold.set()
    for i, future in enumerate(futures):
        check(future, i, MAX_ROWS)
    check(urgent, 7, 2)
    assert 2 in server.calls[MAX_BARE_IN_FLIGHT : 2 * MAX_BARE_IN_FLIGHT]  # Two leave at once.


def test_preprocessing_goes_with_the_request(client, server):
    """The server is told by which preprocessing the inputs were made, where that is known."""
    check(client.submit(row_request(1, fingerprint="sha256:ab")), 1)
    check(client.submit(row_request(2)), 2)
    assert [one.get("edge-preprocessing") for one in server.metadata] == ["sha256:ab", None]


def test_what_the_main_thread_hands_over_counts_by_its_own_size(client, server, monkeypatch):
    """A large request behind small ones is taken, as long as all together have room; then it is said what waits."""
    large = row_request(0, count=1000)
    monkeypatch.setattr(coalescer, "MAX_WAITING_BYTES", 2 * large.nbytes)
    go = threading.Event()
    client._sender.run(lambda: go.wait(WAIT_S))
    small = [submit(client, row_request(i)) for i in range(20)]
    taken, refused = submit(client, large), submit(client, row_request(0, count=1001))
    waiting = 20 * row_request().nbytes + large.nbytes
    with pytest.raises(ServerFailed, match=f"full: 2[12] requests with {waiting} bytes wait"):
        refused.result(0)
    go.set()
    for future in (*small, taken):
        assert future.result(WAIT_S).place == f"server:{server.address}"
