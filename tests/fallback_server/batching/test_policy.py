import pytest

from fallback_server.batching import policy


@pytest.mark.parametrize(
    ("rows", "max_rows", "count"),
    [
        ([1, 1, 1], 32, 3),
        ([1, 1, 1], 2, 2),
        ([2, 2, 1], 3, 1),
        ([40], 32, 1),
        ([40, 1], 32, 1),
        ([1, 40, 1], 32, 1),
        ([16, 16, 1], 32, 2),
    ],
)
def test_take(rows, max_rows, count):
    """In order, as many as fit, and a request larger than a batch alone."""
    assert policy.take(rows, max_rows=max_rows) == count


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
