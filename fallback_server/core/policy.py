"""Which version to load or unload next: decided from a snapshot, acted upon elsewhere."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from fallback_server.core.servable import State


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSnapshot:
    """One version of the model that is decided upon."""

    version: int
    state: State
    aspired: bool


class Verb(enum.Enum):
    """What to do with a version."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Action:
    """One step."""

    verb: Verb
    version: int


def availability_preserving(versions: Sequence[VersionSnapshot]) -> Action | None:
    """The next step for one model, or None while there is nothing to do but wait.

    Loads what is wanted, the highest version first; unloads what is not wanted any more, the lowest first, but the
    last version that answers only when a wanted one answers too, or none is wanted at all. So a model is never
    without an answer while a newer version loads, or fails to.
    """
    new = [item.version for item in versions if item.aspired and item.state is State.START]
    if new:
        return Action(Verb.LOAD, max(new))
    stale = [item.version for item in versions if not item.aspired and item.state is State.AVAILABLE]
    aspired = [item for item in versions if item.aspired]
    if stale and (len(stale) > 1 or not aspired or any(item.state is State.AVAILABLE for item in aspired)):
        return Action(Verb.UNLOAD, min(stale))
    return None
