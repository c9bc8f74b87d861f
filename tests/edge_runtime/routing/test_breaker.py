import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.clock import FakeClock

from edge_runtime.routing.breaker import (
    AGAIN_S,
    FAILURES_TO_OPEN,
    FIRST_OPEN_S,
    LONGEST_OPEN_S,
    PROBE_S,
    Breaker,
    BreakerState,
    Permit,
)


def opened():
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(breaker.acquire())
    return clock, breaker


def test_opens_after_consecutive_failures_only():
    """A success between failures starts the count anew."""
    breaker = Breaker(FakeClock())
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(breaker.acquire())
    breaker.succeeded(breaker.acquire())
    breaker.failed(breaker.acquire())
    assert breaker.state is BreakerState.CLOSED


def test_calls_under_way_together_fail_as_one():
    """A hiccup that ends many calls at once opens nothing; calls that fail one after the other do."""
    breaker = Breaker(FakeClock())
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.state is BreakerState.CLOSED
        together = [breaker.acquire() for _ in range(20)]
        for permit in together:
            breaker.failed(permit)
    assert breaker.state is BreakerState.OPEN


def test_half_open_lets_one_through():
    """After its time an open breaker lets exactly one request find out."""
    clock, breaker = opened()
    assert not breaker.allows
    assert breaker.acquire() is None
    clock.advance(FIRST_OPEN_S)
    assert breaker.allows
    probe = breaker.acquire()
    assert not breaker.allows
    assert breaker.acquire() is None
    breaker.succeeded(probe)
    assert breaker.allows


def test_openings_double_up_to_the_bound():
    """Each failed probe doubles the wait, up to the longest."""
    clock, breaker = opened()
    wait_s = FIRST_OPEN_S
    for _ in range(10):
        clock.advance(wait_s)
        breaker.failed(breaker.acquire())
        wait_s = min(wait_s * 2, LONGEST_OPEN_S)
        clock.advance(wait_s * 0.99)
        assert not breaker.allows
        clock.advance(wait_s * 0.01 + 1e-6)
        assert breaker.allows
    assert wait_s == LONGEST_OPEN_S


def test_abandoned_probe_does_not_leave_it_stuck():
    """A probe that was cancelled says nothing, and another is soon let through; meanwhile it counts as under trial."""
    clock, breaker = opened()
    clock.advance(FIRST_OPEN_S)
    assert not breaker.tries
    breaker.abandoned(breaker.acquire())
    assert breaker.tries
    assert not breaker.allows
    clock.advance(AGAIN_S)
    assert breaker.allows
    breaker.succeeded(breaker.acquire())
    assert breaker.state is BreakerState.CLOSED


def test_lost_probe_does_not_leave_it_stuck():
    """A probe whose outcome is never told bars the endpoint for a bounded time, and then decides nothing."""
    clock, breaker = opened()
    clock.advance(FIRST_OPEN_S)
    lost = breaker.acquire()
    clock.advance(PROBE_S)
    probe = breaker.acquire()
    assert probe is not None
    breaker.failed(lost)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded(probe)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("end", ["succeeded", "failed", "abandoned"])
def test_only_the_probe_decides(end):
    """However a request from before the opening ends, it neither closes nor opens a half-open breaker."""
    clock = FakeClock()
    breaker = Breaker(clock)
    stale = breaker.acquire()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(breaker.acquire())
    clock.advance(FIRST_OPEN_S)
    probe = breaker.acquire()
    getattr(breaker, end)(stale)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows
    breaker.succeeded(probe)
    assert breaker.state is BreakerState.CLOSED


def test_opening_can_be_ended_early():
    """Who hears that the endpoint is back has the next request find out, and no more than one; else nothing changes."""
    _, breaker = opened()
    assert breaker.until_s > 0
    breaker.retry_now()
    assert breaker.state is BreakerState.HALF_OPEN
    probe = breaker.acquire()
    breaker.retry_now()
    assert breaker.acquire() is None
    breaker.succeeded(probe)
    breaker.retry_now()
    assert (breaker.state, breaker.until_s) == (BreakerState.CLOSED, 0.0)


def test_reset_forgets_what_came_before():
    """An endpoint that is known to be new starts closed, and old failures don't count against it."""
    _, breaker = opened()
    breaker.reset()
    old = breaker.acquire()
    breaker.reset()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(old)
    assert breaker.state is BreakerState.CLOSED


def test_who_waits_has_the_next_probe_also_after_one_that_failed():
    """Where a look ends the opening: meanwhile it counts as under trial for those with less time, who get no leave."""
    clock, breaker = opened()
    clock.advance(FIRST_OPEN_S)
    probe = breaker.acquire()
    breaker.await_probe(clock() + 0.3, clock() + 5)
    breaker.failed(probe)
    assert not breaker.tries
    breaker.retry_now()
    assert breaker.acquire(clock() + 1) is None
    assert breaker.tries
    clock.advance(0.3)
    assert not breaker.tries
    assert breaker.acquire(clock() + 1) is not None


class BreakerMachine(RuleBasedStateMachine):
    """Requests that pass, end in any way and in any order, while time goes on."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(self.clock)
        self.under_way = []

    @rule()
    def acquire(self):
        allowed = self.breaker.allows
        half_open = self.breaker.state is BreakerState.HALF_OPEN
        permit = self.breaker.acquire()
        assert (permit is not None) == allowed
        if permit is not None:
            self.under_way.append(permit)
            assert not (half_open and self.breaker.allows)

    @precondition(lambda self: self.under_way)
    @rule(end=st.sampled_from(["succeeded", "failed", "abandoned"]), data=st.data())
    def end(self, end, data):
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        getattr(self.breaker, end)(self.under_way.pop(index))

    @rule()
    def retry_now(self):
        self.breaker.retry_now()

    @rule(until_s=st.floats(0, 1), end_s=st.floats(0, 20))
    def await_probe(self, until_s, end_s):
        self.breaker.await_probe(self.clock() + until_s, self.clock() + end_s)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def never_stuck(self):
        limit_s = PROBE_S if self.breaker.state is BreakerState.HALF_OPEN else LONGEST_OPEN_S
        assert self.breaker.allows or self.breaker._until_s - self.clock() <= limit_s + 1e-6


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("end", ["succeeded", "failed", "abandoned"])
def test_repr_shows_the_state(end):
    """The repr says the state, for logs."""
    breaker = Breaker(FakeClock())
    getattr(breaker, end)(breaker.acquire())
    assert "closed" in repr(breaker)


def test_a_probe_is_left_to_who_has_much_more_time():
    """As long as that one is expected; whoever has half of its time or more may take it."""
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(breaker.acquire())
    clock.advance(FIRST_OPEN_S)
    probe = breaker.acquire(clock() + 0.03)
    breaker.await_probe(clock() + 0.3, clock() + 5)
    breaker.await_probe(clock() + 0.4, clock() + 1)
    breaker.abandoned(probe)
    clock.advance(AGAIN_S)
    assert breaker.tries
    assert breaker.acquire(clock() + 2) is None
    assert breaker.acquire(clock() + 3) is not None
    breaker.abandoned(Permit(breaker._era, breaker._probe))
    clock.advance(0.3)
    assert not breaker.tries
    assert breaker.acquire(clock() + 0.03) is not None
