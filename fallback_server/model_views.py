"""Models and versions as they stand, for whoever shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fallback_server.core.model_config import Shadow
from fallback_server.core.routes import Hold
from fallback_server.core.servable import ServableState
from fallback_server.served_model import ServedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionView:
    """A version as it stands.

    Attributes:
        state: Its state.
        servable: What is loaded, for its figures, in AVAILABLE alone. It is not held, and may be closed at any time.
    """

    state: ServableState
    servable: ServedModel | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """A model as it stands.

    Attributes:
        name: What requests call it.
        versions: All that are known, the highest first.
        labels: Label -> version.
        default_version: What answers requests that name none; 0 where none does; the heaviest where they are split.
        traffic: Version -> weight, where they are split; empty while a rollback holds.
        hold: The rollback that holds; None for none.
        shadow: What runs requests beside the version that answers; None for none.
        waiting_labels: Label -> the version that it moves to as soon as that is available.
        note: Why nothing, or nothing new, of it is found on disk; empty where there is.
    """

    name: str
    versions: tuple[VersionView, ...]
    labels: Mapping[str, int]
    default_version: int
    traffic: Mapping[int, float]
    hold: Hold | None = None
    shadow: Shadow | None = None
    waiting_labels: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
