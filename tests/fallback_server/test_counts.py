"""Counts by bucket."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from fallback_server.counts import add_values


@given(
    bounds=st.lists(st.floats(0, 10), min_size=1, max_size=6, unique=True).map(sorted),
    values=st.lists(st.floats(0, 12) | st.sampled_from([0.0, 1.0, 10.0]), max_size=40),
)
def test_many_values_lie_where_each_does(bounds, values):
    """To count values together gives what counting each in its bucket gives, at the buckets' ends too."""
    values = [*values, *bounds]
    together, each = [0] * (len(bounds) + 1), [0] * (len(bounds) + 1)
    add_values(together, bounds, values)
    for value in values:
        each[bisect_left(bounds, value)] += 1
    assert together == each
