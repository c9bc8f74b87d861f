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

    @property
    def aim(self) -> int | None:
        """Where it points, or will as soon as that is available."""
        return self.version if self.pending is None else self.pending

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
        above: It ends when a higher version than this one becomes available; None: it does not end by itself. That is
            so where the traffic was split: a new version would have got none of it.
    """

    version: int
    above: int | None

    def ends_with(self, available: Sequence[int]) -> bool:
        """Whether these versions, ascending, have one that ends it."""
        return self.above is not None and bool(available) and available[-1] > self.above


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A rollback that can be taken back.

    Attributes:
        from_version: What it went back from.
        to_version: What it went back to.
        labels: The labels that it moved, as they were before.
        hold: The hold that there was before; None for none.
        label: The label that was to go back alone; empty: all that made the newer version answer.
    """

    from_version: int
    to_version: int
    labels: Mapping[str, Label]
    hold: Hold | None
    label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Routes:
    """How the requests of one model find their version.

    Attributes:
        labels: Label -> where it points.
        traffic: Version -> weight; empty where it is not split.
        hold: A rolled back default; None for none. While there is one the traffic is not split.
        shadow: What runs requests beside the version that answers; None for none.
        steps: The rollbacks that can be taken back, the latest last.
    """

    labels: Mapping[str, Label] = field(default_factory=dict)
    traffic: Mapping[int, float] = field(default_factory=dict)
    hold: Hold | None = None
    shadow: Shadow | None = None
    steps: tuple[Step, ...] = ()

    @property
    def latest_answers(self) -> bool:
        """Whether requests that name no version simply get the highest that answers."""
        return self.hold is None and not self.traffic

    def points(self) -> dict[str, int]:
        """Label -> version, as others may see it."""
        return {name: label.version for name, label in self.labels.items() if label.version is not None}

    def waits(self) -> dict[str, int]:
        """Label -> the version that it waits for."""
        return {name: label.pending for name, label in self.labels.items() if label.pending is not None}


PLAIN = Routes()
"""Of a model for which nothing was said."""


def default_version(
    routes: Routes,
    available: Sequence[int],
    *,
    coming: Sequence[int] = (),
    key: bytes = b"",
    draw: float = 0.0,
) -> int | None:
    """The version for a request that names none; None where none answers.

    A rolled back default answers while it is available, then the next lower version. Where none of these is, but one is
    being loaded, it is that one, though it can't answer yet: what was rolled back from must not answer because the
    process of the good version died. A split counts the versions that are available; where none of them is, the highest
    version answers rather than nobody.

    Args:
        routes: The model's.
        available: The versions that answer, ascending.
        coming: Those that are loaded or about to be, ascending.
        key: Requests with the same one get the same version; empty: each is drawn anew.
        draw: A random number in [0, 1), for requests without a key.
    """
    if not available:
        return None
    if routes.hold is not None and not routes.hold.ends_with(available):
        for versions in (available, coming):
            if lower := [version for version in versions if version <= routes.hold.version]:
                return lower[-1]
        return available[-1]
    weights = _weights(routes, available)
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


def heaviest(routes: Routes, available: Sequence[int], coming: Sequence[int] = ()) -> int:
    """What answers most requests that name no version; 0 where none does."""
    shared = shares(routes, available, coming)
    return max(shared, key=lambda version: (shared[version], version), default=0)


def shares(routes: Routes, available: Sequence[int], coming: Sequence[int] = ()) -> dict[int, float]:
    """Version -> its part of the requests that name none, all parts together 1; empty where nothing answers."""
    weights = _weights(routes, available) if routes.hold is None else {}
    total = sum(weights.values())
    if weights:
        return {version: weight / total for version, weight in sorted(weights.items())}
    version = default_version(routes, available, coming=coming)
    return {version: 1.0} if version is not None and version in available else {}


def settled(routes: Routes, available: Sequence[int]) -> Routes:
    """The routes after versions came or went: labels move to what they waited for, a hold that was passed ends.

    With a hold ends what was rolled back to it, and before: to take that back would move `stable` alone, away from the
    version that was good to one that was bad. What went back alone since then stays.
    """
    labels = {
        name: label.moved(label.pending) if label.pending is not None and label.pending in available else label
        for name, label in routes.labels.items()
    }
    if routes.hold is not None and routes.hold.ends_with(available):
        since = next((at for at, step in enumerate(reversed(routes.steps)) if not step.label), len(routes.steps))
        steps = tuple(replace(step, hold=None) for step in routes.steps[len(routes.steps) - since :])
        return replace(routes, labels=labels, hold=None, steps=steps)
    if all(label is routes.labels[name] for name, label in labels.items()):
        return routes
    return replace(routes, labels=labels)


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


def _weights(routes: Routes, available: Sequence[int]) -> dict[int, float]:
    return {version: weight for version, weight in routes.traffic.items() if weight > 0 and version in available}


def _uniform(key: bytes, version: int) -> float:
    """A number in (0, 1) that key and version determine."""
    digest = hashlib.blake2b(key, digest_size=8, salt=version.to_bytes(8, "little").ljust(16, b"\0")).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2.0**64
