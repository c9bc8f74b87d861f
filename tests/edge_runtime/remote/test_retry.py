import contextlib
import itertools

import grpc
import numpy as np
import pytest
from msgspec.structs import replace
from support.clock import FakeClock
from support.edge_models import rows
from support.edge_servers import scale_server
from support.far_servers import until
from support.prompt_client import PromptClient, handed_over
from support.remote_servers import WAIT_S, FakeLater, answering

from edge_runtime import DeadlineExceeded, InvalidInput, RuntimeClosed, ServerFailed
from edge_runtime.remote.catalog import ServedCatalog, ServedModel, ServedVersion, Serves
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.group import Group
from edge_runtime.remote.journey import LEAST_WAIT_S, MAX_ATTEMPTS, RETRY_WAITS_S, SOUGHT_EVERY_S, TRIAL_S
from edge_runtime.routing.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S
from edge_runtime.types import InferRequest

REFUSALS = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def later():
    return FakeLater()


@pytest.fixture
def client(clock, later):
    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    made = PromptClient(table, clock=clock, timeout_s=WAIT_S, later=later)
    yield made
    made.close()


@pytest.fixture
def server(client):
    with scale_server({1: 2.0}) as running:
        add(client, running.address)
        yield running


@pytest.fixture
def refused():
    """An address where nobody listens any more."""
    with scale_server({}) as gone:
        pass
    return gone.address


def add(client, *addresses):
    for address in addresses:
        client.endpoints.add(Found(key=address, address=address))


def told(client, clock, serves):
    """The only server has said that of version 3."""
    clock.advance(0.01)
    (endpoint,) = client.endpoints.all()
    model = ServedModel(versions={3: ServedVersion(state="?", serves=serves)}, labels={}, default=0)
    endpoint.told(ServedCatalog(models={"scale": model}, complete=True), clock())
    client.endpoints.news()


def request(clock, *, version=1, within_s=None, reason="version-missing"):
    return InferRequest(
        model="scale",
        version=version,
        signature="serving_default",
        inputs={"x": rows(2)},
        rows=2,
        start_s=clock(),
        deadline_s=None if within_s is None else clock() + within_s,
        reason=reason,
    )


def failure(future):
    error = future.exception(WAIT_S)
    assert isinstance(error, ServerFailed)
    return error


@pytest.mark.parametrize("code", REFUSALS)
def test_server_that_is_loading_or_full_is_asked_again(client, server, clock, later, code):
    """A request that nobody else can answer waits shortly, twice as long each time, and is then answered."""
    server.fail_with = code
    future = client.submit(request(clock, within_s=5))
    later.pass_time()
    later.await_waits(2)
    server.fail_with = None
    later.pass_time()
    np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(2) * 2)
    assert later.waits_s == [0.05, 0.1]


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("reason", ["overloaded", "engine-failed"])
def test_where_the_device_can_answer_nobody_waits(client, server, clock, later, code, reason):
    """The router gets the failure at once where the device is left to ask, and it is no lack of the version."""
    server.fail_with = code
    assert not failure(client.submit(request(clock, reason=reason))).lacking
    assert later.waits_s == []


@pytest.mark.parametrize("within_s", [None, 5.0])
def test_tries_go_on_until_the_time_is_over(client, server, clock, later, within_s):
    """A queue that stays full ends the request when an answer would be too late, and is asked until just before that.

    Where there is no deadline that is the longest that one call may take.
    """
    server.fail_with = grpc.StatusCode.RESOURCE_EXHAUSTED
    future = client.submit(request(clock, within_s=within_s))
    for count in itertools.count(1):
        until(lambda count=count: future.done() or len(later.waits_s) >= count)
        if future.done():
            break
        clock.advance(later.waits_s[-1])
        later.pass_time()
    error = failure(future)
    assert tuple(later.waits_s[:6]) == RETRY_WAITS_S[:6]
    assert max(later.waits_s) <= max(RETRY_WAITS_S)
    assert 0 <= (within_s or WAIT_S) - sum(later.waits_s) < 2 * LEAST_WAIT_S
    assert not error.lacking
    assert "queue full" in str(error)


def test_what_is_loading_and_not_found_is_awaited(client, server, clock, later):
    """TensorFlow Serving says that it doesn't find what it is loading; only of what is not coming is that the end."""
    told(client, clock, Serves.SOON)
    future = client.submit(request(clock, version=3, within_s=5))
    later.await_waits(1)
    assert client.awaits(request(clock, version=3))
    server.factors[3] = 3.0
    later.pass_time()
    np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(2) * 3)
    told(client, clock, Serves.NO)
    del server.factors[3]
    assert not client.awaits(request(clock, version=3))
    assert failure(client.submit(request(clock, version=3, within_s=5))).lacking


def test_no_wait_goes_beyond_the_deadline(client, server, clock, later):
    """A wait that would end after the deadline is not begun: the caller learns at once why."""
    server.fail_with = grpc.StatusCode.UNAVAILABLE
    failure(client.submit(request(clock, within_s=RETRY_WAITS_S[0] / 2)))
    assert later.waits_s == []


def test_signatures_are_asked_for_again(client, clock, later):
    """A server that is just loading the model is asked again for its signatures."""
    with answering(metadata=lambda _: grpc.StatusCode.UNAVAILABLE) as address:
        add(client, address)
        future = client.describe("scale", 1, None, clock(), None)
        later.pass_time()
        later.pass_time()
        assert future.cancel()
    assert later.waits_s[:2] == [0.05, 0.1]


def test_cancelled_request_is_not_asked_again(client, server, clock, later):
    """Whoever gave up while it waited costs the server nothing more."""
    server.fail_with = grpc.StatusCode.UNAVAILABLE
    future = client.submit(request(clock))
    later.await_waits(1)
    assert future.cancel()
    handed_over(client)
    server.fail_with = None
    later.pass_time()
    assert server.asked == []


def test_closing_ends_what_waits(client, server, clock, later):
    """A request that waits when the client is closed fails, instead of never."""
    server.fail_with = grpc.StatusCode.UNAVAILABLE
    future = client.submit(request(clock))
    later.await_waits(1)
    client.close()
    with pytest.raises(RuntimeClosed):
        future.result(WAIT_S)


def test_nobody_listening_fails_at_once(client, clock, later, refused):
    """A refused connection is not waited for, and means that nobody there has the version."""
    add(client, refused)
    error = failure(client.submit(request(clock)))
    assert error.lacking
    assert "can't be reached" in error.asked[refused]
    assert later.waits_s == []


def test_endpoint_that_stays_unreachable_is_known_as_such(client, clock, refused):
    """While the breaker keeps requests from a server that can't be reached, it still counts as not there."""
    add(client, refused)
    for _ in range(FAILURES_TO_OPEN):
        failure(client.submit(request(clock)))
    error = failure(client.submit(request(clock)))
    assert error.lacking
    assert error.asked[refused] == "not asked, unreachable for 0.0 s (breaker open)"


def test_no_server_known_is_a_lack(client, clock):
    """Without any server nobody has the version."""
    error = failure(client.submit(request(clock)))
    assert error.lacking
    assert "none is known" in str(error)


def test_all_that_were_asked_lack_it(client, server, clock, refused):
    """Servers that say not found or are not there lack it, and the text says which is which."""
    add(client, refused)
    error = failure(client.submit(request(clock, version=9)))
    assert error.lacking
    assert error.asked[server.address].startswith("not found: ")
    assert error.asked[refused].startswith("can't be reached: ")


def test_loading_server_does_not_lack_it(client, server, clock):
    """A server that is loading may have the version in a moment."""
    server.fail_with = grpc.StatusCode.UNAVAILABLE
    error = failure(client.submit(request(clock, within_s=0.01)))
    assert not error.lacking
    assert error.asked[server.address].startswith("not ready: ")


def test_servers_that_were_not_asked_may_have_it(client, clock):
    """Where more servers are known than a request asks, nobody can say that all lack the version."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(scale_server({1: 2.0})) for _ in range(MAX_ATTEMPTS + 1)]
        add(client, *(server.address for server in servers))
        for server in servers:
            server.fail_with = grpc.StatusCode.INTERNAL
        error = failure(client.submit(request(clock, version=9)))
    assert not error.lacking
    assert sum(text == f"not asked, {MAX_ATTEMPTS} others were" for text in error.asked.values()) == 1


def test_the_first_server_is_awaited_while_it_is_sought(client, clock, later):
    """Just after the opening what only servers can answer waits until one is found, and no longer than that."""
    client.endpoints.sought_until_s = clock() + 3.0
    only_server = replace(request(clock, reason="policy"), policy="only_server")
    pending, hasty = client.submit(only_server), client.submit(request(clock, reason="policy"))
    assert failure(hasty).asked == {}
    assert later.waits_s == [SOUGHT_EVERY_S]
    with scale_server({1: 2.0}) as running:
        add(client, running.address)
        later.pass_time()
        assert pending.result(WAIT_S).place == f"server:{running.address}"


@pytest.mark.parametrize(("within_s", "error"), [(1.0, DeadlineExceeded), (None, ServerFailed)])
def test_the_first_server_is_not_awaited_for_ever(client, clock, later, within_s, error):
    """The deadline ends it, or the time in which one is found if there is one."""
    client.endpoints.sought_until_s = clock() + 3.0
    pending = client.submit(request(clock, within_s=within_s))
    assert not pending.done()
    clock.advance(3.0)
    later.pass_time()
    assert isinstance(pending.exception(WAIT_S), error)


@pytest.fixture
def trial(client, clock):
    """A server that has failed and is back, while one request finds that out: the server, and that request."""
    with scale_server({1: 2.0, 2: 3.0}) as running:
        add(client, running.address)
        running.fail_with = grpc.StatusCode.INTERNAL
        for _ in range(FAILURES_TO_OPEN):
            failure(client.submit(request(clock, reason="policy")))
        running.fail_with = None
        running.hold.clear()
        running.reached.clear()
        clock.advance(FIRST_OPEN_S)
        probe = client.submit(request(clock, reason="policy"))
        assert running.reached.wait(WAIT_S)
        yield running, probe
        running.hold.set()


def test_what_is_tried_is_awaited(client, clock, later, trial):
    """Whom nobody else can answer waits while a request finds out whether a server is back, and is answered by it."""
    server, probe = trial
    asked = request(clock, version=2, within_s=5)
    assert client.expects(asked) is None
    assert client.awaits(asked)
    assert (
        failure(client.submit(request(clock, version=2, reason="overloaded"))).asked[server.address].startswith("not")
    )
    pending = client.submit(asked)
    for _ in range(5):
        clock.advance(later.waits_s[-1])
        later.pass_time()
    later.await_waits(6)
    assert later.waits_s == [SOUGHT_EVERY_S * factor for factor in (1, 2, 4, 8, 16, 16)]
    server.hold.set()
    probe.result(WAIT_S)
    later.pass_time()
    np.testing.assert_array_equal(pending.result(WAIT_S).outputs["y"], rows(2) * 3)


def test_what_is_tried_in_vain_is_not_awaited_longer(client, clock, later, trial):
    """Once it has failed again nobody is left to ask."""
    server, probe = trial
    pending = client.submit(request(clock, version=2, within_s=5))
    server.fail_with = grpc.StatusCode.INTERNAL
    server.hold.set()
    failure(probe)
    later.pass_time()
    assert failure(pending).asked == {server.address: "not asked, it failed before (breaker open)"}


@pytest.mark.parametrize("within_s", [0.5, 5.0, None])
def test_a_trial_is_awaited_for_a_bounded_time(client, clock, later, trial, within_s):
    """Two seconds, or half of its time, and no longer than the deadline lets: then who waits is told of the server."""
    server, _ = trial
    begin_s = clock()
    pending = client.submit(request(clock, version=2, within_s=within_s))
    while not pending.done():
        count = len(later.waits_s)
        clock.advance(later.waits_s[-1])
        later.pass_time()
        until(lambda count=count: pending.done() or len(later.waits_s) > count)
    bound_s = TRIAL_S if within_s is None else min(max(TRIAL_S, within_s / 2), within_s)
    assert bound_s - 2 * LEAST_WAIT_S < clock() - begin_s < bound_s
    assert failure(pending).asked == {server.address: "not asked, it failed before (breaker half-open)"}


def test_who_is_refused_elsewhere_waits_for_no_trial(client, clock, later, trial):
    """What a healthy server says of the request is the answer, at once."""
    with scale_server({2: 3.0}) as healthy:
        add(client, healthy.address)
        healthy.fail_with = grpc.StatusCode.INVALID_ARGUMENT
        error = client.submit(request(clock, version=2, within_s=5)).exception(WAIT_S)
        assert isinstance(error, InvalidInput)
        assert later.waits_s == []


@pytest.mark.parametrize("code", REFUSALS)
def test_who_is_put_off_elsewhere_asks_there_again_too(client, clock, later, trial, code):
    """A healthy server that was full, or loading, answers it though another is on trial all the time."""
    with scale_server({2: 5.0}) as healthy:
        add(client, healthy.address)
        healthy.fail_with = code
        pending = client.submit(request(clock, version=2, within_s=5))
        later.await_waits(1)
        healthy.fail_with = None
        later.pass_time()
        np.testing.assert_array_equal(pending.result(WAIT_S).outputs["y"], rows(2) * 5)


def test_what_waits_says_nothing_of_what_calls_take(client, clock, later, trial, monkeypatch):
    """Else the next requests would wait for as long, each for the one before it."""
    server, probe = trial
    counted, ended = [], Group.ended

    def seen(group, number, now_s, *, answered):
        counted.append(answered)
        ended(group, number, now_s, answered=answered)

    monkeypatch.setattr(Group, "ended", seen)
    pending = client.submit(request(clock, version=2, within_s=5))
    clock.advance(1.5)
    server.hold.set()
    probe.result(WAIT_S)
    later.pass_time()
    pending.result(WAIT_S)
    client.submit(request(clock, version=2, within_s=5)).result(WAIT_S)
    handed_over(client)
    assert counted == [True, False, True]


def test_of_what_is_known_not_to_serve_it_no_trial_is_awaited(client, clock, later, trial):
    """It would refuse, back or not."""
    told(client, clock, Serves.YES)
    assert not client.awaits(request(clock, version=7))
    failure(client.submit(request(clock, version=7, within_s=5)))
    assert later.waits_s == []


def test_a_trial_that_ends_between_two_looks_is_seen(client, clock, later, trial, monkeypatch):
    """Who found the server barred, and then nobody who tries it, asks once more instead of failing."""
    server, probe = trial
    look = client.endpoints.on_trial

    def too_late(wanted):
        server.hold.set()
        probe.result(WAIT_S)
        return look(wanted)

    monkeypatch.setattr(client.endpoints, "on_trial", too_late)
    pending = client.submit(request(clock, version=2, within_s=5))
    until(lambda: later.waits_s)
    assert later.waits_s == [0.0]
    later.pass_time()
    np.testing.assert_array_equal(pending.result(WAIT_S).outputs["y"], rows(2) * 3)


def test_who_comes_free_beside_a_full_server_costs_no_retry(client, clock, later, trial):
    """However many wait at the full one, all go to the one whose trial has ended well."""
    server, probe = trial
    with scale_server({2: 5.0}) as full:
        add(client, full.address)
        full.fail_with = grpc.StatusCode.RESOURCE_EXHAUSTED
        pending = []
        for number in range(40):
            pending.append(client.submit(request(clock, version=2, within_s=5)))
            until(lambda number=number: len(later.waits_s) > number)
        server.hold.set()
        probe.result(WAIT_S)

        def all_done():
            if later.anybody_waits:
                later.pass_time()
            return all(one.done() for one in pending)

        until(all_done)
        for one in pending:
            np.testing.assert_array_equal(one.result(WAIT_S).outputs["y"], rows(2) * 3)


def test_a_trial_is_left_to_who_has_time_for_it(client, clock, later, trial):
    """A request of 30 ms takes no trial from one of five seconds that is about to look again."""
    server, probe = trial
    patient = client.submit(request(clock, version=2, within_s=5))
    (endpoint,) = client.endpoints.all()
    probe.cancel()
    until(lambda: not endpoint.in_flight)
    clock.advance(0.06)
    assert endpoint.on_trial
    assert endpoint.try_begin("scale", 16, end_s=clock() + 0.03) is None
    server.hold.set()
    later.pass_time()
    np.testing.assert_array_equal(patient.result(WAIT_S).outputs["y"], rows(2) * 3)


def test_a_trial_is_awaited_that_is_left_to_another_after_one_that_failed(client, clock, later, trial):
    """A look has ended the opening: who has less time waits for the other, instead of being refused by nobody."""
    server, probe = trial
    patient = client.submit(request(clock, version=2, within_s=5))
    (endpoint,) = client.endpoints.all()
    server.fail_with = grpc.StatusCode.INTERNAL
    server.hold.set()
    failure(probe)
    server.fail_with = None
    endpoint.unheard(clock(), unreachable=True)
    endpoint.heard(0.001)
    hasty = client.submit(request(clock, version=2, within_s=0.5))
    assert later.waits_s == [SOUGHT_EVERY_S, SOUGHT_EVERY_S]
    later.pass_time()
    np.testing.assert_array_equal(patient.result(WAIT_S).outputs["y"], rows(2) * 3)
    later.pass_time()
    np.testing.assert_array_equal(hasty.result(WAIT_S).outputs["y"], rows(2) * 3)


def test_who_left_a_trial_to_another_is_told_so(client, clock, later, trial):
    """Where it has no time to wait for it; no other servers were asked."""
    server, probe = trial
    (endpoint,) = client.endpoints.all()
    probe.cancel()
    until(lambda: not endpoint.in_flight)
    clock.advance(0.06)
    endpoint.await_probe(clock() + 0.3, clock() + 5)
    hasty = client.submit(request(clock, version=2, within_s=0.015))
    later.pass_time()
    assert failure(hasty).asked == {server.address: "not asked, it failed before (breaker half-open)"}
