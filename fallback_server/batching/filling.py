"""How far a batch is filled where some of those who wait have little time left. Pure: no lock, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

HEADROOM = 1.25
"""Times as long as runs of its size took of late: so long a batch may take that is to be in time."""

MAX_LOOKED_AT = 256
"""How many of those who wait are weighed against each other: under a lock that every request needs."""

_WORTH = 0.5
"""Of the rows a second that another choice would give: what a batch gives that keeps the tightest deadline. One that
gives less is run every other time at most."""


_LEAST_S = 1e-9
"""No run is shorter."""


class Want(NamedTuple):
    """Who waits.

    Attributes:
        rows: How many.
        deadline_s: By when they must have been run; inf for whenever.
        priority: As of `Task`.
    """

    rows: int
    deadline_s: float
    priority: int = 0


class Choice(NamedTuple):
    """Who runs together.

    Attributes:
        indices: Of those who wait, in order.
        gave_way: Whether that is less than half as good as what could have run, or without the first one, for the sake
            of one with little time left.
    """

    indices: list[int]
    gave_way: bool


class _Batch(NamedTuple):
    indices: list[int]
    rows_per_s: float
    rows: int


_NOBODY = _Batch([], -math.inf, 0)


def chosen(
    wants: Sequence[Want], *, now_s: float, room_rows: int, cost_s: Callable[[int], float], may_give_way: bool
) -> Choice:
    """Who runs together now, so that all of them are in time, as it seems.

    The one with the least time left, and with it as many as leave it in time, in order. Where that would be few, and
    others could be in time in a larger batch without it, or where it leaves out the first one, those are preferred
    every other time: of a crowd with one deadline somebody has always little time left, and batches for its sake alone
    would let more of the others be late than they save. A first one that is larger than a batch runs by itself, when it
    is its turn.

    All that is among those before whom nobody of a higher priority stands. The others have the room that is left.

    Args:
        wants: Who waits, whoever is to be served first in front. None of them is too late to be run alone.
        now_s: The instant.
        room_rows: The largest batch; one of those who wait may be larger, and then runs alone.
        cost_s: How long a run of so many rows takes.
        may_give_way: Whether the choice before this one did not.
    """
    first, others = _parted(wants)
    tightest = min(first, key=lambda index: wants[index].deadline_s)
    sizes = list(_sizes(room_rows))
    look = _Look(wants, first, others, now_s, cost_s)
    fillings = [_filled(look, rows) for rows in sizes]
    if wants[0].rows > room_rows:
        fillings.append(_filled(look, wants[0].rows, 0))
    best = max(fillings, key=_worth)
    tight = max((_filled(look, rows, tightest) for rows in sizes), key=_worth)
    if not tight.indices:
        alone_rows = wants[tightest].rows
        tight = _Batch([tightest], alone_rows / max(cost_s(alone_rows), _LEAST_S), alone_rows)
    if not best.indices:
        best = tight
    gives_way = tight.rows_per_s < _WORTH * best.rows_per_s or tight.indices[0] > 0
    if gives_way and not may_give_way:
        return Choice(best.indices, gave_way=False)
    return Choice(tight.indices, gave_way=gives_way)


class _Look(NamedTuple):
    """What is looked at: who waits, whose wishes count, and who fills what room there is."""

    wants: Sequence[Want]
    first: Sequence[int]
    others: Sequence[int]
    now_s: float
    cost_s: Callable[[int], float]


def _parted(wants: Sequence[Want]) -> tuple[list[int], list[int]]:
    """Those before whom nobody of a higher priority stands, and the others."""
    parted: tuple[list[int], list[int]] = [], []
    highest = wants[0].priority
    for index, want in enumerate(wants):
        highest = max(highest, want.priority)
        parted[want.priority < highest].append(index)
    return parted


def _filled(look: _Look, most_rows: int, with_: int | None = None) -> _Batch:
    """Those that are in time if a batch of so many rows is run, in order; and one of them in any case, or nobody."""
    wants, cost_s = look.wants, look.cost_s
    ends_s = look.now_s + HEADROOM * cost_s(most_rows)
    indices: list[int] = []
    rows = 0
    if with_ is not None:
        rows = wants[with_].rows
        if wants[with_].deadline_s < ends_s or rows > most_rows:
            return _NOBODY
        indices.append(with_)
    for index in look.first:
        want = wants[index]
        if want.deadline_s < ends_s or index == with_:
            continue
        if rows + want.rows > most_rows:
            break
        indices.append(index)
        rows += want.rows
    if not rows:
        return _NOBODY
    rows_per_s = rows / max(cost_s(rows), _LEAST_S)
    for index in look.others:
        want = wants[index]
        if want.deadline_s >= ends_s and rows + want.rows <= most_rows:
            indices.append(index)
            rows += want.rows
    indices.sort()
    return _Batch(indices, rows_per_s, rows)


def _sizes(room_rows: int) -> Iterator[int]:
    """The sizes that are weighed: 32, 24, 16, 12, 8, 6, 4, 3, 2, 1."""
    while room_rows > 1:
        yield room_rows
        if room_rows > 3:
            yield room_rows * 3 // 4
        room_rows //= 2
    yield 1


def _worth(batch: _Batch) -> tuple[float, int]:
    return batch.rows_per_s, batch.rows
