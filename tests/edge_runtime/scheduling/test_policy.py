import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduling.policy import Plan, Waiting, form_batch


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
