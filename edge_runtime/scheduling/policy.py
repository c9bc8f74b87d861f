"""Which of the waiting requests run next, when, and who may overtake them. Pure: a snapshot in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

LONGEST_WINDOW_S = 0.005
"""The longest wait for company: what an interactive caller does not notice."""

LEASE_S = 0.005
"""How long a caller keeps a slot whose runs are short: a time slice, as the kernel gives one to threads that compute.
Handing a slot on leaves it idle for a thread's waking, up to half a millisecond on a busy machine: up to 10 % of it.
Longer ones would make those wait that sleep, as many leases as there are of them."""

SHORT_RUN_S = 0.0003
"""Runs shorter than this are short: waking a thread for each, 0.05 to 0.1 ms all told, would be dear beside them. What
is longer is run in the order of the queue, by a worker that always has something to do."""


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
        late: Positions of those whose deadline would have passed when they had run: they never run either.
    """

    run: tuple[int, ...]
    expired: tuple[int, ...]
    late: tuple[int, ...] = ()


def _nothing(_: int) -> float:
    return 0.0


def form_batch(
    waiting: Sequence[Waiting],
    now_s: float,
    sizes: Sequence[int],
    *,
    seconds: Callable[[int], float] = _nothing,
    sure_seconds: Callable[[int], float] = _nothing,
    others: bool = False,
) -> Plan:
    """Takes the head and what can be joined with it, up to the largest batch that is filled and in time.

    A request that would be answered too late does not run: the engine would work for nothing while others wait. Where
    others wait the run's sure time must fit; a request alone, which takes nothing from anybody, is tried if the mean
    fits.

    Args:
        waiting: In the order in which they should run.
        now_s: The instant.
        sizes: Batch sizes that pay, ascending. A batch is cut to the largest of them that the waiting rows fill, since
            a size in between would be planned anew and cost more than it saves.
        seconds: Seconds that a run of so many rows takes on average.
        sure_seconds: Seconds within which it surely ends.
        others: Whether more wait than these.
    """
    expired = tuple(i for i, one in enumerate(waiting) if one.deadline_s <= now_s)
    alive = [i for i, one in enumerate(waiting) if one.deadline_s > now_s]
    takes_s = sure_seconds if others or len(alive) > 1 else seconds
    late = []
    while alive and now_s + takes_s(waiting[alive[0]].rows) > waiting[alive[0]].deadline_s:
        late.append(alive.pop(0))
    if not alive:
        return Plan((), expired, tuple(late))
    head = waiting[alive[0]]
    best: tuple[int, ...] = (alive[0],)
    if head.key is not None:
        taken: list[int] = []
        rows = 0
        until_s = head.deadline_s
        for position in alive:
            one = waiting[position]
            if one.key != head.key:
                continue
            if rows + one.rows > sizes[-1]:
                break
            until_s = min(until_s, one.deadline_s)
            taken.append(position)
            rows += one.rows
            if rows in sizes and now_s + takes_s(rows) <= until_s:
                best = tuple(taken)
    return Plan(best, expired, tuple(late))


def window_s(
    *,
    rows: int,
    sizes: Sequence[int],
    seconds: Callable[[int], float],
    row_every_s: float,
    waited_s: float,
    left_s: float,
) -> float:
    """Seconds for which a batch should wait for company; 0 to run what there is.

    It waits where the rate of arrivals suggests that the next size that pays is filled within the bound, and where the
    engine's time a row, idle while it waits, is then less than that of running now.

    Args:
        rows: Rows that wait.
        sizes: Batch sizes that pay, ascending.
        seconds: Seconds that a run of so many rows takes.
        row_every_s: Mean seconds between rows that arrive; infinity where that is not known.
        waited_s: What the one that waits longest has waited.
        left_s: Seconds until the earliest deadline among them.
    """
    size = next((one for one in sizes if one > rows), None)
    if size is None:
        return 0.0
    now = max(one for one in sizes if one <= rows)
    fill_s = (size - rows) * row_every_s
    full_s = seconds(size)
    bound_s = min(LONGEST_WINDOW_S, seconds(1)) - waited_s
    if fill_s > bound_s or fill_s + full_s > left_s or (fill_s + full_s) / size >= seconds(now) / now:
        return 0.0
    return fill_s


def may_be_passed(left_s: float, priority: int) -> bool:
    """Whether a request that waits can do so while callers keep their slots: not if it is urgent or in a hurry.

    Args:
        left_s: Seconds until its deadline.
        priority: Its priority.
    """
    return left_s > 2 * LEASE_S and priority > 0
