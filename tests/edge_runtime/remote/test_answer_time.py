import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import FakeClock

from edge_runtime.remote.answer_time import MAX_KINDS, UNKNOWN_S, AnswerTime, kind_of

SMALL, LARGE = 100, 1_000_000


def answered(clock, time, took_s, count=1, model="m", nbytes=SMALL):
    for _ in range(count):
        number = time.begin(kind_of(model, nbytes), 0.01)
        clock.advance(took_s)
        time.answered(kind_of(model, nbytes), time.end(number))


def usual(clock, time, model="m", nbytes=SMALL):
    return time.usual_s(kind_of(model, nbytes), clock())


def test_follows_answers():
    """Some ten answers bring the estimate close to what a server takes now."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.01)
    answered(clock, time, 0.1, 20)
    assert usual(clock, time) == pytest.approx(0.1, rel=0.05)


def test_models_are_told_apart():
    """A slow model makes nobody expect another one late."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 1.0, model="slow")
    answered(clock, time, 0.01, model="fast")
    assert usual(clock, time, "fast") == pytest.approx(0.01)
    assert usual(clock, time, "other") is None


def test_sizes_are_told_apart():
    """Many rows take longer than one; what is not known of a size is taken from the next smaller one."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.01, nbytes=SMALL)
    answered(clock, time, 0.2, nbytes=LARGE)
    assert usual(clock, time, nbytes=SMALL) == pytest.approx(0.01)
    assert usual(clock, time, nbytes=LARGE) == pytest.approx(0.2)
    assert usual(clock, time, nbytes=LARGE // 16) == pytest.approx(0.01)
    assert usual(clock, time, nbytes=1) == pytest.approx(0.01)


def late_after_s(expected_s):
    return expected_s * 1.5 + 0.005


def test_first_call_under_way_that_will_be_late_is_known():
    """The instant from which on the first of the calls under way is late, not that of the first that began."""
    clock = FakeClock()
    time = AnswerTime(clock)
    long, short = time.begin(("m", 0), 5.0), time.begin(("m", 0), 0.1)
    assert (time.due_s, time.in_flight) == (clock() + late_after_s(0.1), 2)
    time.end(short)
    assert time.due_s == clock() + late_after_s(5.0)
    time.end(long)
    assert (time.due_s, time.in_flight) == (math.inf, 0)


def test_lateness_raises_the_estimate_and_an_answer_lowers_it():
    """A server that has not answered yet is slower than a call waited in vain, until it answers."""
    clock = FakeClock()
    time = AnswerTime(clock)
    time.late(kind_of("m", SMALL), 0.1, news=True)
    assert usual(clock, time) == pytest.approx(0.15)
    answered(clock, time, 0.01)
    assert usual(clock, time) == pytest.approx(0.01)


def test_calls_that_were_late_together_are_one_pause():
    """One makes little of a difference, many of one moment show what they waited, one after the other even more."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.01, 20)
    time.late(kind_of("m", SMALL), 0.1, news=True)
    assert usual(clock, time) < 0.05
    for _ in range(50):
        time.late(kind_of("m", SMALL), 0.1, news=False)
    assert usual(clock, time) == pytest.approx(0.1, rel=0.01)
    for _ in range(50):
        time.late(kind_of("m", SMALL), 0.1, news=True)
    assert usual(clock, time) == pytest.approx(0.15, rel=0.01)
    answered(clock, time, 0.01)
    assert usual(clock, time) == pytest.approx(0.01)


def test_slowness_is_forgotten_only_while_nothing_is_sent():
    """A server that was slow for a while is tried again soon, but not because of calls that hang there."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 0.01)
    answered(clock, time, 1.0, 20)
    slow_s = usual(clock, time)
    for _ in range(10):
        number = time.begin(kind_of("m", SMALL), 0.01)
        clock.advance(0.5)
        time.end(number)
        assert usual(clock, time) == slow_s
    clock.advance(20)
    assert usual(clock, time) < 0.3


def test_model_that_was_never_faster_stays_slow():
    """What is known to be the least a model takes is forgotten over minutes, not over seconds."""
    clock = FakeClock()
    time = AnswerTime(clock)
    answered(clock, time, 1.0, 20)
    clock.advance(10)
    assert usual(clock, time) > 0.8
    clock.advance(600)
    assert usual(clock, time) < 0.01


def test_a_call_ends_once():
    """Of two ends, the second says None."""
    time = AnswerTime(FakeClock())
    number = time.begin(("m", 0), 0.1)
    assert time.end(number) == 0
    assert time.end(number) is None
    assert time.in_flight == 0


def test_kinds_are_bounded():
    """Names that a caller makes up do not fill the memory."""
    clock = FakeClock()
    time = AnswerTime(clock)
    for number in range(MAX_KINDS + 10):
        time.answered((f"m{number}", 1), 0.1)
    assert usual(clock, time, "m0", 1) is None
    assert usual(clock, time, f"m{MAX_KINDS}", 1) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.floats(0, 10)), max_size=60))
def test_calls_are_counted_whatever_their_order(steps):
    """However calls begin and end, the number under way and the first one that is due are right."""
    clock = FakeClock()
    time = AnswerTime(clock)
    due = {}
    for begins, expected_s, pause_s in steps:
        clock.advance(pause_s)
        if begins or not due:
            due[time.begin(kind_of("m", SMALL), expected_s)] = clock() + late_after_s(expected_s)
        else:
            number = sorted(due)[int(expected_s * 7) % len(due)]
            assert time.end(number) is not None
            del due[number]
        assert time.in_flight == len(due)
        assert time.due_s == pytest.approx(min(due.values(), default=math.inf))


def test_a_larger_size_takes_as_many_times_as_long_until_it_is_answered():
    """Of two sizes that were answered the smaller one next to it counts; what was never answered takes little."""
    time = AnswerTime(FakeClock())
    assert time.typical_s(("m", 10)) == UNKNOWN_S
    time.late(("m", 10), 3.0, news=True)
    assert (time.typical_s(("m", 10)), time.knows("m")) == (UNKNOWN_S, False)
    time.answered(("m", 10), 0.1)
    time.answered(("m", 4), 0.05)
    assert time.knows("m")
    assert not time.knows("n")
    assert time.typical_s(("m", 10)) == pytest.approx(0.1)
    assert time.typical_s(("m", 12)) == pytest.approx(0.4)
    assert time.typical_s(("m", 2)) == pytest.approx(0.05)
