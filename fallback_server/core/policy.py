"""Which version to load or unload next: decided from a snapshot, acted upon elsewhere."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fallback_server.core.servable import State

FIRST_RELOAD_DELAY_S = 0.5
"""Between the second death in a row and the load after it; doubled at each that follows."""

MAX_RELOAD_DELAY_S = 60.0
"""A version that dies again and again costs a load a minute at most."""

STEADY_S = 60.0
"""A version that answered so long has recovered: its next death is a first one again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSnapshot:
    """One version of the model that is decided upon.

    Attributes:
        version: Its number.
        state: Where it stands.
        aspired: Whether it is wanted.
        moved: Whether what is wanted under its number stands elsewhere than what answers, and is not being loaded.
    """

    version: int
    state: State
    aspired: bool
    moved: bool = False


class Verb(enum.Enum):
    """What to do with a version."""

    LOAD = "load"
    UNLOAD = "unload"
    REPLACE = "replace"
    """Load what stands elsewhere, and let it take the place of what answers."""


@dataclass(frozen=True, slots=True)
class Action:
    """One step."""

    verb: Verb
    version: int


Transition = Callable[[Sequence[VersionSnapshot]], Action | None]
"""The next step for one model, or None while there is nothing to do but wait."""


def availability_preserving(versions: Sequence[VersionSnapshot]) -> Action | None:
    """The next step for one model, or None while there is nothing to do but wait.

    Loads what is wanted, the highest version first; unloads what is not wanted any more, the lowest first, but the
    last version that answers only when a wanted one answers too, or none is wanted at all. So a model is never
    without an answer while a newer version loads, or fails to. One that has moved is replaced, and answers until then.
    """
    new = [item.version for item in versions if item.aspired and item.state is State.START]
    if new:
        return Action(Verb.LOAD, max(new))
    moved = [item.version for item in versions if _has_moved(item)]
    if moved:
        return Action(Verb.REPLACE, max(moved))
    stale = [item.version for item in versions if not item.aspired and item.state is State.AVAILABLE]
    aspired = [item for item in versions if item.aspired]
    if stale and (len(stale) > 1 or not aspired or any(item.state is State.AVAILABLE for item in aspired)):
        return Action(Verb.UNLOAD, min(stale))
    return None


def resource_preserving(versions: Sequence[VersionSnapshot]) -> Action | None:
    """The next step for one model, or None while there is nothing to do but wait.

    Unloads what is not wanted any more, the lowest version first, and loads what is wanted, the highest first, only
    once the memory of all the others is free. So a model never takes more memory than its wanted versions, and has no
    answer between two of them. One that has moved is not wanted any more.
    """
    stale = [item for item in versions if not item.aspired or _has_moved(item)]
    answering = [item.version for item in stale if item.state is State.AVAILABLE]
    if answering:
        return Action(Verb.UNLOAD, min(answering))
    if any(item.state in (State.LOADING, State.UNLOADING) for item in stale):
        return None
    new = [item.version for item in versions if item.aspired and item.state is State.START]
    return Action(Verb.LOAD, max(new)) if new else None


def _has_moved(item: VersionSnapshot) -> bool:
    return item.moved and item.aspired and item.state is State.AVAILABLE


def worth_reloading(version: int, versions: Sequence[VersionSnapshot]) -> bool:
    """Whether a version that died is loaded anew: it is wanted, or stands in for wanted ones that don't answer."""
    aspired = [item for item in versions if item.aspired]
    if any(item.version == version for item in aspired):
        return True
    return bool(aspired) and not any(item.state is State.AVAILABLE for item in aspired)


def reload_delay_s(losses: int) -> float:
    """Seconds between a version's death and its next load.

    Args:
        losses: How many times in a row it died, this one included.
    """
    if losses <= 1:
        return 0.0
    # The exponent is bounded as well: 2.0**1024 is an error.
    return min(MAX_RELOAD_DELAY_S, FIRST_RELOAD_DELAY_S * 2.0 ** min(losses - 2, 16))
