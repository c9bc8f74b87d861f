"""Which prepared sizes a number of rows is run in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback_server.executors.sizes import parts_of, parts_table, thinned, worth_rows

POWERS = (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("sizes", "most", "kept"),
    [
        (POWERS, 9, POWERS),
        (POWERS, 6, POWERS),
        (POWERS, 3, (1, 4, 32)),
        (POWERS, 2, (1, 32)),
        (POWERS, 1, (1,)),
        ((5,), 1, (5,)),
    ],
)
def test_few_sizes_are_spread_over_all(sizes, most, kept):
    """The smallest and the largest among them."""
    assert thinned(sizes, most) == kept


@pytest.mark.parametrize(
    ("cost_s", "rows", "parts"),
    [
        # A run costs next to nothing beside what a further part does: padded.
        ({1: 1e-6, 2: 1e-6, 4: 1e-6, 8: 1e-6}, 5, (8,)),
        # A row costs what it costs: exactly as many as there are.
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 5, (4, 1)),
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 7, (4, 2, 1)),
        # Large batches are no cheaper a row than small ones: still one run, where that is no dearer.
        ({1: 1.0, 8: 7.9}, 8, (8,)),
        ({1: 1.0, 8: 7.9}, 21, (8, 8, 1, 1, 1, 1, 1)),
        ({4: 1.0}, 3, (4,)),
        ({4: 1.0}, 0, ()),
    ],
)
def test_the_cheapest_way_is_taken(cost_s, rows, parts):
    """Padding, parts, or both, by what was measured."""
    assert parts_of(rows, parts_table(cost_s)) == parts


@pytest.mark.parametrize(
    ("cost_s", "rows"),
    [
        ({1: 5.6e-3, 2: 12.1e-3, 4: 25e-3, 8: 54e-3}, 1),
        ({1: 23e-3, 2: 40e-3, 4: 72e-3, 8: 134e-3}, 8),
        ({1: 10e-3, 2: 15e-3, 4: 30.1e-3, 8: 59e-3}, 2),
        ({1: 0.9e-3, 8: 7.2e-3}, 0),
        ({4: 8e-3}, 4),
        ({}, 0),
    ],
)
def test_the_rows_that_are_worth_merging_are_those_from_which_on_a_row_gets_no_cheaper(cost_s, rows):
    """What is within the noise counts as no cheaper, and of short rows nothing is said."""
    assert worth_rows(cost_s) == rows


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(1, 40), st.floats(1e-6, 1.0), min_size=1, max_size=6),
    st.integers(0, 150),
)
def test_every_row_is_run_and_only_the_last_part_is_padded(cost_s, rows):
    """The parts hold all rows, are prepared sizes, and without the last they hold fewer."""
    parts = parts_of(rows, parts_table(cost_s))
    assert set(parts) <= cost_s.keys()
    assert sum(parts) >= rows
    assert sum(parts[:-1]) < rows or not rows
