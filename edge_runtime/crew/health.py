"""The health of a device: when one that failed is tried again. Pure: a state and an instant in, a state out.

             lost()                       tried() and the opening works: healed()
HEALTHY ---------------> UNHEALTHY ------------------------------------------> HEALTHY
                          ^    | the opening fails: lost()
                          +----+
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

Cause = Literal["crashed", "stuck", "vanished", "failed", "refused"]

FIRST_DELAY_S = 0.25
"""Before the first new try: a worker process starts in a second or so, and most crashes are not lasting."""

MAX_DELAY_S = 60.0
"""Between tries of a device that never comes back: an attempt may cost seconds of a core."""

MAX_DELAY_USEFUL_S = 0.5
"""Between tries of one that crashes now and then and answers in between: it is worth more than the processor that
stands in for it."""

FORGIVEN_S = 60.0
"""A device that was healthy for so long begins anew with the first delay."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One device's.

    Attributes:
        healthy: Whether it is used.
        cause: Why not; of the last loss.
        reason: The same in words.
        losses: How often it was lost in a row, without a long healthy time between.
        changed_s: The instant of the last change.
        retry_s: The instant at which it may be tried again.
    """

    healthy: bool = True
    cause: Cause | None = None
    reason: str = ""
    losses: int = 0
    changed_s: float = 0.0
    retry_s: float = 0.0


def lost(health: Health, now_s: float, cause: Cause, reason: str, *, answered: bool) -> Health:
    """After a loss, or a new try that failed.

    Args:
        health: Before it.
        now_s: The instant.
        cause: What happened. One that is `stuck` has cost its callers their time, so that its delays always grow.
        reason: In words.
        answered: Whether it has answered requests since it was opened last.
    """
    forgiven = health.healthy and now_s - health.changed_s >= FORGIVEN_S
    losses = 1 if forgiven else health.losses + 1
    useful = answered and cause in ("crashed", "failed")
    # Doubling is capped before it is computed: a float has no room for 2 ** 2000.
    delay_s = min(FIRST_DELAY_S * 2 ** min(losses - 1, 30), MAX_DELAY_USEFUL_S if useful else MAX_DELAY_S)
    return Health(healthy=False, cause=cause, reason=reason, losses=losses, changed_s=now_s, retry_s=now_s + delay_s)


def healed(health: Health, now_s: float) -> Health:
    """After a new try that worked; what was lost before is remembered for a while."""
    return replace(health, healthy=True, changed_s=now_s, retry_s=now_s)


def returned(health: Health, now_s: float) -> Health:
    """After a device that had vanished was seen again: it need not wait for its time.

    What was tried in vain while it was away says nothing of it now. A try that is under way, or comes too early for the
    library, is followed by another one after the first delay.
    """
    return health if health.healthy else replace(health, losses=0, retry_s=now_s)
