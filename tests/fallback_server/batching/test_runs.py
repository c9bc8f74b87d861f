import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback_server.batching.runs import LONG_S, Runner, Runs


@pytest.mark.parametrize(
    ("begun", "queue", "expected"),
    [
        ([], "a", -math.inf),
        ([("a", 9.9)], "a", -math.inf),
        ([("a", 9.9), ("a", 9.95)], "a", math.inf),
        ([("a", 1.0), ("a", 9.95)], "a", math.inf),
        ([("a", 9.9), ("b", 9.95)], "a", 9.9 + LONG_S),
        ([("a", 9.9), ("b", 9.95)], "c", -math.inf),
        ([("a", 9.9), ("b", 9.95), ("c", 9.96)], "d", 9.9 + LONG_S),
        ([("a", 9.9), ("b", 9.95), ("c", 9.96)], "a", 9.95 + LONG_S),
        ([("a", 1.0), ("a", 2.0)], "b", -math.inf),
        ([("a", 1.0), ("a", 2.0), ("b", 9.9), ("b", 9.9)], "c", -math.inf),
        ([("a", 1.0), ("a", 2.0), ("b", 9.9), ("b", 9.9), ("c", 9.95)], "d", 9.9 + LONG_S),
    ],
)
def test_when_a_queue_may_begin(begun, queue, expected):
    """Two at a time, a third of a queue that has none, at most two of one, and long runs don't count."""
    runs = Runs(2)
    for one, begun_s in begun:
        runs.begin(one, begun_s)
    assert runs.may_begin_s(queue, 10.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("slots", "own", "expected"),
    [(1, 0, -math.inf), (2, 0, -math.inf), (2, 1, 10.5), (2, 2, math.inf), (3, 1, -math.inf), (3, 2, 10.5)],
)
def test_a_queue_that_makes_room_leaves_one_slot_for_a_while(slots, own, expected):
    """One batch less of several, never none at all; and no longer than said, whatever the others of it do."""
    runs = Runs(slots)
    for _ in range(own):
        runs.begin("a", 9.9)
    assert runs.may_begin_s("a", 10.0, room_until_s=10.5) == expected
    assert runs.may_begin_s("a", 10.5, room_until_s=10.5) == (math.inf if own == slots else -math.inf)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.2), st.integers(0, 3)), max_size=60), st.integers(1, 3))
def test_the_bounds_hold_and_nobody_is_kept_out_for_long(steps, slots):
    """Whatever begins and ends: bounds for all and for each, and an instant at which a queue with room may begin."""
    runs, live, now_s = Runs(slots), [], 0.0
    for queue, wait_s, ended in steps:
        now_s += wait_s
        for _ in range(min(ended, len(live))):
            runs.end(live.pop(0))
        may_s = runs.may_begin_s(queue, now_s)
        own = sum(one.queue == queue for one in live)
        assert (may_s == math.inf) == (own >= slots)
        if own < slots:
            assert may_s <= now_s + LONG_S
            assert runs.may_begin_s(queue, max(may_s, now_s) + 1e-9) == -math.inf
        if may_s <= now_s:
            live.append(runs.begin(queue, now_s))
        assert len(runs) == len(live)
        assert sum(now_s - one.begun_s < LONG_S for one in live) <= slots + 1


def test_lanes_of_a_queue_are_its_own():
    """As many as it has, whatever others do, and none of them counts."""
    runs = Runs(1)
    begun = [runs.begin("inside", 0.0, counts=False) for _ in range(3)]
    assert runs.may_begin_s("inside", 0.0, lanes=3) == math.inf
    assert runs.may_begin_s("inside", 0.0, lanes=4) == -math.inf
    assert runs.may_begin_s("other", 0.0) == -math.inf
    assert len(runs) == 3
    runs.end(begun[0])
    assert runs.may_begin_s("inside", 0.0, lanes=3) == -math.inf


def test_queues_of_one_runner_have_no_more_under_way_than_it_takes():
    """One of two signatures runs, so the other waits for its end; a third, of another model, does not."""
    runs, runner = Runs(4), Runner(1)
    run = runs.begin("a", 0.0, runner=runner)
    assert runs.may_begin_s("a", 0.0, runner=runner) == math.inf
    assert runs.may_begin_s("b", 9.0, runner=runner) == math.inf
    assert runs.may_begin_s("c", 0.0) == runs.may_begin_s("c", 0.0, runner=Runner(1)) == -math.inf
    runs.end(run)
    assert runs.may_begin_s("b", 0.0, runner=runner) == -math.inf
    assert not runs._busy
