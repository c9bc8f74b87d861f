import logging
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from msgspec.structs import replace
from support.clock import FakeClock
from support.edge_cascades import CASCADE, manifest_of, signature_of

from edge_runtime import DeadlineExceeded, EngineFailed, EngineReport, Reply, RuntimeClosed, ServerFailed, ServerRefused
from edge_runtime.routing.cascade import KEPT_S, PATIENCE_S, CascadeExecutor, Judge, over
from edge_runtime.types import InferRequest, Pending

SURE = np.array([[0.9, 0.05, 0.03, 0.02]], np.float32)
UNSURE = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)
BETTER = np.array([[0.0, 0.0, 0.0, 1.0]], np.float32)
BROKEN = ServerFailed("m/1", {"s:1": "boom"}, lacking=False)


def answer(scores, place="device:cpu", reason="local"):
    return Reply(outputs={"scores": scores}, version=1, place=place, reason=reason, latency_ms=3.0)


class Device:
    """An executor whose answer the test sets; `later` leaves the futures to the test."""

    def __init__(self, clock, said):
        self.clock, self.said, self.later, self.futures = clock, said, False, []

    def infer(self, request):
        self.clock.advance(0.003)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def submit(self, request):
        future = Pending()
        self.futures.append(future)
        if not self.later:
            try:
                future.set_result(self.infer(request))
            except EngineFailed as error:
                future.set_exception(error)
        return future

    def close(self):
        self.closed = True


class Servers:
    """Servers whose outcome the test sets: an answer's rows, an error, or None for a call that hangs."""

    def __init__(self, clock, outcome=BETTER, expected_s=0.010, took_s=0.010):
        self.clock, self.outcome, self.expected_s, self.took_s = clock, outcome, expected_s, took_s
        self.asked, self.futures = [], []

    def expects(self, request):
        return self.expected_s

    def submit(self, request):
        self.asked.append(request)
        future = Future()
        self.futures.append(future)
        if isinstance(self.outcome, RuntimeClosed):
            raise self.outcome
        if self.outcome is not None:
            self.clock.advance(self.took_s)
        if isinstance(self.outcome, BaseException):
            future.set_exception(self.outcome)
        elif self.outcome is not None:
            future.set_result(answer(np.repeat(self.outcome, request.rows, 0), "server:s:1", request.reason))
        return future


@pytest.fixture
def clock():
    return FakeClock()


def judge(cascade=CASCADE):
    reports = (EngineReport(device="cpu", variant="float32", state="ready"),)
    return Judge(manifest_of((signature_of("serving_default"),), cascade), lambda: reports)


def request(clock, deadline_in_s=None, rows=1, **more):
    return InferRequest(
        model="m",
        version=1,
        signature="serving_default",
        inputs={"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)},
        rows=rows,
        batched=True,
        start_s=clock(),
        deadline_s=None if deadline_in_s is None else clock() + deadline_in_s,
        **more,
    )


def asked(way, executor, one):
    return executor.infer(one) if way == "infer" else executor.submit(one).result(5)


def outcomes(reply):
    return [(one.place, one.outcome, round(one.ms, 6)) for one in reply.tried]


BOTH = pytest.mark.parametrize("way", ["infer", "submit"])


@BOTH
def test_a_sure_answer_stands(clock, way):
    """It is the very reply of the device; nobody else is asked."""
    servers, said = Servers(clock), answer(SURE)
    executor = CascadeExecutor(Device(clock, said), servers, judge(), "on", clock=clock)
    assert asked(way, executor, request(clock)) is said
    assert not servers.asked


@BOTH
def test_a_servers_answer_wins(clock, way):
    """The reply says where it is from and why, what was tried, and how long each took."""
    servers = Servers(clock)
    executor = CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), "on", clock=clock)
    reply = asked(way, executor, request(clock, 0.100))
    assert (reply.place, reply.reason) == ("server:s:1", "unsure")
    np.testing.assert_array_equal(reply.outputs["scores"], BETTER)
    assert outcomes(reply) == [("device:cpu", "unsure", 3.0), ("server:s:1", "answered", 10.0)]
    assert reply.latency_ms == pytest.approx(13.0)
    (sent,) = servers.asked
    assert sent.reason == "unsure"
    assert sent.deadline_s == pytest.approx(clock() - 0.013 + 0.100 - KEPT_S)


@BOTH
@pytest.mark.parametrize(
    ("outcome", "place", "said"),
    [
        (BROKEN, "server:s:1", "failed: boom"),
        (DeadlineExceeded("m/1", 50.0, {"asking s:1": 48.0}), "server", "late"),
        (ServerRefused("m/1: refused by server s:1: another preprocessing"), "server", "failed: m/1: refused by"),
        (RuntimeClosed("closed"), "server", "failed: closed"),
        (OSError("odd"), "server", "failed: odd"),
        (np.zeros((1, 3), np.float32), "server", "failed: m/1: can't be put together"),
    ],
)
def test_where_no_server_answers_the_device_has(clock, way, outcome, place, said):
    """Its answer comes as `local`, and what was tried tells of the doubt."""
    # Of two rows one is unsure, so that what the server says must fit.
    local = answer(np.concatenate([UNSURE, SURE]))
    executor = CascadeExecutor(Device(clock, local), Servers(clock, outcome), judge(), "on", clock=clock)
    reply = asked(way, executor, request(clock, 0.050, rows=2))
    assert (reply.place, reply.reason) == ("device:cpu", "local")
    np.testing.assert_array_equal(reply.outputs["scores"], local.outputs["scores"])
    first, second, last = reply.tried
    assert (first.place, first.outcome) == ("device:cpu", "unsure")
    assert second.place == place
    assert second.outcome.startswith(said)
    assert (last.place, last.outcome, last.ms) == ("device:cpu", "answered", 0.0)


@pytest.mark.parametrize(
    ("expected_s", "deadline_in_s", "sent"),
    [
        (None, None, False),
        (0.010, 0.012, False),
        (0.010, 0.016, True),
        (PATIENCE_S + 1, None, False),
        (1.0, None, True),
    ],
)
def test_what_cannot_come_in_time_is_not_asked_for(clock, expected_s, deadline_in_s, sent):
    """Nor is anyone asked where no server is usable: the answer at hand comes at once."""
    servers = Servers(clock, expected_s=expected_s)
    executor = CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), "on", clock=clock)
    reply = executor.infer(request(clock, deadline_in_s))
    assert bool(servers.asked) is sent
    assert (reply.reason, outcomes(reply)[0]) == ("unsure" if sent else "local", ("device:cpu", "unsure", 3.0))
    if not sent:
        assert outcomes(reply)[1:] == [("device:cpu", "answered", 0.0)]


def test_who_awaits_has_the_answer_at_hand(clock):
    """Where nothing ends the call in time, whoever waits for the future takes the device's answer at the deadline."""
    servers = Servers(clock, outcome=None)
    outer = CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), "on", clock=clock).submit(request(clock))
    clock.advance(0.020)
    reply = outer.at_hand()
    assert (outer.stage, reply.place, round(reply.latency_ms)) == ("a server", "device:cpu", 23)
    assert [one.outcome for one in reply.tried] == ["unsure", "late", "answered"]


def test_a_server_that_hangs_does_not_cost_the_answer(clock):
    """The caller has the device's before the deadline, also where nothing ends the call; the call is given up."""
    servers = Servers(clock, outcome=None)
    executor = CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), "on", clock=clock)
    reply = executor.infer(request(clock, 0.020))
    assert (reply.place, reply.reason, reply.tried[1].outcome) == ("device:cpu", "local", "late")
    assert servers.futures[0].cancelled()


@pytest.mark.parametrize(
    ("asking", "given", "sent"),
    [
        ("off", None, False),
        ("on", None, True),
        (0.3, None, False),
        (0.99, None, True),
        ("off", "on", True),
        ("off", 0.95, True),
        ("on", "off", False),
        ("on", 0.1, False),
    ],
)
def test_who_says_when_an_answer_is_unsure(clock, asking, given, sent):
    """The runtime or the model, and the request before them: by the package's threshold or another."""
    servers = Servers(clock)
    executor = CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), asking, clock=clock)
    (executor if given is None else executor.asking(given)).infer(request(clock))
    assert bool(servers.asked) is sent
    assert executor.doubts is (asking != "off")


@pytest.mark.parametrize(
    ("said", "more"),
    [
        (answer(UNSURE, "server:s:1", "overloaded"), {}),
        (answer(UNSURE, reason="server-failed"), {}),
        (answer(UNSURE, reason="no-server"), {"policy": "prefer_server"}),
        (answer(UNSURE), {"policy": "only_device"}),
        (answer(UNSURE), {"signature": "other"}),
        (answer(UNSURE, "device:gpu"), {}),
    ],
)
def test_answers_that_stand_however_unsure(clock, said, more):
    """A server's own, the device's in a failed server's place, what must stay, and what nothing is known of."""
    servers = Servers(clock)
    executor = CascadeExecutor(Device(clock, said), servers, judge(), "on", clock=clock)
    assert executor.infer(replace(request(clock), **more)) is said
    assert not servers.asked


@BOTH
def test_of_a_batch_only_what_is_unsure_is_sent(clock, way):
    """The other rows are the device's."""
    local = np.concatenate([SURE, UNSURE, SURE, UNSURE])
    servers = Servers(clock)
    executor = CascadeExecutor(Device(clock, answer(local)), servers, judge(), "on", clock=clock)
    reply = asked(way, executor, request(clock, rows=4))
    np.testing.assert_array_equal(reply.outputs["scores"], np.concatenate([SURE, BETTER, SURE, BETTER]))
    (sent,) = servers.asked
    assert (sent.rows, sent.inputs["x"][:, 0].tolist()) == (2, [4.0, 12.0])


@BOTH
def test_the_devices_errors_pass(clock, way):
    """There is no answer to be unsure of."""
    executor = CascadeExecutor(Device(clock, EngineFailed("broken")), Servers(clock), judge(), "on", clock=clock)
    with pytest.raises(EngineFailed, match="broken"):
        asked(way, executor, request(clock))


@pytest.mark.parametrize("stage", ["device", "server"])
def test_cancelling_reaches_whoever_has_the_request(clock, stage):
    """The device's queue, or the call to a server."""
    device, servers = Device(clock, answer(UNSURE)), Servers(clock, outcome=None)
    device.later = stage == "device"
    outer = CascadeExecutor(device, servers, judge(), "on", clock=clock).submit(request(clock))
    assert outer.cancel()
    assert (device.futures if stage == "device" else servers.futures)[0].cancelled()
    with pytest.raises(CancelledError):
        outer.result(0)


def test_what_nobody_foresaw_ends_in_the_future(clock):
    """In a callback it would be lost, and the caller wait for ever."""
    servers = Servers(clock)
    servers.expects = None
    with pytest.raises(TypeError):
        CascadeExecutor(Device(clock, answer(UNSURE)), servers, judge(), "on", clock=clock).submit(
            request(clock)
        ).result(5)


def test_a_server_that_refuses_is_told_of_once(clock, caplog):
    """It is set up otherwise than the device, which nobody would see in answers that come all the same."""
    refused = ServerRefused("m/1: refused by server s:1: another preprocessing")
    executor = CascadeExecutor(Device(clock, answer(UNSURE)), Servers(clock, refused), judge(), "on", clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            executor.infer(request(clock))
        executor.asking(0.9).infer(request(clock))
    assert len(caplog.records) == 1
    assert "another preprocessing" in caplog.text


def test_over_a_version(clock, caplog):
    """Without servers there is nothing to wrap; a cascade that can't do anything is told of when the version comes."""
    manifest = manifest_of((signature_of("serving_default"),), None)
    device = Device(clock, answer(UNSURE))
    assert over(device, None, manifest, tuple, "on", clock=clock) is None
    assert not caplog.records
    made = over(device, Servers(clock), manifest, tuple, "on", clock=clock)
    assert made is not None
    assert "m/1: the cascade does nothing: its package has no threshold" in caplog.text
    made.close()
    assert device.closed
