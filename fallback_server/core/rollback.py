"""What a rollback does to a model's routes, and what takes it back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fallback_server.core.errors import InvalidInput, PreconditionFailed
from fallback_server.core.routes import STABLE, Hold, Label, Routes, Step, settled, shares

MAX_STEPS = 16
"""How many rollbacks, one after the other, can be taken back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Requests that get another version than before.

    Attributes:
        label: Those with this label; empty: those that name neither version nor label.
        before: Version -> its part of them, all parts together 1; empty where nothing answered.
        after: Likewise.
    """

    label: str
    before: Mapping[int, float]
    after: Mapping[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """What a rollback did, or what taking one back did.

    Attributes:
        from_version: The version that it is about, which answers no more, ...
        to_version: ... and the one that answers now.
        label: The label that was to be moved alone; empty: all that made the newer version answer.
        moves: Whose requests are answered otherwise.
    """

    from_version: int
    to_version: int
    label: str
    moves: tuple[Move, ...] = ()

    def __str__(self) -> str:
        """From where to where; with the labels, where they alone have moved."""
        labels = [f"label {move.label}: " for move in self.moves]
        alone = "".join(labels) if self.moves and all(move.label for move in self.moves) else ""
        return f"{alone}version {self.from_version} -> {self.to_version}"


def rolled_back(
    name: str, label: str, routes: Routes, available: Sequence[int], coming: Sequence[int] = ()
) -> tuple[Rollback, Routes]:
    """A model's routes a step back.

    Args:
        name: The model.
        label: The label that goes back alone; empty: requests that name neither version nor label, whether they are
            split or not, and the label `stable`, where there is one, all go back to one version.
        routes: The model's.
        available: The versions that answer, ascending.
        coming: Those that are on their way: they were there before the rollback, and are passed over as well.

    Raises:
        InvalidInput: the model has no such label.
        PreconditionFailed: no earlier version is available.
    """
    there = ", ".join(map(str, available)) or "none"
    if not label:
        return _all_back(name, routes, available, there, coming)
    now = routes.labels.get(label)
    if now is None:
        raise InvalidInput(f"Unrecognized servable version label: {label}")
    back = rolled_back_label(now, available)
    if back is None or back.version is None:
        raise PreconditionFailed(
            f"label {label} of model {name}, at version {now.aim}, has no earlier version to go back to; "
            f"available: {there}"
        )
    before = 0 if now.aim is None else now.aim
    step = Step(from_version=before, to_version=back.version, labels={label: now}, hold=routes.hold, label=label)
    after = _stepped(replace(routes, labels={**routes.labels, label: back}), step)
    moves = _moves(routes, after, available, [label])
    return Rollback(from_version=before, to_version=back.version, label=label, moves=moves), after


def taken_back(name: str, routes: Routes, available: Sequence[int]) -> tuple[Rollback, Routes]:
    """A model's routes as they were before its latest rollback.

    Raises:
        PreconditionFailed: there is none, or the version before it is not available any more.
    """
    if not routes.steps:
        raise PreconditionFailed(f"model {name} has no rollback that can be taken back")
    *steps, step = routes.steps
    if step.from_version not in available:
        there = ", ".join(map(str, available)) or "none"
        raise PreconditionFailed(
            f"the rollback of model {name} from version {step.from_version} to {step.to_version} can't be taken back: "
            f"version {step.from_version} is not available; available: {there}"
        )
    labels = {**routes.labels, **step.labels}
    after = settled(replace(routes, labels=labels, hold=step.hold, steps=tuple(steps)), available)
    moves = _moves(routes, after, available, list(step.labels))
    back_from = step.to_version
    if moves and not moves[0].label and len(moves[0].before) == 1:
        # What it went back to may have gone since, and another have answered.
        (back_from,) = moves[0].before
    return Rollback(from_version=back_from, to_version=step.from_version, label=step.label, moves=moves), after


def rolled_back_label(label: Label, available: Sequence[int]) -> Label | None:
    """A label a step back: where it pointed before, else the next lower version; None where neither is available."""
    history = list(label.history)
    if label.pending is not None and label.version is not None:
        history.append(label.version)
    while history:
        version = history.pop()
        if version in available and version != label.aim:
            return Label(version=version, history=tuple(history))
    lower = [version for version in available if label.version is not None and version < label.version]
    return Label(version=lower[-1], history=()) if lower else None


def _all_back(
    name: str, routes: Routes, available: Sequence[int], there: str, coming: Sequence[int]
) -> tuple[Rollback, Routes]:
    stable = routes.labels.get(STABLE)
    answering = shares(routes, available)
    newest = max([*answering, *([] if stable is None or stable.aim is None else [stable.aim])], default=None)
    if newest is None:
        raise PreconditionFailed(f"model {name} has no version that answers")
    target = _target(routes, stable, newest, available)
    if target is None:
        raise PreconditionFailed(
            f"model {name}, at version {newest}, has no earlier version to go back to; available: {there}"
        )
    # What is passed over now must not end the hold that passes it over, nor what the hold before passed over.
    passed = max(*available, *coming, newest, 0 if routes.hold is None else routes.hold.above or 0)
    hold = Hold(version=target, above=None if routes.traffic else passed)
    moved: dict[str, Label] = {}
    if stable is not None and stable != (back := _stable_back(stable, target)):
        moved[STABLE] = back
    labels = {label: routes.labels[label] for label in moved}
    step = Step(from_version=newest, to_version=target, labels=labels, hold=routes.hold)
    after = _stepped(replace(routes, labels={**routes.labels, **moved}, hold=hold), step)
    moves = _moves(routes, after, available, list(moved))
    return Rollback(from_version=newest, to_version=target, label="", moves=moves), after


def _target(routes: Routes, stable: Label | None, newest: int, available: Sequence[int]) -> int | None:
    """Where `stable` points or has pointed, else a version that the traffic is split with, else the next lower one."""
    older = [version for version in available if version < newest]
    if stable is not None:
        for version in (stable.aim, stable.version, *reversed(stable.history)):
            if version in older:
                return version
    shared = [version for version in shares(routes, available) if version < newest]
    return max(shared or older, default=None)


def _stable_back(stable: Label, target: int) -> Label:
    if stable.version == target:
        return replace(stable, pending=None)
    history = stable.history
    return Label(version=target, history=history[: history.index(target)] if target in history else ())


def _stepped(routes: Routes, step: Step) -> Routes:
    return replace(routes, steps=(*routes.steps, step)[-MAX_STEPS:])


def _moves(before: Routes, after: Routes, available: Sequence[int], labels: Sequence[str]) -> tuple[Move, ...]:
    """What has changed for requests without a label, and for those with one of these."""
    moves = [Move(label="", before=shares(before, available), after=shares(after, available))]
    for label in labels:
        was, now = before.labels.get(label, Label()).aim, after.labels.get(label, Label()).aim
        moves.append(
            Move(label=label, before={} if was is None else {was: 1.0}, after={} if now is None else {now: 1.0})
        )
    return tuple(move for move in moves if move.before != move.after)
