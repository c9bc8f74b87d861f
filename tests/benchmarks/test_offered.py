"""What the overload benchmark makes of what became of calls."""

import numpy as np
import pytest

from benchmarks.offered import DEADLINE_MS, Subject, _back_s, in_time
from benchmarks.raw_calls import Calls


def calls(until_s, *, slow=(0.0, 0.0), refused=(0.0, 0.0), hz=100.0):
    """At an even rate, answered in 5 ms, but in those times in 40 or not."""
    due_s = np.arange(int(until_s * hz)) / hz
    took_ms = np.where((due_s >= slow[0]) & (due_s < slow[1]), 40.0, 5.0)
    status = np.where((due_s >= refused[0]) & (due_s < refused[1]), 8, 0)
    return Calls(due_s, due_s, took_ms, status, 0.0)


def test_only_answers_by_their_deadline_count():
    """Neither refusals nor what came later."""
    found = calls(1.0, refused=(0.2, 0.3))
    found.took_ms[:5] = DEADLINE_MS + 1
    assert in_time(found) == 85


@pytest.mark.parametrize(
    ("trouble", "back_s"),
    [
        ({}, 0.0),
        ({"refused": (2.0, 6.0)}, 0.0),
        ({"refused": (2.0, 6.45)}, 0.5),
        ({"slow": (2.0, 7.03)}, 1.0),
        ({"slow": (2.0, 7.07)}, 1.1),
    ],
)
def test_it_is_back_when_as_many_are_answered_as_before_and_as_soon(trouble, back_s):
    """To a tenth of a second: the last in which more than one was lost, or half took twice as long as most had."""
    assert _back_s(calls(10.0, **trouble), 2.0, 6.0) == pytest.approx(back_s)


def test_goodput_under_the_greatest_load_is_held_against_the_best():
    """Medians of rounds; a subject that refuses late, and whose memory grows, is told so."""
    subject = Subject("one", ask=lambda _: calls(1.0), memory_mib=lambda: 1.0)
    subject.goodput_hz = {0.5: [50.0, 50.0, 50.0], 1.0: [90.0, 100.0, 300.0], 4.0: [95.0, 10.0, 96.0]}
    subject.refused_ms, subject.growth, subject.back_s = [1.0] * 99 + [50.0] * 2, 0.03, 1.0
    assert subject.ratio == 0.95
    assert [held for _, _, held in subject.verdicts()] == [True, False, False, True]


def test_what_is_borne_is_found_in_spite_of_one_bad_second():
    """The best of loads that are doubled until two in a row were not answered."""
    answered = {25.0: 25, 50.0: 10, 100.0: 100, 200.0: 150, 400.0: 120}
    subject = Subject("one", ask=lambda phases: calls(1.0, hz=answered[phases[0][0]]), memory_mib=lambda: 1.0)
    subject.find_capacity(1.0)
    assert subject.capacity_hz == 150.0
