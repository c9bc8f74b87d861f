from edge_runtime.remote.group import _GROWS_AFTER, _GROWS_AFTER_AT_MOST, Group
from edge_runtime.remote.lanes import MAX_ROWS


def full_calls_until(group, max_rows):
    """How many calls, each as full as may be, are answered until more may be in one."""
    count = 0
    while group.max_rows != max_rows:
        group.took(group.max_rows)
        count += 1
    return count


def test_calls_grow_again_where_a_servers_bound_is_gone():
    """By and by, and no further than any call does."""
    group = Group(patient=False)
    for rows in (9, 8, 10):  # As halves of several calls are answered.
        group.divided(rows)
    assert group.max_rows == 8
    for rows in (16, 32, 64, 128, MAX_ROWS):
        assert full_calls_until(group, rows) == _GROWS_AFTER
    group.took(MAX_ROWS)
    assert group.max_rows == MAX_ROWS


def test_calls_that_are_not_full_say_nothing_of_larger_ones():
    """Few rows at a time need no more room."""
    group = Group(patient=False)
    group.divided(8)
    for _ in range(10 * _GROWS_AFTER):
        group.took(4)
    assert group.max_rows == 8


def test_a_bound_that_stays_is_tried_ever_less_often():
    """Each try that is refused doubles what comes before the next, within bounds."""
    group = Group(patient=False)
    group.divided(8)
    waits = []
    for _ in range(10):
        waits.append(full_calls_until(group, 16))
        group.divided(8)
    assert waits[:3] == [_GROWS_AFTER, 2 * _GROWS_AFTER, 4 * _GROWS_AFTER]
    assert waits[-1] == _GROWS_AFTER_AT_MOST
