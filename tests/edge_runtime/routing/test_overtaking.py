import pytest
from support.clock import FakeClock
from support.places import BROKEN, FULL, HANGS, IDLE, SPOILT, FakeDevice, FakeLater, FakeRemote, asked

from edge_runtime import RuntimeClosed
from edge_runtime.routing.budget import Budget
from edge_runtime.routing.hedging import Hedging
from edge_runtime.routing.router import Router
from edge_runtime.routing.watch import SLACK_SHARE, slack_s

UNLOADED = RuntimeClosed("scale/1 has been unloaded")
LAST_S = 0.1 - 0.010 * (1 + SLACK_SHARE) - slack_s(0.1)


class Stand:
    """Servers that hang, and a device, for a request of 100 ms that is for a server first."""

    def __init__(self, *, extras=10, expected_s=0.002, load=IDLE):
        self.clock = FakeClock()
        self.device = FakeDevice(self.clock, HANGS, load=load)
        self.remote = FakeRemote(self.clock, HANGS, expected_s=expected_s)
        self.later = FakeLater()
        self.budget = Budget(1e-9, 10)
        self.budget.spend(10 - extras)
        hedging = Hedging(self.budget, self.later, self.clock)
        self.router = Router(self.device, self.remote, installed=list, clock=self.clock, hedging=hedging)

    def ask(self, within_s=0.1, policy="prefer_server"):
        return self.router.submit(asked(self.clock, within_s, policy=policy))

    def hung(self):
        """A request that the server hangs with until the device can only just be in time."""
        pending = self.ask()
        self.clock.advance(LAST_S)
        self.later.go_off()
        return pending


def told(answer):
    return answer.place, answer.reason, [(one.place, one.outcome) for one in answer.tried]


def test_device_overtakes_a_server_that_hangs():
    """The device is asked at the last moment, its answer says why, and the server's call is given up."""
    stand = Stand(extras=0)
    pending = stand.hung()
    assert stand.later.waits == [pytest.approx(LAST_S)]
    stand.clock.advance(0.010)
    stand.device.end()
    expected = ("device:cpu", "server-late", [("server", "cancelled"), ("device:cpu", "answered")])
    assert told(pending.result(0)) == expected
    assert stand.remote.futures[0].cancelled()


def test_server_that_answers_after_all():
    """Whoever answers first counts, and the other is given up."""
    stand = Stand()
    pending = stand.hung()
    stand.remote.end()
    expected = ("server:s:1", "policy", [("device", "cancelled"), ("server:s:1", "answered")])
    assert told(pending.result(0)) == expected
    assert stand.device.futures[0].cancelled()


def test_server_that_fails_before_is_followed_by_the_device_at_once():
    """As without a race, and once."""
    stand = Stand()
    pending = stand.ask()
    stand.remote.end(BROKEN)
    stand.later.go_off()
    stand.device.end()
    assert told(pending.result(0))[:2] == ("device:cpu", "server-failed")
    assert len(stand.device.asked) == 1


@pytest.mark.parametrize("first", ["server", "device"])
def test_one_that_fails_leaves_it_to_the_other(first):
    """A failure of one place is no failure of the request while the other may answer."""
    stand = Stand()
    pending = stand.hung()
    if first == "server":
        stand.remote.end(BROKEN)
        assert not pending.done()
        stand.device.end()
        assert pending.result(0).reason == "server-late"
    else:
        stand.device.end(SPOILT)
        assert not pending.done()
        stand.remote.end()
        assert pending.result(0).reason == "policy"


def test_both_fail():
    """Then the request ends with what the server said, which was asked first."""
    stand = Stand()
    pending = stand.hung()
    stand.device.end(SPOILT)
    stand.remote.end(BROKEN)
    assert pending.exception(0) is BROKEN


@pytest.mark.parametrize(("extras", "overtaken"), [(0, False), (1, True)])
def test_before_the_server_is_late_the_budget_pays(extras, overtaken):
    """Else every request with such a deadline would be run twice."""
    stand = Stand(extras=extras, expected_s=0.06)
    stand.hung()
    assert bool(stand.device.asked) is overtaken


@pytest.mark.parametrize(
    ("within_s", "policy"), [(None, "prefer_server"), (0.015, "prefer_server"), (0.1, "only_server")]
)
def test_nobody_overtakes(within_s, policy):
    """Where there is no deadline, no room for one after the other, or the policy forbids it."""
    stand = Stand()
    stand.ask(within_s, policy)
    assert not stand.later.waits


def test_a_device_that_refuses_leaves_it_to_the_server():
    """A full queue is no reason to give up the server."""
    stand = Stand()
    pending = stand.ask()
    stand.device.load = FULL
    stand.clock.advance(LAST_S)
    stand.later.go_off()
    stand.remote.end()
    assert pending.result(0).reason == "policy"


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_a_version_that_was_unloaded_meanwhile_ends_the_race(queued, free):
    """Before the last call, or while the device has it: the caller hears in time to ask what has followed upon it."""
    stand = Stand(extras=1, expected_s=0.002 if free else 0.06)
    if queued:
        pending = stand.hung()
        stand.device.end(UNLOADED)
    else:
        stand.device.refusal = UNLOADED
        pending = stand.hung()
    assert pending.exception(0) is UNLOADED
    assert stand.remote.futures[0].cancelled()
    assert stand.budget.spend() is (free or not queued)


def test_what_was_unloaded_under_the_last_call_is_asked_of_its_successor_at_once():
    """It is too late to wait for a server first once more, and the budget has no say in it."""
    stand = Stand(extras=0)
    request = asked(stand.clock, 0.1, policy="prefer_server")
    stand.clock.advance(LAST_S + 0.001)
    pending = stand.router.submit(request)
    assert stand.later.waits == [0.0]
    stand.later.go_off()
    stand.device.end()
    assert pending.result(0).reason == "server-late"


def test_cancelling_cancels_both():
    """A caller that gives up frees whatever is under way."""
    stand = Stand()
    assert stand.hung().cancel()
    assert stand.device.futures[0].cancelled()
    assert stand.remote.futures[0].cancelled()
