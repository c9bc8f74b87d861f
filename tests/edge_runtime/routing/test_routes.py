import logging

import pytest
from support.clock import FakeClock
from support.places import BROKEN, BUSY, FULL, GONE, LACKING, SPOILT, FakeDevice, FakeRemote, asked

from edge_runtime import EngineFailed, Overloaded, ServerFailed, VersionNotAvailable
from edge_runtime.routing.outage import Outage
from edge_runtime.routing.router import Router
from edge_runtime.types import Tried

WAYS = [lambda router, request: router.infer(request), lambda router, request: router.submit(request).result(0)]


@pytest.fixture
def clock():
    return FakeClock()


def router(device, remote, clock, **options):
    return Router(device, remote, installed=lambda: [7], clock=clock, **options)


def told(answer):
    """Where, why, and what was tried with its milliseconds."""
    return answer.place, answer.reason, [(one.place, one.outcome, round(one.ms, 3)) for one in answer.tried]


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(
    ("policy", "place", "reason", "ms"),
    [
        ("prefer_device", "device:cpu", "local", 10),
        ("only_device", "device:cpu", "local", 10),
        ("prefer_server", "server:s:1", "policy", 5),
        ("only_server", "server:s:1", "policy", 5),
    ],
)
def test_policies_with_everything_in_order(clock, ask, policy, place, reason, ms):
    """Each policy's first place answers, and only that one is asked."""
    device, remote = FakeDevice(clock), FakeRemote(clock)
    answer = ask(router(device, remote, clock), asked(clock, policy=policy))
    assert told(answer) == (place, reason, [(place, "answered", ms)])
    assert len(device.asked) + len(remote.asked) == 1


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("remote", [None, "away"])
def test_prefer_server_without_one(clock, ask, remote):
    """The device answers where no server may be asked or there is no fallback, and the reply says why."""
    remote = remote and FakeRemote(clock, expected_s=None)
    answer = ask(router(FakeDevice(clock), remote, clock), asked(clock, policy="prefer_server"))
    assert told(answer) == ("device:cpu", "no-server", [("device:cpu", "answered", 10)])


@pytest.mark.parametrize("ask", WAYS)
def test_server_then_device(clock, ask):
    """A server that fails is followed by the device; the reply lists both, each with its own time."""
    made = router(FakeDevice(clock), FakeRemote(clock, BROKEN), clock)
    answer = ask(made, asked(clock, policy="prefer_server"))
    before = ("server:s:1", "failed: boom", 5)
    assert told(answer) == ("device:cpu", "server-failed", [before, ("device:cpu", "answered", 10)])


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("load", [None, BUSY])
def test_engine_then_server(clock, ask, load):
    """An engine that fails is followed by a server; the reply lists both, each with its own time."""
    device = FakeDevice(clock, SPOILT)
    device.load = load or device.load
    answer = ask(router(device, FakeRemote(clock), clock), asked(clock))
    before = ("device", "failed: broken", 10)
    assert told(answer) == ("server:s:1", "engine-failed", [before, ("server:s:1", "answered", 5)])


@pytest.mark.parametrize("ask", WAYS)
def test_several_servers_are_listed(clock, ask):
    """What the servers' side knows of each that was asked is what the reply says."""
    asked_ones = (Tried(place="server:a:1", outcome="late", ms=2), Tried(place="server:b:1", outcome="failed: x", ms=3))
    failure = ServerFailed("scale/1", {"a:1": "late", "b:1": "x"}, lacking=False, tried=asked_ones)
    answer = ask(router(FakeDevice(clock), FakeRemote(clock, failure), clock), asked(clock, policy="prefer_server"))
    assert answer.tried[:2] == asked_ones
    assert answer.tried[-1].ms == pytest.approx(10)


@pytest.mark.parametrize("ask", WAYS)
def test_no_engine_left(clock, ask):
    """Where no engine works a server is asked at once, and without one the device says what is wrong."""
    device = FakeDevice(clock, SPOILT, load=GONE)
    assert ask(router(device, FakeRemote(clock), clock), asked(clock)).reason == "engine-failed"
    assert not device.asked
    with pytest.raises(EngineFailed):
        ask(router(device, FakeRemote(clock, expected_s=None), clock), asked(clock, policy="only_device"))


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(
    ("device", "error"),
    [
        (lambda clock: FakeDevice(clock, SPOILT), EngineFailed),
        (lambda clock: FakeDevice(clock, load=FULL), Overloaded),
        (lambda _: None, VersionNotAvailable),
    ],
)
def test_only_device_asks_no_server(clock, ask, device, error):
    """Whatever is wrong with the device is the error, and no server hears of it."""
    remote = FakeRemote(clock)
    with pytest.raises(error):
        ask(router(device(clock), remote, clock), asked(clock, 0.001, policy="only_device"))
    assert not remote.asked


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(("expected_s", "outcome"), [(0.002, BROKEN), (None, LACKING)])
def test_only_server_asks_no_device(clock, ask, expected_s, outcome):
    """Whatever is wrong with the servers is the error, with what each said, and the device is left alone."""
    device, remote = FakeDevice(clock), FakeRemote(clock, outcome, expected_s=expected_s)
    with pytest.raises(ServerFailed, match="s:1"):
        ask(router(device, remote, clock), asked(clock, policy="only_server"))
    assert not device.asked
    with pytest.raises(ServerFailed, match="none is known"):
        ask(router(device, None, clock), asked(clock, policy="only_server"))


def test_error_says_that_the_policy_keeps_it(clock):
    """Who confines a request to the device is told so by the error."""
    made = router(None, FakeRemote(clock), clock)
    with pytest.raises(VersionNotAvailable, match=r"Installed: 7.*policy keeps it on the device"):
        made.infer(asked(clock, policy="only_device"))


def test_servers_are_not_asked_what_does_not_matter(clock):
    """A busy device that will be in time costs no look at the servers."""
    remote = FakeRemote(clock)
    remote.expects = None
    assert router(FakeDevice(clock, load=BUSY), remote, clock).infer(asked(clock)).reason == "local"


def test_outage_is_told_once(clock, caplog):
    """While no server can be asked the device goes on; the log says so once, and once that a server answers again."""
    caplog.set_level(logging.INFO)
    states = {"s:1": "open"}
    remote = FakeRemote(clock, expected_s=None)
    made = router(FakeDevice(clock), remote, clock, outage=Outage(lambda: states))
    for _ in range(5):
        assert made.infer(asked(clock, policy="prefer_server")).reason == "no-server"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "s:1: breaker open" in caplog.text
    assert "the device answers alone what it may and can, the rest fails" in caplog.text
    remote.expected_s = 0.002
    states["s:1"] = "half-open"
    remote.outcome = BROKEN
    made.infer(asked(clock, policy="prefer_server"))
    remote.outcome = None
    states["s:1"] = "closed"
    for _ in range(5):
        assert made.infer(asked(clock, policy="prefer_server")).reason == "policy"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_no_outage_before_the_first_server_had_its_time_to_be_found(clock, caplog):
    """While the first may be found any moment the log says nothing; then it does, when a request misses one."""
    sought = [True]
    made = router(
        FakeDevice(clock), FakeRemote(clock, expected_s=None), clock, outage=Outage(dict, lambda: bool(sought))
    )
    assert made.infer(asked(clock, policy="prefer_server")).reason == "no-server"
    assert not caplog.records
    sought.clear()
    for _ in range(2):
        assert made.infer(asked(clock, policy="prefer_server")).reason == "no-server"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_servers_that_lack_a_version_are_no_outage(clock, caplog):
    """A server that answers others is not missed for a version that it has not."""
    made = router(FakeDevice(clock), FakeRemote(clock, LACKING), clock, outage=Outage(lambda: {"s:1": "closed"}))
    assert made.infer(asked(clock, policy="prefer_server")).reason == "server-failed"
    assert not caplog.records


def test_a_server_that_was_late_is_tried_again(clock):
    """While nobody is expected in time, one request in a while is sent; the others are not."""
    device, remote = FakeDevice(clock, load=BUSY, takes_s=0.0), FakeRemote(clock, expected_s=0.2, takes_s=0.0)
    made = router(device, remote, clock)
    places = []
    for _ in range(10):
        places.append(made.infer(asked(clock, 0.05)).place)
        clock.advance(0.11)
    assert [place == "server:s:1" for place in places] == [True, False, False, False] * 2 + [True, False]
