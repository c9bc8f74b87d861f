"""Which of the waiting requests run next. Pure: a snapshot in, a plan out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """One waiting request, as the policy sees it.

    Attributes:
        key: Requests with equal keys can be joined; None can't be joined with any.
        rows: Its rows.
        deadline_s: Its deadline; infinity for none.
    """

    key: object
    rows: int
    deadline_s: float


class Plan(msgspec.Struct, frozen=True):
    """What to do with the head of the queue.

    Attributes:
        run: Positions of the requests that run now, together.
        expired: Positions of those whose deadline has passed: they never run.
    """

    run: tuple[int, ...]
    expired: tuple[int, ...]


def form_batch(waiting: Sequence[Waiting], now_s: float, sizes: Sequence[int]) -> Plan:
    """Takes the head and what can be joined with it, up to the largest batch that is filled.

    Args:
        waiting: In the order in which they should run.
        now_s: The instant.
        sizes: Batch sizes that pay, ascending. A batch is cut to the largest of them that the waiting rows fill, since
            a size in between would be planned anew and cost more than it saves.
    """
    expired = tuple(i for i, one in enumerate(waiting) if one.deadline_s <= now_s)
    alive = [i for i, one in enumerate(waiting) if one.deadline_s > now_s]
    if not alive:
        return Plan((), expired)
    head = waiting[alive[0]]
    if head.key is None:
        return Plan((alive[0],), expired)
    best: tuple[int, ...] = (alive[0],)
    taken: list[int] = []
    rows = 0
    for position in alive:
        one = waiting[position]
        if one.key != head.key:
            continue
        if rows + one.rows > sizes[-1]:
            break
        taken.append(position)
        rows += one.rows
        if rows in sizes:
            best = tuple(taken)
    return Plan(best, expired)
