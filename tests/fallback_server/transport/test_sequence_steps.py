"""Which steps are handed over together."""

import pytest

from fallback_server.transport.sequence_steps import MAX_ROW, Row


@pytest.mark.parametrize(
    ("counts", "ends_after"),
    [
        ([1, 1, 1], 3),
        ([1, 2, 2, 2], 4),
        ([1, 1, 2, 2, 3, 3, 3], 7),
        ([1, MAX_ROW], 2),
        ([MAX_ROW + 5], 1),
    ],
)
def test_a_row_ends_with_a_pause_or_when_it_is_a_batch(counts, ends_after):
    """The steps there are after each turn of the event loop -> the turn that ends the row."""
    row = Row()
    assert [row.over(count, 0.0) for count in counts].index(True) == ends_after - 1


def test_a_row_ends_in_time():
    """Even where steps come without end."""
    row = Row(until_s=2.0)
    assert not row.over(1, 1.9)
    assert row.over(2, 2.0)
