"""When a batch is due, and what goes into it. Pure: no lock, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def due_at_s(*, oldest_s: float, rows: int, max_rows: int, timeout_s: float) -> float:
    """The instant from which a batch may run: when it is full at once, else when its first request has waited enough.

    Args:
        oldest_s: When the first request came.
        rows: How many rows wait together.
        max_rows: How many make a batch full.
        timeout_s: How long the first request waits for company.
    """
    return oldest_s if rows >= max_rows else oldest_s + timeout_s


def take(waiting_rows: Iterable[int], *, max_rows: int) -> int:
    """How many requests from the front go into the next batch: in order, and as many as fit, the first in any case."""
    total = count = 0
    for rows in waiting_rows:
        total += rows
        if count and total > max_rows:
            break
        count += 1
    return count


def admits(*, rows: int, queued_rows: int, max_queued_rows: int) -> bool:
    """Whether a request may wait: while the bound holds, and in an empty queue however large it is."""
    return queued_rows == 0 or queued_rows + rows <= max_queued_rows


def padded_rows(rows: int, allowed: Sequence[int]) -> int:
    """How many rows a model is run with for so many: the next size that is allowed.

    As they are: where any size is allowed, no row that could be repeated, and more than the largest size.
    """
    return next((size for size in allowed if size >= rows), rows) if rows else rows
