"""Which version a request gets that names none: labels, the default, the split of the traffic. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fallback_server.core.model_config import Shadow

STABLE = "stable"
"""The label that a rollback moves where none is named."""

MAX_HISTORY = 16
"""How many earlier versions of a label a rollback can go back to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Where a label points.

    Attributes:
        version: The version; None while it has been given none that was available.
        pending: A version that it moves to as soon as that is available; None for none.
        history: Where it pointed before, the latest last.
    """

    version: int | None = None
    pending: int | None = None
    history: tuple[int, ...] = ()

    def moved(self, version: int) -> Label:
        """The label, pointing elsewhere."""
        if version == self.version:
            return replace(self, pending=None)
        history = self.history if self.version is None else (*self.history, self.version)[-MAX_HISTORY:]
        return Label(version=version, history=history)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """A default that was rolled back.

    Attributes:
        version: What answers instead.
        above: It ends when a higher version than this one becomes available.
    """

    version: int
    above: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Routes:
    """How the requests of one model find their version.

    Attributes:
        labels: Label -> where it points.
        traffic: Version -> weight; empty where it is not split.
        hold: A rolled back default; None for none. While there is one the traffic is not split.
        shadow: What runs requests beside the version that answers; None for none.
    """

    labels: Mapping[str, Label] = field(default_factory=dict)
    traffic: Mapping[int, float] = field(default_factory=dict)
    hold: Hold | None = None
    shadow: Shadow | None = None

    @property
    def latest_answers(self) -> bool:
        """Whether requests that name no version simply get the highest that answers."""
        return self.hold is None and not self.traffic

    def points(self) -> dict[str, int]:
        """Label -> version, as others may see it."""
        return {name: label.version for name, label in self.labels.items() if label.version is not None}


PLAIN = Routes()
"""Of a model for which nothing was said."""


def default_version(routes: Routes, available: Sequence[int], *, key: bytes = b"", draw: float = 0.0) -> int | None:
    """The version for a request that names none; None where none answers.

    A rolled back default answers while it is available, then the next lower version. A split counts the versions that
    are available; where none of them is, the highest version answers rather than nobody.

    Args:
        routes: The model's.
        available: The versions that answer, ascending.
        key: Requests with the same one get the same version; empty: each is drawn anew.
        draw: A random number in [0, 1), for requests without a key.
    """
    if not available:
        return None
    if routes.hold is not None and available[-1] <= routes.hold.above:
        lower = [version for version in available if version <= routes.hold.version]
        return lower[-1] if lower else available[-1]
    weights = {version: weight for version, weight in routes.traffic.items() if weight > 0 and version in available}
    if not weights:
        return available[-1]
    return split(weights, key) if key else drawn(weights, draw)


def split(weights: Mapping[int, float], key: bytes) -> int:
    """The version of a key: of all keys each version gets its share, and a changed weight moves only those it must.

    Weighted rendezvous hashing: each version draws a number u in (0, 1) from the key and scores -weight / ln(u); the
    highest score wins.
    """
    if len(weights) == 1:
        return next(iter(weights))
    return max(weights, key=lambda version: (-weights[version] / math.log(_uniform(key, version)), version))


def drawn(weights: Mapping[int, float], draw: float) -> int:
    """The version of a random number in [0, 1)."""
    left = draw * sum(weights.values())
    for version, weight in sorted(weights.items()):
        left -= weight
        if left < 0:
            return version
    return max(weights)


def heaviest(routes: Routes, available: Sequence[int]) -> int:
    """What answers most requests that name no version; 0 where none does."""
    weights = {version: weight for version, weight in routes.traffic.items() if version in available and weight > 0}
    if routes.hold is None and weights:
        return max(weights, key=lambda version: (weights[version], version))
    return default_version(routes, available) or 0


def settled(routes: Routes, available: Sequence[int]) -> Routes:
    """The routes after versions came or went: labels move to what they waited for, a hold that was passed ends."""
    labels = {
        name: label.moved(label.pending) if label.pending is not None and label.pending in available else label
        for name, label in routes.labels.items()
    }
    hold = routes.hold
    if hold is not None and available and available[-1] > hold.above:
        hold = None
    if hold is routes.hold and all(label is routes.labels[name] for name, label in labels.items()):
        return routes
    return replace(routes, labels=labels, hold=hold)


def rolled_back_label(label: Label, available: Sequence[int]) -> Label | None:
    """A label a step back: where it pointed before, else the next lower version; None where neither is available."""
    history = list(label.history)
    while history:
        version = history.pop()
        if version in available and version != label.version:
            return Label(version=version, history=tuple(history))
    lower = [version for version in available if label.version is not None and version < label.version]
    return Label(version=lower[-1], history=()) if lower else None


def rolled_back_default(routes: Routes, available: Sequence[int]) -> tuple[int, Hold] | None:
    """What answered, and the default a step back; None where there is no lower version."""
    if routes.hold is not None:
        current = default_version(routes, available)
    else:
        weights = [version for version, weight in routes.traffic.items() if weight > 0 and version in available]
        current = max(weights) if weights else default_version(routes, available)
    lower = [version for version in available if current is not None and version < current]
    if current is None or not lower:
        return None
    # What is passed over now must not end the hold that passes it over, nor what the hold before passed over.
    above = available[-1] if routes.hold is None else max(available[-1], routes.hold.above)
    return current, Hold(version=lower[-1], above=above)


def shadowed(shadow: Shadow | None, answered: int, draw: float) -> int | None:
    """The version that a request runs on as well; None for most.

    Args:
        shadow: What is configured.
        answered: The version that answers it.
        draw: A random number in [0, 1).
    """
    if shadow is None or shadow.version == answered or draw >= shadow.share:
        return None
    return shadow.version


def _uniform(key: bytes, version: int) -> float:
    """A number in (0, 1) that key and version determine."""
    digest = hashlib.blake2b(key, digest_size=8, salt=version.to_bytes(8, "little").ljust(16, b"\0")).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2.0**64
