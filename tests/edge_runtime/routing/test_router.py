import threading
from concurrent.futures import CancelledError, Future

import pytest
from msgspec.structs import replace
from support.clock import FakeClock
from support.edge_models import rows

from edge_runtime import (
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    Overloaded,
    Reply,
    ServerFailed,
    ServerRefused,
    VersionNotAvailable,
)
from edge_runtime.routing.chain import timed_out
from edge_runtime.routing.router import Router
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.stats import Load
from edge_runtime.types import InferRequest


def reply(place, reason):
    return Reply(outputs={}, version=1, place=place, reason=reason, latency_ms=1.0)


class FakeDevice:
    """A batcher whose state and outcome the test sets."""

    def __init__(self):
        self.costs = CostTable({1: 0.010}, FakeClock())
        self.load = Load(queued_requests=0, queued_rows=0, running_rows=0, engines=1, full=False)
        self.idle = True
        self.last = False
        self.error = None
        self.future = None

    def is_last(self, request):
        return self.last

    def try_infer(self, request):
        if self.error is not None:
            raise self.error
        return reply("device:cpu", request.reason) if self.idle else None

    def wait(self, request):
        return self.submit(request).result()

    def submit(self, request):
        if self.load.full:
            raise Overloaded("full")
        self.future = Future()
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(reply("device:cpu", request.reason))
        return self.future


class FakeRemote:
    """Servers whose outcome the test sets; None leaves the request hanging."""

    def __init__(self, outcome="answers", expected_s=0.002):
        self.outcome = outcome
        self.expected_s = expected_s
        self.future = None
        self.asked = []
        self.why = {}
        self.loading = False

    def expects(self, request):
        return self.expected_s

    def awaits(self, request):
        return self.loading

    def unasked(self, request):
        return self.why

    def submit(self, request):
        self.asked.append(request)
        self.future = Future()
        if self.outcome == "answers":
            self.future.set_result(reply("server:s:1", request.reason))
        elif self.outcome is not None:
            self.future.set_exception(self.outcome)
        return self.future


LACKING = ServerFailed("scale/1", {"s:1": "not found"}, lacking=True)
BROKEN = ServerFailed("scale/1", {"s:1": "boom"}, lacking=False)
BUSY = Load(queued_requests=100, queued_rows=100, running_rows=1, engines=1, full=False)
FULL = Load(queued_requests=100, queued_rows=100, running_rows=1, engines=1, full=True)


@pytest.fixture
def clock():
    return FakeClock()


def router(device, remote, clock, **more):
    return Router(device, remote, installed=lambda: [7], clock=clock, **more)


def request(clock, deadline_in_s=None):
    return InferRequest(
        model="scale",
        version=1,
        signature="s",
        inputs={"x": rows(1)},
        rows=1,
        start_s=clock(),
        deadline_s=None if deadline_in_s is None else clock() + deadline_in_s,
    )


def test_idle_device_answers(clock):
    """An idle engine that is fast enough answers, and no server is asked."""
    remote = FakeRemote()
    assert router(FakeDevice(), remote, clock).infer(request(clock, 0.05)).place == "device:cpu"
    assert not remote.asked


def test_device_too_slow_for_the_deadline(clock):
    """An idle engine that would be too late gives way to a server that is in time."""
    assert router(FakeDevice(), FakeRemote(), clock).infer(request(clock, 0.005)).reason == "too-slow"


def test_overloaded_device(clock):
    """What the queue would answer too late goes to the server, and the reply says why."""
    device = FakeDevice()
    device.idle, device.load = False, BUSY
    answer = router(device, FakeRemote(), clock).infer(request(clock, 0.05))
    assert (answer.place, answer.reason) == ("server:s:1", "overloaded")


def test_version_missing(clock):
    """A version that is not installed is answered by the server, and the reply says why."""
    answer = router(None, FakeRemote(), clock).infer(request(clock))
    assert (answer.place, answer.reason) == ("server:s:1", "version-missing")


@pytest.mark.parametrize("failure", [LACKING, BROKEN])
def test_failed_server_falls_back_to_the_device(clock, failure):
    """What no server answers the device does, and the reply says why."""
    device = FakeDevice()
    device.idle, device.load = False, BUSY
    answer = router(device, FakeRemote(failure), clock).infer(request(clock, 0.05))
    assert (answer.place, answer.reason) == ("device:cpu", "server-failed")


def test_missing_version_that_no_server_has(clock):
    """Model, version, what is installed and who was asked are in the error."""
    with pytest.raises(VersionNotAvailable, match=r"version 1 .*Installed: 7.*s:1: not found") as caught:
        router(None, FakeRemote(LACKING), clock).infer(request(clock))
    assert caught.value.asked == {"s:1": "not found"}
    assert caught.value.installed == (7,)


def test_missing_version_on_a_broken_server(clock):
    """A server that may have the version but breaks is not reported as lacking it."""
    with pytest.raises(ServerFailed, match="boom"):
        router(None, FakeRemote(BROKEN), clock).infer(request(clock))


def test_missing_version_that_a_server_is_loading(clock):
    """It is put to the servers, where it may wait; the device's own versions have no need of that."""
    remote = FakeRemote(expected_s=None)
    remote.loading = True
    answer = router(None, remote, clock).infer(request(clock, 5))
    assert (answer.place, answer.reason) == ("server:s:1", "version-missing")
    device = FakeDevice()
    device.idle, device.load = False, BUSY
    assert router(device, remote, clock).infer(request(clock, 0.05)).place == "device:cpu"


@pytest.mark.parametrize("remote", [None, FakeRemote(expected_s=None)])
def test_missing_version_without_a_usable_server(clock, remote):
    """Without a server to ask the error comes at once."""
    with pytest.raises(VersionNotAvailable, match="Servers asked: none"):
        router(None, remote, clock).infer(request(clock))


def test_missing_version_names_the_servers_that_are_down(clock):
    """Where no server may be asked, each that is known is in the error with its reason, also of the second request."""
    remote = FakeRemote(expected_s=None)
    remote.why = {"s:1": "not asked, it failed before (breaker open)", "s:2": "not asked, unreachable for 3.0 s"}
    made = router(None, remote, clock)
    for _ in range(2):
        with pytest.raises(VersionNotAvailable, match=r"s:1: not asked, it failed before \(breaker open\)") as caught:
            made.infer(request(clock))
        assert list(caught.value.asked) == ["s:1", "s:2"]


@pytest.mark.parametrize("idle", [True, False])
def test_failed_engine_is_rescued_by_a_server(clock, idle):
    """An engine that fails costs the request nothing where a server can answer it."""
    device = FakeDevice()
    device.idle, device.error = idle, EngineFailed("broken")
    assert router(device, FakeRemote(), clock).infer(request(clock)).reason == "engine-failed"
    with pytest.raises(EngineFailed):
        router(device, None, clock).infer(request(clock))


@pytest.mark.parametrize("submitted", [True, False])
def test_what_the_device_gives_up_goes_to_a_server(clock, submitted):
    """What the device drops as too late before its deadline goes to a server, if one is expected in time."""
    device, remote = FakeDevice(), FakeRemote()
    device.idle, device.error = False, DeadlineExceeded("scale/1", 50.0, {"waiting for the device": 10.0})

    def ask():
        one = router(device, remote, clock)
        return one.submit(request(clock, 0.05)).result(1) if submitted else one.infer(request(clock, 0.05))

    answer = ask()
    assert (answer.place, answer.reason) == ("server:s:1", "overloaded")
    assert (answer.tried[0].place, answer.tried[0].outcome) == ("device", "late")
    remote.expected_s = 0.06
    with pytest.raises(DeadlineExceeded):
        ask()
    remote.expected_s, remote.outcome = 0.002, BROKEN
    with pytest.raises(DeadlineExceeded):
        ask()
    assert len(remote.asked) == 2


def test_broken_device_and_broken_server_end(clock):
    """Where both fail the request ends with an error instead of going round between them."""
    device, remote = FakeDevice(), FakeRemote(BROKEN)
    device.error = EngineFailed("broken")
    with pytest.raises(ServerFailed):
        router(device, remote, clock).infer(request(clock))
    assert len(remote.asked) == 1


def test_full_queue(clock):
    """A full queue sends requests away, and refuses where there is nowhere to send them."""
    device = FakeDevice()
    device.idle, device.load = False, FULL
    assert router(device, FakeRemote(), clock).infer(request(clock)).reason == "overloaded"
    with pytest.raises(Overloaded, match="no server is usable"):
        router(device, None, clock).infer(request(clock))


@pytest.mark.parametrize("refusal", [InvalidInput("bad"), ServerRefused("bad")])
def test_what_servers_refuse_the_device_answers(clock, caplog, refusal):
    """The request fits the installed package: the server is set up otherwise, which the log says once."""
    device = FakeDevice()
    device.idle, device.load = False, BUSY
    made = router(device, FakeRemote(refusal), clock)
    for _ in range(3):
        answer = made.infer(request(clock, 0.05))
        assert (answer.place, answer.reason) == ("device:cpu", "server-failed")
        assert [one.outcome for one in answer.tried] == ["failed: bad", "answered"]
    assert [one.getMessage() for one in caplog.records] == [
        "the device answers what was for a server, since servers do not take the requests: bad"
    ]


def test_what_the_device_fails_on_too_is_the_requests_fault(clock):
    """Where servers refuse and the engine fails, the error is the first that was said."""
    device = FakeDevice()
    device.idle, device.load = False, BUSY
    device.error = EngineFailed("not that")
    with pytest.raises(InvalidInput, match="bad"):
        router(device, FakeRemote(InvalidInput("bad")), clock).infer(request(clock, 0.05))


def test_a_refusal_stands_where_only_servers_may_answer(clock):
    """The policy keeps it from the device."""
    device = FakeDevice()
    asked = replace(request(clock), policy="only_server")
    with pytest.raises(ServerRefused, match="bad"):
        router(device, FakeRemote(ServerRefused("bad")), clock).infer(asked)
    assert device.future is None


def test_cancelling_reaches_the_call(clock):
    """Cancelling the outer future cancels the call that is under way."""
    remote = FakeRemote(outcome=None)
    outer = router(None, remote, clock).submit(request(clock))
    assert outer.cancel()
    assert remote.future.cancelled()
    with pytest.raises(CancelledError):
        outer.result(0)


def test_whatever_a_rescue_raises_ends_in_the_future(clock):
    """An exception that nobody foresaw, raised in another thread's callback, still ends the caller's wait."""
    device, remote = FakeDevice(), FakeRemote()
    device.idle, device.error = False, EngineFailed("broken")

    def explode(request):
        raise OSError("odd")

    remote.submit = explode
    with pytest.raises(EngineFailed, match="OSError: odd"):
        router(device, remote, clock).submit(request(clock)).result(1)


def test_timeout_says_what_was_waited_for(clock):
    """A caller whose deadline passes is told whether a server or the device's queue was waited for."""
    pending = router(None, FakeRemote(outcome=None), clock).submit(request(clock, 1.0))
    assert pending.stage == "a server"
    error = timed_out(request(clock, 1.0), pending, clock() + 2)
    assert "waiting for a server 2000.0 ms" in str(error)


def test_reason_of_absence_is_told(clock):
    """A version that is on the device but damaged is answered elsewhere with that reason."""
    made = Router(None, FakeRemote(), installed=list, clock=clock, absent="version-damaged")
    assert made.infer(request(clock)).reason == "version-damaged"


def test_a_device_that_became_slow_is_probed(clock):
    """An idle engine whose estimate is too long gets a request now and then, and the rest go to the server."""
    device, remote = FakeDevice(), FakeRemote()
    for _ in range(50):
        device.costs.record(1, 0.5)
    made = router(device, remote, clock)
    device.costs._clock = clock
    clock.advance(2)
    places = [made.infer(request(clock, 0.05)).place for _ in range(3)]
    assert places == ["device:cpu", "server:s:1", "server:s:1"]


def test_deadlines_may_be_far(clock):
    """A deadline beyond what a lock can wait for is no fault where a server is asked."""
    remote = FakeRemote(None)

    def answer():
        while remote.future is None:
            pass
        remote.future.set_result(reply("server:s:1", "local"))

    threading.Thread(target=answer).start()
    assert Router(None, remote, installed=list, clock=clock).infer(request(clock, deadline_in_s=1e10)).version == 1
