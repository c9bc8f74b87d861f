import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.clock import FakeClock
from support.places import BROKEN, BUSY, HANGS, SPOILT, FakeDevice, FakeLater, FakeRemote, asked

from edge_runtime import DeadlineExceeded, EngineFailed, InvalidInput
from edge_runtime.routing.budget import Budget
from edge_runtime.routing.hedging import MIN_ANSWERS, WINDOW, Hedging, Lateness
from edge_runtime.routing.router import Router
from edge_runtime.routing.watch import (
    GLANCE_S,
    LENGTH_SHARE,
    MOST_SLACK_S,
    PATIENCE,
    SLACK_S,
    SLACK_SHARE,
    copy_after_s,
    glance_s,
    slack_s,
    worth_a_copy,
)
from edge_runtime.scheduling.stats import Load


class Stand:
    """A device that hangs, servers, and hedging that knows what the device usually takes."""

    def __init__(self, *, extras=10, known=True, outcome=HANGS, expected_s=0.002):
        self.clock = FakeClock()
        self.start_s = self.clock()
        self.device = FakeDevice(self.clock, HANGS)
        self.remote = FakeRemote(self.clock, outcome, expected_s=expected_s)
        self.later = FakeLater()
        self.budget = Budget(1e-9, max(extras, 1))
        if not extras:
            self.budget.spend()
        self.hedging = Hedging(self.budget, self.later, self.clock)
        for _ in range(WINDOW if known else 0):
            self.hedging.lateness.record(0.010, 0.010)
        self.router = Router(self.device, self.remote, installed=list, clock=self.clock, hedging=self.hedging)

    def ask(self, *fields, **named):
        return self.router.submit(asked(self.clock, *fields, **named))

    def late(self, *fields, **named):
        """A request that the device is late with, so that its copy is due."""
        pending = self.ask(*fields, **named)
        self.clock.advance(0.012)
        self.later.go_off()
        return pending


def wait_out(stand, begun_s=0.0):
    """Lets all that is due go off until a server is asked; seconds from the request to that, of which some are over."""
    while not stand.remote.asked:
        stand.clock.advance(stand.later.waits[-1])
        begun_s += stand.later.waits[-1]
        stand.later.go_off()
    return begun_s


def told(answer):
    return answer.place, answer.reason, [(one.place, one.outcome, round(one.ms, 3)) for one in answer.tried]


def test_copy_answers_first():
    """The copy's answer is the reply, says both places with their times, and the device's request is cancelled."""
    stand = Stand()
    pending = stand.late()
    stand.clock.advance(0.004)
    stand.remote.end()
    answer = pending.result(0)
    assert told(answer) == ("server:s:1", "hedged", [("device", "cancelled", 16), ("server:s:1", "answered", 4)])
    assert stand.device.futures[0].cancelled()


def test_device_answers_first():
    """The device's answer is the reply and says that a copy was sent in vain, and the copy is cancelled."""
    stand = Stand()
    pending = stand.late()
    stand.clock.advance(0.001)
    stand.device.end()
    assert told(pending.result(0)) == (
        "device:cpu",
        "local",
        [("server", "cancelled", 1), ("device:cpu", "answered", 13)],
    )
    assert stand.remote.futures[0].cancelled()


def test_usual_answers_are_not_copied():
    """The copy is due a tenth after what nearly all answers take; what is there by then costs nothing more."""
    stand = Stand()
    pending = stand.ask()
    assert stand.later.waits == [pytest.approx(0.010 * PATIENCE)]
    stand.device.end()
    stand.later.go_off()
    assert pending.result(0).reason == "local"
    assert not stand.remote.asked


@pytest.mark.parametrize(
    ("stand", "deadline_s", "policy"),
    [
        (Stand(extras=0), None, "prefer_device"),
        (Stand(known=False), None, "prefer_device"),
        (Stand(expected_s=None), None, "prefer_device"),
        (Stand(expected_s=0.005), 0.0165, "prefer_device"),
        (Stand(), None, "only_device"),
    ],
)
def test_no_copy(stand, deadline_s, policy):
    """Nothing is copied past the budget, before it is known what is late, in vain, or against the policy."""
    stand.late(deadline_s, policy=policy)
    assert not stand.remote.asked


def test_budget_is_spent_by_copies_alone():
    """A copy that is not worth sending costs the budget nothing."""
    stand = Stand(extras=1)
    stand.ask(0.030)
    stand.clock.advance(0.029)
    stand.later.go_off()
    assert not stand.remote.asked
    assert stand.budget.spend()


WAITS = Load(queued_requests=3, queued_rows=3, running_rows=1, engines=1, full=False)
STALLS = replace(WAITS, queued_requests=0, queued_rows=0, stalled=1, stalled_s=0.03)


def test_last_call():
    """Before a request is lost a server is asked as long as it can be in time, whatever the budget says."""
    stand = Stand(known=False, extras=0)
    pending = stand.ask(0.1)
    assert wait_out(stand) == pytest.approx(0.1 - 0.002 * (1 + SLACK_SHARE) - 0.1 * LENGTH_SHARE)
    stand.clock.advance(0.002)
    stand.remote.end()
    assert told(pending.result(0)) == (
        "server:s:1",
        "hedged",
        [("device", "cancelled", 89.5), ("server:s:1", "answered", 2)],
    )


@pytest.mark.parametrize("began_s", [-0.02, 0.0, 0.06, 0.15])
def test_stalled_device_is_not_waited_for_until_the_last_call(began_s):
    """What a device that stands still is predicted to be too late with is sent then, whatever the budget says."""
    stand = Stand(known=False, extras=0)
    stand.device.load = WAITS
    stand.ask(0.4)
    looks = 0
    while not stand.remote.asked:
        stand.clock.advance(stand.later.waits[-1])
        stalled_s = stand.clock() - stand.start_s - began_s
        stand.device.load = replace(STALLS, stalled_s=stalled_s) if stalled_s > 0.03 else WAITS
        stand.later.go_off()
        looks += 1
    sent_s = stand.clock() - stand.start_s
    assert 0.4 - sent_s <= sent_s - began_s + 0.04  # It was to stand still for as long again, and to run what waits.
    assert 0.4 - sent_s >= 0.05
    assert looks <= 5


def test_stalled_device_gets_its_last_call_where_no_server_could_be_asked_before():
    """A look that finds the device too late and no server in time leaves it to the next."""
    stand = Stand(known=False, extras=0)
    stand.device.load = WAITS
    stand.ask(0.4)
    stand.device.load = replace(STALLS, stalled_s=0.3)
    stand.remote.expected_s = 1.0
    stand.clock.advance(stand.later.waits[-1])
    stand.later.go_off()
    assert not stand.remote.asked
    stand.remote.expected_s = 0.002
    assert wait_out(stand) < 0.4 - MOST_SLACK_S
    assert len(stand.remote.asked) == 1


@given(st.floats(0.0, 10.0), st.floats(0.0, 1.0), st.none() | st.floats(0.0, 10.0))
def test_looks_whether_a_device_stands_still_come_to_an_end(length_s, share, stall):
    """Each is at least so much after the one before and before the last call; and short requests have none."""
    last_s = length_s * share
    at_s = glance_s(0.0, length_s, last_s, stall)
    assert at_s is None or GLANCE_S <= at_s < last_s - GLANCE_S
    assert at_s is None or length_s > 2 * GLANCE_S


@pytest.mark.parametrize(("length_s", "expected_s"), [(0.01, SLACK_S), (0.05, 0.005), (0.4, MOST_SLACK_S)])
def test_slack_is_a_share_of_the_whole(length_s, expected_s):
    """Between what an idle machine takes and what a busy one does."""
    assert slack_s(length_s) == pytest.approx(expected_s)


@pytest.mark.parametrize("why_not", ["budget", "server"])
def test_last_call_after_a_copy_that_was_not_sent(why_not):
    """What the budget refused, or no server was in time for, is looked at once more."""
    stand = Stand(extras=0 if why_not == "budget" else 10)
    stand.ask(0.1)
    stand.remote.expected_s = 1.0 if why_not == "server" else 0.002
    stand.clock.advance(0.012)
    stand.later.go_off()
    assert not stand.remote.asked
    stand.remote.expected_s = 0.002
    assert wait_out(stand, begun_s=0.012) == pytest.approx(0.0875)
    assert len(stand.remote.asked) == 1


@pytest.mark.parametrize("stalls", [False, True])
def test_last_call_of_what_waits(stalls):
    """What should still be answered as predicted is left to the device, unless that stands still."""
    stand = Stand(expected_s=0.03)
    stand.device.load = WAITS
    stand.ask(0.08)
    assert stand.later.waits == [pytest.approx(0.08 - 0.03 * (1 + SLACK_SHARE) - 0.008)]
    stand.clock.advance(0.04)
    stand.device.load = STALLS if stalls else WAITS
    stand.later.go_off()
    assert len(stand.remote.asked) == stalls


@pytest.mark.parametrize("load", [WAITS, STALLS])
def test_short_runs_have_a_last_call_behind_a_stalled_one_alone(load):
    """Where runs are short no caller pays for a race, unless the device stands still."""
    stand = Stand(known=False)
    for _ in range(100):
        stand.device.costs.record(1, 0.001)
    stand.device.load = load
    stand.ask(0.1)
    assert len(stand.later.waits) == (load is STALLS)
    assert "0 answers" in repr(stand.hedging)


@pytest.mark.parametrize(("deadline_s", "leaves"), [(None, False), (0.1, True), (0.0125, False)])
def test_callers_with_deadlines_wait_for_long_runs(deadline_s, leaves):
    """Who can be answered by a server while the own run stalls does not make it; others do."""
    stand = Stand(known=False)
    stand.device.outcome = None
    stand.router.infer(asked(stand.clock, deadline_s))
    assert bool(stand.later.waits) is leaves


def test_what_a_copy_could_not_save_is_not_watched():
    """Where the copy would be due too late for its deadline, the request costs neither timer nor race."""
    stand = Stand()
    stand.ask(0.0125)
    stand.device.load = BUSY
    stand.remote.expected_s = 19.0
    stand.ask(0.05)
    assert not stand.later.waits


def test_offline_work_is_not_copied():
    """Where nobody waits nothing is late."""
    stand = Stand()
    stand.router.submit(asked(stand.clock), hedge=False)
    assert not stand.later.waits


def test_short_runs_are_not_copied():
    """A model that is done in a millisecond stays in the caller's thread."""
    stand = Stand()
    for _ in range(100):
        stand.device.costs.record(1, 0.001)
    stand.ask()
    assert not stand.later.waits


@pytest.mark.parametrize("first", ["device", "copy"])
def test_one_that_fails_leaves_it_to_the_other(first):
    """A failure of one place is no failure of the request while the other may answer."""
    stand = Stand()
    pending = stand.late()
    if first == "device":
        stand.device.end(SPOILT)
        assert not pending.done()
        stand.remote.end()
        assert told(pending.result(0))[2][0] == ("device", "failed: broken", 12)
    else:
        stand.remote.end(BROKEN)
        assert not pending.done()
        stand.device.end()
        assert pending.result(0).tried[0].outcome.startswith("failed: scale/1: no server answered")
    assert len(stand.remote.asked) == len(stand.device.asked) == 1


@pytest.mark.parametrize("first", ["device", "copy"])
def test_both_fail(first):
    """Where both fail the request ends with the device's error."""
    stand = Stand()
    pending = stand.late()
    ends = [lambda: stand.device.end(SPOILT), lambda: stand.remote.end(BROKEN)]
    for end in ends if first == "device" else reversed(ends):
        assert not pending.done()
        end()
    assert pending.exception(0) is SPOILT


def test_engine_that_fails_before_the_copy():
    """The usual rescue: a server is asked at once, and no copy is sent beside it."""
    stand = Stand()
    pending = stand.ask()
    stand.device.end(SPOILT)
    stand.later.go_off()
    assert len(stand.remote.asked) == 1
    stand.remote.end()
    assert pending.result(0).reason == "engine-failed"


TOO_LATE = DeadlineExceeded("scale/1", 100.0, {"waiting for the device": 12.0})


def test_what_the_device_gives_up_is_left_to_the_copy():
    """A device that would be too late does not end a copy that may be in time."""
    stand = Stand()
    pending = stand.late(0.1)
    stand.device.end(TOO_LATE)
    assert not pending.done()
    stand.clock.advance(0.004)
    stand.remote.end()
    assert told(pending.result(0)) == ("server:s:1", "hedged", [("device", "late", 16), ("server:s:1", "answered", 4)])


@pytest.mark.parametrize(("expected_s", "asks"), [(0.002, 1), (0.2, 0)])
def test_what_the_device_gives_up_before_the_copy(expected_s, asks):
    """A server is asked at once for what the device would be too late with, if it is expected in time itself."""
    stand = Stand()
    pending = stand.ask(0.1)
    stand.remote.expected_s = expected_s
    stand.device.end(TOO_LATE)
    assert len(stand.remote.asked) == asks
    if asks:
        stand.remote.end()
        assert told(pending.result(0))[:2] == ("server:s:1", "overloaded")
    else:
        assert pending.exception(0) is TOO_LATE


def test_a_deadline_that_has_passed_ends_the_race():
    """At the deadline itself nobody is asked any more, and the copy is given up."""
    stand = Stand()
    pending = stand.late(0.1)
    stand.clock.advance(0.1)
    stand.device.end(TOO_LATE)
    assert pending.exception(0) is TOO_LATE
    assert stand.remote.futures[0].cancelled()


def test_rescue_that_fails_too():
    """Where the server that is asked for a failed engine fails, the request ends instead of going round."""
    stand = Stand(outcome=BROKEN)
    pending = stand.ask()
    stand.device.end(SPOILT)
    assert pending.exception(0) is BROKEN
    assert len(stand.device.asked) == 1


def test_the_callers_fault_ends_it():
    """An input that the device refuses is not left to the copy."""
    stand = Stand()
    pending = stand.late()
    stand.device.end(InvalidInput("bad"))
    assert isinstance(pending.exception(0), InvalidInput)
    assert stand.remote.futures[0].cancelled()


@pytest.mark.parametrize("late", [False, True])
def test_cancelling_cancels_both(late):
    """A caller that gives up frees whatever is under way."""
    stand = Stand()
    pending = stand.late() if late else stand.ask()
    assert pending.cancel()
    stand.later.go_off()
    assert stand.device.futures[0].cancelled()
    assert all(future.cancelled() for future in stand.remote.futures)
    assert len(stand.remote.futures) == late


def test_callers_that_wait_are_hedged():
    """A caller in its own thread gets the copy's answer too."""
    stand = Stand()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(stand.router.infer(asked(stand.clock))))
    thread.start()
    until = time.monotonic() + 30
    while not stand.later.waits and time.monotonic() < until:
        time.sleep(0.001)
    stand.later.go_off()
    stand.remote.end()
    thread.join(30)
    assert answers[0].reason == "hedged"


def test_what_is_late_is_learnt_from_idle_engines():
    """Answers from the caller's own thread tell what the device takes, until enough are known to hedge."""
    stand = Stand(known=False)
    stand.device.outcome = None
    for _ in range(MIN_ANSWERS + 20):
        stand.router.infer(asked(stand.clock))
    assert stand.hedging.ready
    assert stand.later.waits


def test_a_queue_is_no_lateness():
    """What waits behind others as predicted is not late: the copy is due after the queue."""
    stand = Stand()
    stand.device.load = BUSY
    stand.ask()
    assert stand.later.waits[0] > 1.0


def test_losers_count():
    """A request whose copy won counts with what it took: else the percentile would sink with each copy."""
    stand = Stand(extras=1000)
    for _ in range(WINDOW):
        stand.late()
        stand.clock.advance(0.088)
        stand.remote.end()
    assert stand.hedging.lateness.factor == pytest.approx(10.0)


@given(st.integers(), st.integers(MIN_ANSWERS // 16 + 1, 2 * WINDOW // 16).map(lambda count: count * 16))
def test_percentile(seed, count):
    """One in twenty of the latest answers is beyond it, and no more."""
    lateness, source = Lateness(), random.Random(seed)
    ratios = [source.expovariate(1.0) for _ in range(count)]
    for ratio in ratios:
        lateness.record(ratio, 1.0)
    latest = ratios[-WINDOW:]
    beyond = sum(ratio > lateness.factor for ratio in latest) / len(latest)
    assert 0.05 - 2 / len(latest) <= beyond <= 0.05


@pytest.mark.parametrize(
    ("expected_s", "remaining_s", "worth"),
    [(0.01, 0.02, True), (0.01, None, True), (0.03, 0.02, False), (None, 0.02, False), (None, None, False)],
)
def test_worth_a_copy(expected_s, remaining_s, worth):
    """A copy is sent where a server may answer in time."""
    assert worth_a_copy(expected_s, remaining_s) is worth


@given(st.floats(0.001, 10), st.floats(0, 10))
def test_no_copy_before_the_prediction(predicted_s, factor):
    """However early answers come, what was predicted is waited for."""
    assert copy_after_s(predicted_s, factor) > predicted_s


def test_engine_error_without_remote():
    """Without servers the engine's error is the caller's."""
    clock = FakeClock()
    with pytest.raises(EngineFailed):
        Router(FakeDevice(clock, SPOILT), None, installed=list, clock=clock).infer(asked(clock))
