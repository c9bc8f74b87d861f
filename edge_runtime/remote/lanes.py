"""When what waits for a server may leave, and how much of it together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_BARE_IN_FLIGHT = 2
"""Calls of a kind under way at one server before the others wait for each other: one that is worked on, and one that is
on its way meanwhile."""

CALLS_A_TIME = 8
"""Calls that may leave in the time that one takes: where the way is long a request waits an eighth of that, not half.
With 20 ms there and back that is the difference between in time and late for who has 50."""

LEAST_GAP_S = 0.003
"""No call leaves sooner after another beyond those two: where they take little, waiting for one costs nothing, and more
calls do."""

MAX_STUCK = 6
"""Calls beyond those that may be late without holding the others up: a server that hangs must not stop what another
would answer."""

LOST_S = 120.0
"""A call that is under way for longer counts no more at all, whatever has become of it: no fault may hold up a kind of
requests for good. A call that is still waited for then gives up its place to another, which is no harm."""

MAX_ROWS = 256
"""Rows of one call: some times what servers run at once, and little enough to be cut and joined in a millisecond."""

MAX_BYTES = 4_000_000
"""Bytes of one call's inputs: with what is around them still below the 4 MiB that gRPC servers take by default."""

_FIRST_PATIENCE_S = 0.1
"""How long a call may take before the others wait no more for it, while none has been answered: it has to connect."""

_LEAST_PATIENCE_S = 0.02
"""A thread that is not woken for so long is nothing unusual on a busy board."""

_PATIENCE = 3.0
"""And so many times what the answers before took."""


def patience_s(usual_s: float | None) -> float:
    """Seconds after which a call no longer counts among those under way: it may never be answered.

    Args:
        usual_s: What calls of this kind took lately; None if none was answered yet.
    """
    return _FIRST_PATIENCE_S if usual_s is None else max(usual_s * _PATIENCE, _LEAST_PATIENCE_S)


def gap_s(usual_s: float | None) -> float:
    """Seconds after which a call may follow another though those before are still under way.

    Args:
        usual_s: What calls of this kind took lately; None if none was answered yet.
    """
    return _FIRST_PATIENCE_S if usual_s is None else max(usual_s / CALLS_A_TIME, LEAST_GAP_S)


def may_leave(ages_s: Iterable[float], usual_s: float | None, servers: int) -> bool:
    """Whether another call of a kind may be sent now.

    Args:
        ages_s: How long each of those under way has been so.
        usual_s: As for `patience_s`.
        servers: That may be asked.
    """
    limit_s = patience_s(usual_s)
    ages = list(ages_s)
    lanes = MAX_BARE_IN_FLIGHT * max(servers, 1)
    well = sum(age_s < limit_s for age_s in ages)
    if lanes <= well == len(ages) < lanes * CALLS_A_TIME:
        return min(ages) >= gap_s(usual_s)
    return len(ages) < lanes + MAX_STUCK and well < lanes


def load(sizes: Sequence[tuple[int, int]], max_rows: int) -> int:
    """How many of those that wait leave together: at least the first.

    Args:
        sizes: Rows and bytes of each, in their order.
        max_rows: That this kind's server has shown to take, at most `MAX_ROWS`.
    """
    rows = size = 0
    for count, (own_rows, own_bytes) in enumerate(sizes):
        rows += own_rows
        size += own_bytes
        if count and (rows > max_rows or size > MAX_BYTES):
            return count
    return len(sizes)
