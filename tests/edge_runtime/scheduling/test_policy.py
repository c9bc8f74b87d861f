import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduling.policy import Plan, Waiting, form_batch, may_be_passed, window_s


def wait(*requests):
    return [Waiting(key, count, deadline_s) for key, count, deadline_s in requests]


INF = math.inf


@pytest.mark.parametrize(
    ("waiting", "sizes", "plan"),
    [
        (wait(), (1,), Plan((), ())),
        (wait(("a", 1, INF)), (1, 4), Plan((0,), ())),
        (wait(*[("a", 1, INF)] * 3), (1, 2, 4), Plan((0, 1), ())),
        (wait(*[("a", 1, INF)] * 5), (1, 2, 4), Plan((0, 1, 2, 3), ())),
        (wait(("a", 1, INF), ("b", 1, INF), ("a", 1, INF)), (1, 2), Plan((0, 2), ())),
        (wait((None, 1, INF), (None, 1, INF)), (1, 2), Plan((0,), ())),
        (wait(("a", 1, 9.0), ("a", 1, 10.0), ("a", 1, 11.0)), (1, 2), Plan((2,), (0, 1))),
        (wait(("a", 3, INF), ("a", 1, INF)), (1, 2, 4), Plan((0, 1), ())),
        (wait(("a", 3, INF), ("a", 3, INF)), (1, 2, 4), Plan((0,), ())),
        (wait(*[("a", 1, INF)] * 4), (1,), Plan((0,), ())),
    ],
)
def test_table(waiting, sizes, plan):
    """The head runs with what joins it up to the largest size that is filled; the dead never run."""
    assert form_batch(waiting, 10.0, sizes) == plan


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 9), st.floats(0, 20)), max_size=30),
    st.sets(st.integers(2, 16)).map(lambda sizes: (1, *sorted(sizes))),
)
def test_properties(requests, sizes):
    """Nothing runs twice or dead, a batch has one key, and whoever is alive at the head runs."""
    waiting = wait(*requests)
    plan = form_batch(waiting, 10.0, sizes)
    assert not set(plan.run) & set(plan.expired)
    assert set(plan.expired) == {i for i, one in enumerate(waiting) if one.deadline_s <= 10.0}
    alive = [i for i, one in enumerate(waiting) if one.deadline_s > 10.0]
    assert plan.run[:1] == tuple(alive[:1])
    if len(plan.run) > 1:
        assert len({waiting[i].key for i in plan.run}) == 1
        assert waiting[plan.run[0]].key is not None
        assert sum(waiting[i].rows for i in plan.run) in sizes


@pytest.mark.parametrize(
    ("waiting", "others", "plan"),
    [
        (wait(("a", 1, 10.5)), False, Plan((), (), (0,))),
        (wait(("a", 1, 11.5)), False, Plan((0,), (), ())),
        (wait(("a", 1, 11.5)), True, Plan((), (), (0,))),
        (wait(("a", 1, 11.5), ("a", 1, 13.0)), False, Plan((1,), (), (0,))),
        (wait(("a", 1, 9.0), ("a", 1, 10.5), ("b", 1, INF)), False, Plan((2,), (0,), (1,))),
        (wait(("a", 1, 13.0), ("a", 1, 14.0)), False, Plan((0,), (), ())),
        (wait(("a", 1, 14.5), ("a", 1, 15.0)), False, Plan((0, 1), (), ())),
    ],
)
def test_what_would_be_late_does_not_run(waiting, others, plan):
    """A run takes 1 s a row and surely 2: who is alone may try the mean, and no batch is too slow for its mates."""
    found = form_batch(
        waiting, 10.0, (1, 2), seconds=lambda rows: 1.0 * rows, sure_seconds=lambda rows: 2.0 * rows, others=others
    )
    assert found == plan


TABLE = {1: 0.010, 4: 0.012, 8: 0.090}


@pytest.mark.parametrize(
    ("given", "window"),
    [
        ({}, 0.001),
        ({"rows": 4}, 0.0),
        ({"rows": 8}, 0.0),
        ({"row_every_s": INF}, 0.0),
        ({"row_every_s": 0.002}, 0.002),
        ({"row_every_s": 0.006}, 0.0),
        ({"waited_s": 0.0045}, 0.0),
        ({"left_s": 0.0125}, 0.0),
        ({"left_s": 0.0135}, 0.001),
    ],
)
def test_window(given, window):
    """A batch waits only where the next size is soon filled, in time, within 5 ms, and cheaper a row in spite of it."""
    values = {"rows": 3, "row_every_s": 0.001, "waited_s": 0.0, "left_s": INF} | given
    assert window_s(sizes=(1, 4, 8), seconds=TABLE.__getitem__, **values) == pytest.approx(window)


@pytest.mark.parametrize(("left_s", "priority", "may"), [(INF, 1, True), (0.009, 1, False), (INF, 0, False)])
def test_who_may_be_passed(left_s, priority, may):
    """Callers keep a slot only while who waits is neither in a hurry nor urgent."""
    assert may_be_passed(left_s, priority) is may
