"""Which version answers a request, as far as a worker may say so. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fallback_server.core.routes import Hold, Label, Routes, default_version
from fallback_server.core.servable import State
from fallback_server.core.target import ModelTarget
from fallback_server.model_views import ModelView
from fallback_server.served_model import ServedModel


class LabelTo(msgspec.Struct, frozen=True, array_like=True):
    """Where a label points, and what it waits for; see `Label`."""

    version: int | None
    pending: int | None


class ModelRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of one model find their version.

    Attributes:
        versions: Those that answer -> the number of the load that does.
        coming: See `default_version`.
        labels: See `Routes`; likewise the others.
        traffic: Version -> weight.
        hold: A rolled back default, and the version above which it ends.
    """

    versions: dict[int, int]
    coming: tuple[int, ...] = ()
    labels: dict[str, LabelTo] = {}
    traffic: dict[int, float] = {}
    hold: tuple[int, int | None] | None = None


def routes_of(view: ModelView, number_of: Callable[[ServedModel], int | None]) -> ModelRoutes | None:
    """What workers are told of a model; None where the first process must answer for it.

    That is so unless every version that answers is loaded at the workers too: else some requests of a model would wait
    in another queue than others of the same client. And where requests also run on a shadow: both answers are compared
    in one process.

    Args:
        view: The model as it stands.
        number_of: The number of the load at the workers; None where they don't have it.
    """
    versions: dict[int, int] = {}
    coming: list[int] = []
    for each in view.versions:
        if each.state.state is State.AVAILABLE:
            number = None if each.servable is None else number_of(each.servable)
            if number is None:
                return None
            versions[each.state.servable_id.version] = number
        elif each.state.state in (State.START, State.LOADING):
            coming.append(each.state.servable_id.version)
    if not versions or view.shadow is not None:
        return None
    names = view.labels.keys() | view.waiting_labels.keys()
    return ModelRoutes(
        versions=dict(sorted(versions.items())),
        coming=tuple(sorted(coming)),
        labels={name: LabelTo(view.labels.get(name), view.waiting_labels.get(name)) for name in sorted(names)},
        traffic=dict(view.traffic),
        hold=None if view.hold is None else (view.hold.version, view.hold.above),
    )


def as_routes(model: ModelRoutes) -> Routes:
    """The same, as the router has it."""
    return Routes(
        labels={name: Label(version=to.version, pending=to.pending) for name, to in model.labels.items()},
        traffic=model.traffic,
        hold=None if model.hold is None else Hold(version=model.hold[0], above=model.hold[1]),
    )


def resolved(
    model: ModelRoutes, routes: Routes, target: ModelTarget, *, client_key: bytes, draw: Callable[[], float]
) -> int | None:
    """The version that a request means, as `Router.acquire` finds it; None where that is not for a worker to say.

    Args:
        model: What the first process has told.
        routes: The same, by `as_routes`.
        target: What the request names.
        client_key: Who asks.
        draw: A random number in [0, 1), for requests without a key.
    """
    if target.version or (target.version == 0 and 0 in model.versions):
        return target.version if target.version in model.versions else None
    if target.label is not None:
        label = routes.labels.get(target.label)
        wanted = () if label is None else (label.pending, label.version)
        return next((version for version in wanted if version in model.versions), None)
    if routes.latest_answers:
        return max(model.versions)
    return default_version(routes, list(model.versions), coming=model.coming, key=client_key, draw=draw())
