"""What a long run is judged by."""

import math

import numpy as np
import pytest

from benchmarks.soak.outcomes import ERROR, NAMELESS, OK, WRONG, Outcomes, Seen, WrongAnswer
from benchmarks.soak.verdict import calm, growth, latency_growth, slope, verdicts


def requests(count=1000, *, outcome=OK, took_ms=1.0, kinds=("one",), kind=0):
    times = np.linspace(0, 100, count)
    filled = (np.full(count, kind, np.uint8), np.full(count, outcome, np.uint8))
    return Seen(kinds, times, np.broadcast_to(np.float32(took_ms), count).copy(), *filled, {})


def missed(seen, faults_s=(), levels=None):
    return [what for what, _, held in verdicts(seen, faults_s, levels or {}) if not held]


@pytest.mark.parametrize("seed", range(5))
def test_a_slope_is_that_of_the_most(seed):
    """A line is found in noise of its own size, also where one point in four is ten times as high."""
    generator = np.random.default_rng(seed)
    times = np.arange(200.0)
    values = 0.5 * times + generator.normal(0, 10, 200)
    values[generator.random(200) < 0.25] += 1000
    assert slope(times, values) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("values", "grown"), [([100.0] * 50, 0.0), (list(range(100, 150)), 0.49), ([5.0], 0.0), ([0.0] * 9, 0.0)]
)
def test_growth_is_a_share_of_the_beginning(values, grown):
    """Of 100 to 149: 0.49; of one point, or of nothing, none."""
    assert growth(list(range(len(values))), values) == pytest.approx(grown)


def test_what_was_nothing_and_came_to_be_has_grown_without_bound():
    """A share of nothing has no number."""
    assert growth(list(range(40)), [0.0] * 15 + [1.0 * each for each in range(25)]) == math.inf


def test_a_saw_does_not_grow():
    """Memory that falls back with each unload."""
    assert abs(growth(list(range(400)), [100 + each % 20 for each in range(400)])) < 0.01


def test_what_a_fault_can_not_have_done_counts():
    """Requests that ended before it, or began five seconds after."""
    seen = requests(took_ms=2000.0)
    assert np.array_equal(calm(seen, [50.0]), (seen.at_s < 48.0) | (seen.at_s > 55.0))
    assert calm(seen, []).all()


@pytest.mark.parametrize(("outcome", "miss"), [(WRONG, "wrong"), (NAMELESS, "without a name"), (ERROR, "errors 5 s")])
def test_one_that_ended_ill_is_enough(outcome, miss):
    """Of a thousand; an error right after a fault is none."""
    seen = requests()
    assert missed(seen) == []
    seen.outcome[500] = outcome
    (found,) = missed(seen)
    assert miss in found
    assert (missed(seen, [seen.at_s[500]]) == []) is (outcome == ERROR)


def test_a_run_in_which_nothing_was_asked_is_missed():
    """Silence holds nothing."""
    assert missed(requests(0)) == ["wrong answers: none"]


def test_latencies_of_each_kind_are_measured_by_their_own():
    """Twice as slow at the end, whatever other kinds take; quicker at the end is none."""
    slow = requests(took_ms=np.linspace(1.0, 2.0, 1000), kinds=("slow",))
    long = requests(took_ms=500.0, kinds=("long",))
    assert latency_growth(slow)[50] > 0.7
    assert latency_growth(long)[50] == 0.0
    assert len(missed(slow.and_also(long))) > 0
    assert missed(requests(took_ms=np.linspace(2.0, 1.0, 1000))) == []


def test_what_grows_is_missed_by_name():
    """Above two in a hundred."""
    times = list(map(float, range(100)))
    levels = {"files": (times, [100 + each / 20 for each in times]), "threads": (times, [50.0] * 100)}
    assert missed(requests(), (), levels) == ["files: grows by at most 2%"]
    assert missed(requests(), (), {"lost": ([], [])}) == ["lost: grows by at most 2%"]


def test_outcomes_are_read_as_they_were_noted(tmp_path):
    """Of two kinds, with what errors said; more than are written at a time."""
    outcomes = Outcomes(tmp_path / "seen.bin", ("one", "two"), (ValueError,))
    raised = [None, WrongAnswer("7, not 8"), ValueError("full"), KeyError("odd")]
    for number in range(400):
        with outcomes.request(("one", "two")[number % 2]):
            if (error := raised[number % 4]) is not None:
                raise error
    outcomes.close()
    seen = Seen.read(tmp_path / "seen.bin", ("one", "two"))
    assert seen.outcome.tolist() == [OK, WRONG, ERROR, NAMELESS] * 100
    assert seen.kind.tolist() == [0, 1] * 200
    assert np.all(np.diff(seen.at_s) >= 0)
    assert seen.texts["one: ValueError('full')"] == 100
    both = seen.and_also(Seen.read(tmp_path / "seen.bin", ("three", "four")))
    assert both.kinds == ("one", "two", "three", "four")
    assert both.kind.tolist() == [0, 1] * 200 + [2, 3] * 200
