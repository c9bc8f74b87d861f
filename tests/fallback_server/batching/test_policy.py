import math

import pytest

from fallback_server.batching import policy


@pytest.mark.parametrize(
    ("wanted", "allowed", "limit"),
    [(99, (), 32), (5, (), 5), (5, (2, 4, 32), 4), (4, (2, 4, 32), 4), (1, (2, 4, 32), 2), (32, (2, 4, 32), 32)],
)
def test_limit_rows(wanted, allowed, limit):
    """What holds the target; of allowed sizes the largest within it, since more would be padded to the next."""
    assert policy.limit_rows(max_rows=32, wanted_rows=wanted, allowed=allowed) == limit


@pytest.mark.parametrize(
    ("rows", "bulk", "row_s", "piece"),
    [
        (100, 0, 0.001, 32),
        (100, 1024, None, 32),
        (7, 0, None, 7),
        (9999, 1024, 0.0001, 500),
        (300, 1024, 0.0001, 300),
        (9999, 1024, 1e-9, 1024),
        (9999, 1024, 1.0, 32),
    ],
)
def test_piece_rows(rows, bulk, row_s, piece):
    """A batch; where larger pieces are let and rows are measured, what runs for 50 ms, within the bound."""
    assert policy.piece_rows(rows=rows, max_rows=32, bulk_rows=bulk, row_s=row_s) == piece


@pytest.mark.parametrize(
    ("left_s", "ahead", "batch_s", "own_s", "hopeless"),
    [
        (0.1, 10, 0.1, 0.1, True),
        (0.3, 10, 0.1, 0.1, False),
        (0.01, 10, None, None, False),
        (0.01, 10, None, 0.1, True),
        (-1.0, 0, None, None, True),
    ],
)
def test_what_is_hopeless(left_s, ahead, batch_s, own_s, hopeless):
    """More than twice what is left; nothing that was not measured counts."""
    assert policy.is_hopeless(left_s=left_s, ahead=ahead, batch_s=batch_s, own_s=own_s, slots=2) is hopeless


@pytest.mark.parametrize(
    ("rows", "timeout_s", "due_s"), [(1, 0.0, 5.0), (1, 0.5, 5.5), (31, 0.5, 5.5), (32, 0.5, 5.0), (99, 0.5, 5.0)]
)
def test_due(rows, timeout_s, due_s):
    """A full batch is due at once, another when its first request has waited the timeout."""
    assert policy.due_at_s(oldest_s=5.0, rows=rows, max_rows=32, timeout_s=timeout_s) == due_s


@pytest.mark.parametrize(
    ("rows", "queued", "admitted"), [(1, 0, True), (99, 0, True), (1, 9, True), (1, 10, False), (5, 6, False)]
)
def test_admits(rows, queued, admitted):
    """Up to the bound; and into an empty queue whatever the size, since nothing else could ever serve it."""
    assert policy.admits(rows=rows, queued_rows=queued, max_queued_rows=10) is admitted


@pytest.mark.parametrize(
    ("deadline_s", "run_s", "due_s"),
    [
        (math.inf, 0.1, 5.5),
        (5.9, 0.1, 5.5),
        (5.5, 0.1, 5.3),
        (5.1, 0.1, 5.0),
        (5.2, None, 5.1),
        (7.0, None, 5.5),
        (4.0, 0.1, 5.0),
    ],
)
def test_nobody_waits_for_company_until_it_is_too_late(deadline_s, run_s, due_s):
    """Until twice a run before the deadline; where none was measured, for half of the time."""
    found_s = policy.due_in_time_s(due_s=5.5, oldest_s=5.0, deadline_s=deadline_s, run_s=run_s)
    assert found_s == pytest.approx(due_s)


@pytest.mark.parametrize(
    ("others_wait", "begun", "priority", "other_s", "other_priority", "turn"),
    [
        (True, True, 1, 9.0, -1, False),
        (False, True, 0, 1.0, 0, True),
        (False, True, 0, 1.0, -1, True),
        (False, True, 0, 5.9, 1, False),
        (False, True, 0, 6.1, 1, True),
        (False, True, -1, 6.9, 1, False),
        (False, False, 0, 4.9, 0, False),
        (False, False, 0, 5.1, 0, True),
        (False, False, 1, 4.1, 0, True),
    ],
)
def test_whose_turn_it_is_beside_a_large_request(others_wait, begun, priority, other_s, other_priority, turn):
    """Others after each piece; else its own, but for a higher priority within a second; first in the line it has."""
    assert turn is policy.is_large_turn(
        others_wait=others_wait,
        begun=begun,
        stands_s=5.0,
        priority=priority,
        other_s=other_s,
        other_priority=other_priority,
    )
