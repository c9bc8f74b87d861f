"""Which prepared sizes a number of rows is run in: one that is padded, or several after one another. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_PART_S = 5e-6
"""What a further part costs besides its run: its inputs are cut, and its outputs put together."""

_PAD_S = 6e-6
"""What padding costs besides the rows that are run in vain: the inputs are copied."""

_LONG_ROW_S = 1e-3
"""To merge requests spares each some tenths of this, in batch threads and on the way to another process."""

_AS_GOOD = 1.05
"""Times the least: what is measured differs by so much from one load to the next."""


def thinned(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """At most `most` of ascending sizes, the smallest and the largest among them, the others evenly between.

    Args:
        sizes: Ascending, at least one.
        most: At least 1; one alone is the smallest.
    """
    if most >= len(sizes):
        return tuple(sizes)
    if most == 1:
        return (sizes[0],)
    step = (len(sizes) - 1) / (most - 1)
    return tuple(sizes[round(index * step)] for index in range(most))


def parts_table(cost_s: Mapping[int, float]) -> tuple[tuple[int, ...], ...]:
    """For each number of rows from 0 to the largest size: the sizes that run them soonest, the largest first.

    The last part may have more rows than are left: it is padded.

    Args:
        cost_s: What a run of each size takes; at least one size.
    """
    table: list[tuple[int, ...]] = [()]
    least_s = [0.0]
    for rows in range(1, max(cost_s) + 1):
        best_s, best = math.inf, 0
        for size in sorted(cost_s, reverse=True):
            if size > rows:
                took_s = cost_s[size] + _PAD_S
            else:
                took_s = cost_s[size] + (_PART_S + least_s[rows - size] if size < rows else 0.0)
            if took_s < best_s:
                best_s, best = took_s, size
        least_s.append(best_s)
        table.append(tuple(sorted((best, *table[max(rows - best, 0)]), reverse=True)))
    return tuple(table)


def parts_of(rows: int, table: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The sizes for any number of rows: as often the largest as it fits, and the rest as the table says."""
    largest = len(table) - 1
    return (largest,) * (rows // largest) + table[rows % largest]


def worth_rows(cost_s: Mapping[int, float]) -> int:
    """The size from which on larger ones take no less time for a row that is worth speaking of; 0 for not known.

    Known of rows alone that take so long that what else a request costs doesn't count beside them.

    Args:
        cost_s: What a run of each size takes.
    """
    row_s = {size: took_s / size for size, took_s in cost_s.items()}
    least_s = min(row_s.values(), default=0.0)
    if least_s < _LONG_ROW_S:
        return 0
    return min(size for size, took_s in row_s.items() if took_s <= _AS_GOOD * least_s)
