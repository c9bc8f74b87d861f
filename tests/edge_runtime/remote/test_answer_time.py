import pytest
from support.clock import FakeClock

from edge_runtime.remote.answer_time import AnswerTime


def answered(clock, time, took_s, count=1):
    for _ in range(count):
        number = time.begin()
        clock.advance(took_s)
        time.answered(time.end(number))


def test_follows_answers():
    """Some ten answers bring the estimate close to what a server takes now."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.1, 20)
    assert time.expected_s == pytest.approx(0.1, rel=0.05)


def test_call_in_flight_counts_with_its_age():
    """One more request is not expected to be answered sooner than the oldest call has been waiting."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.05, 20)
    alone_s = time.expected_s
    time.begin()
    assert time.expected_s > alone_s
    clock.advance(3)
    assert time.expected_s >= 3


def test_lateness_raises_the_estimate_and_an_answer_lowers_it():
    """A call that waited in vain makes the server as slow as that, until it answers again."""
    clock = FakeClock()
    time = AnswerTime(clock)
    number = time.begin()
    clock.advance(0.1)
    assert time.late(time.end(number))
    assert time.expected_s == pytest.approx(0.1)
    answered(clock, time, 0.01)
    assert time.expected_s == pytest.approx(0.01)


def test_haste_is_no_lateness():
    """A server that was given less than it usually takes was not late."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.1, 20)
    number = time.begin()
    clock.advance(0.05)
    assert not time.late(time.end(number))


def test_slowness_is_forgotten_only_while_nothing_is_sent():
    """A server that was slow is tried again after a while, but not because of calls that hang there."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 1.0, 20)
    slow_s = time.expected_s
    for _ in range(10):
        number = time.begin()
        clock.advance(0.5)
        assert time.expected_s >= slow_s
        time.end(number)
    clock.advance(20)
    assert time.expected_s < 0.01


def test_a_call_ends_once():
    """Of two ends, the second says None."""
    time = AnswerTime(FakeClock())
    number = time.begin()
    assert time.end(number) == 0
    assert time.end(number) is None
    assert time.in_flight == 0
