import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.clock import FakeClock

from edge_runtime.routing.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S, LONGEST_OPEN_S, Breaker, BreakerState


def opened():
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.begin()
        breaker.failed()
    return clock, breaker


def test_opens_after_consecutive_failures_only():
    """A success between failures starts the count anew."""
    breaker = Breaker(FakeClock())
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.state is BreakerState.CLOSED


def test_half_open_lets_one_through():
    """After its time an open breaker lets exactly one request find out."""
    clock, breaker = opened()
    assert not breaker.allows
    clock.advance(FIRST_OPEN_S)
    assert breaker.allows
    breaker.begin()
    assert not breaker.allows
    breaker.succeeded()
    assert breaker.allows


def test_openings_double_up_to_the_bound():
    """Each failed probe doubles the wait, up to the longest."""
    clock, breaker = opened()
    wait_s = FIRST_OPEN_S
    for _ in range(10):
        clock.advance(wait_s)
        breaker.begin()
        breaker.failed()
        wait_s = min(wait_s * 2, LONGEST_OPEN_S)
        clock.advance(wait_s * 0.99)
        assert not breaker.allows
        clock.advance(wait_s * 0.01 + 1e-6)
        assert breaker.allows
    assert wait_s == LONGEST_OPEN_S


def test_abandoned_probe_does_not_leave_it_stuck():
    """A probe that was cancelled says nothing, and another is let through later."""
    clock, breaker = opened()
    clock.advance(FIRST_OPEN_S)
    breaker.begin()
    breaker.abandoned()
    clock.advance(FIRST_OPEN_S)
    assert breaker.allows


class BreakerMachine(RuleBasedStateMachine):
    """Requests that pass, end in any way and in any order, while time goes on."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(self.clock)
        self.under_way = 0

    @precondition(lambda self: self.breaker.allows)
    @rule()
    def begin(self):
        self.breaker.begin()
        self.under_way += 1

    @precondition(lambda self: self.under_way)
    @rule(end=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, end):
        getattr(self.breaker, end)()
        self.under_way -= 1

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def never_stuck(self):
        if not self.under_way and not self.breaker.allows:
            assert self.breaker.state is not BreakerState.HALF_OPEN
            assert self.breaker._until_s - self.clock() <= LONGEST_OPEN_S


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("end", ["succeeded", "failed", "abandoned"])
def test_repr_shows_the_state(end):
    """The repr says the state, for logs."""
    breaker = Breaker(FakeClock())
    getattr(breaker, end)()
    assert "closed" in repr(breaker)
