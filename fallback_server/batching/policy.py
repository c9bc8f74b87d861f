"""When a batch is due, and what goes into it. Pure: no lock, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_OVERTAKEN_S = 1.0
"""How much later one of the next higher priority may come, and be served before."""

PIECE_S = 0.05
"""How long a piece of a large request may run, where it may be larger than a batch: others wait for it."""


SPARE = 2.0
"""How many times as long as its run takes a batch begins before the first of its deadlines."""


def due_at_s(*, oldest_s: float, rows: int, max_rows: int, timeout_s: float) -> float:
    """The instant from which a batch may run: when it is full at once, else when its first request has waited enough.

    Args:
        oldest_s: When the first request came.
        rows: How many rows wait together.
        max_rows: How many make a batch full.
        timeout_s: How long the first request waits for company.
    """
    return oldest_s if rows >= max_rows else oldest_s + timeout_s


def due_in_time_s(*, due_s: float, oldest_s: float, deadline_s: float, run_s: float | None) -> float:
    """The instant from which a batch may run, which is not to wait for company until it is too late.

    Args:
        due_s: When it would be due without deadlines.
        oldest_s: When the first request came.
        deadline_s: The first by which one of them must have been run; inf for none.
        run_s: How long a run takes; None where that is not known: then they wait for half of their time.
    """
    if deadline_s == math.inf:
        return due_s
    latest_s = (oldest_s + deadline_s) / 2 if run_s is None else deadline_s - SPARE * run_s
    return min(due_s, max(oldest_s, latest_s))


def precedence_s(*, stands_s: float, priority: int) -> float:
    """Where a request stands in its queue: the least is served first.

    One of a higher priority comes before those that came up to `MAX_OVERTAKEN_S` before it, for each step: so nobody is
    overtaken by whom came later than that, and none waits for ever.
    """
    return stands_s - priority * MAX_OVERTAKEN_S


def limit_rows(*, max_rows: int, wanted_rows: int, allowed: Sequence[int]) -> int:
    """How many rows may go into a batch: as many as are wanted, but no more than padding would run anyway.

    Args:
        max_rows: The bound.
        wanted_rows: What holds the latency target.
        allowed: The sizes that are run; empty for any.
    """
    if wanted_rows >= max_rows or not allowed:
        return min(max_rows, wanted_rows)
    return max((size for size in allowed if size <= wanted_rows), default=allowed[0])


def piece_rows(*, rows: int, max_rows: int, bulk_rows: int, row_s: float | None) -> int:
    """How many rows of a request that is larger than a batch run at a time.

    Where large pieces are let, as many as take `PIECE_S`: many small runs would take far longer than few large ones.

    Args:
        rows: How many it has, or has left.
        max_rows: The largest batch, which a piece may always be.
        bulk_rows: The most rows that a piece may have.
        row_s: What a row takes in a full batch; None where that is not known.
    """
    if bulk_rows <= max_rows or not row_s:
        return min(rows, max_rows)
    return min(rows, max(max_rows, min(bulk_rows, int(PIECE_S / row_s))))


def ahead(*, others_rows: int, large_rows: int, own_rows: int, piece_rows: int, batch_rows: int) -> int:
    """How many full batches run before a request that comes now; of pieces as many as their rows make.

    Large requests and the others take turns: each batch of those that stand before lets a piece of these run.

    Args:
        others_rows: That stand before it in batches of their own.
        large_rows: Those of large requests that come before it, or take turns with it.
        own_rows: Its own where it is such a large one, else 0.
        piece_rows: Of large requests run at a time.
        batch_rows: Of a full batch.
    """
    batches = others_rows // batch_rows
    if own_rows:
        return large_rows // batch_rows + min(batches, -(-(large_rows + own_rows) // piece_rows))
    return batches + min(batches * piece_rows, large_rows) // batch_rows


def is_large_turn(
    *, others_wait: bool, begun: bool, stands_s: float, priority: int, other_s: float, other_priority: int
) -> bool:
    """Whether a piece of a large request runs next, where others could run too.

    After each piece all others are asked first. Then it goes on, but for those of a higher priority that came less
    than `MAX_OVERTAKEN_S` after its last piece for each step. Before its first piece it has its place in the line.

    Args:
        others_wait: Whether a piece ran last: others have their turn.
        begun: Whether a piece of it has run.
        stands_s: As of `precedence_s`, of the large one.
        priority: Its.
        other_s: When the one came that would be served otherwise.
        other_priority: Its priority.
    """
    if others_wait:
        return False
    if begun and other_priority <= priority:
        return True
    ahead_s = precedence_s(stands_s=stands_s, priority=priority)
    return ahead_s <= precedence_s(stands_s=other_s, priority=other_priority)


def is_hopeless(*, left_s: float, ahead: float, batch_s: float | None, own_s: float | None, slots: int) -> bool:
    """Whether a request that comes now can't be answered in time, however wrong by a factor of two all this is.

    Args:
        left_s: How long its answer has a worth.
        ahead: How many full batches wait before it.
        batch_s: How long one of those takes; None where that is not known.
        own_s: The same of its own run.
        slots: How many of them run at a time.
    """
    wait_s = 0.0 if batch_s is None else ahead * batch_s / slots
    return (wait_s + (own_s or 0.0)) / 2 > left_s


def admits(*, rows: int, queued_rows: int, max_queued_rows: int) -> bool:
    """Whether a request may wait: while the bound holds, and in an empty queue however large it is."""
    return queued_rows == 0 or queued_rows + rows <= max_queued_rows


def padded_rows(rows: int, allowed: Sequence[int]) -> int:
    """How many rows a model is run with for so many: the next size that is allowed.

    As they are: where any size is allowed, no row that could be repeated, and more than the largest size.
    """
    return next((size for size in allowed if size >= rows), rows) if rows else rows
