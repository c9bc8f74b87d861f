"""What workers are told of a model, and that they find the version that the first process would."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.errors import ModelNotFound, ServerError
from fallback_server.core.model_config import Shadow
from fallback_server.core.router import Router
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.model_views import ModelView, VersionView
from fallback_server.workers.views import as_routes, resolved, routes_of

VERSIONS = st.integers(0, 4)
LABELS = st.sampled_from(["stable", "canary"])

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set_label"), LABELS, st.none() | VERSIONS),
        st.tuples(st.just("set_traffic"), st.dictionaries(VERSIONS, st.sampled_from([0.0, 1.0, 3.0]), max_size=3)),
        st.tuples(st.just("rollback"), st.sampled_from(["", "stable"])),
    ),
    max_size=6,
)


class Versions:
    """Stands still: what is available, and what comes."""

    def __init__(self, available, coming=()):
        self._available, self._coming = tuple(sorted(available)), tuple(sorted(coming))

    def available(self, name):
        return self._available

    def coming(self, name):
        return self._coming

    aspired = coming

    def acquire(self, name, version=None):
        found = max(self._available, default=None) if version is None else version
        if found not in self._available:
            raise ModelNotFound(str(version))
        return found


def view_of(router, versions, **more):
    states = dict.fromkeys(versions.available("m"), State.AVAILABLE)
    states |= dict.fromkeys(versions.coming("m"), State.LOADING)
    routes = router.of("m")
    return ModelView(
        name="m",
        versions=tuple(
            VersionView(
                state=ServableState(servable_id=ServableId("m", version), state=state),
                servable=version if state is State.AVAILABLE else None,
            )
            for version, state in sorted(states.items(), reverse=True)
        ),
        labels=routes.points(),
        default_version=0,
        traffic=dict(routes.traffic) if routes.hold is None else {},
        hold=routes.hold,
        waiting_labels=routes.waits(),
        **more,
    )


@given(
    available=st.sets(VERSIONS, min_size=1),
    coming=st.sets(st.integers(5, 7), max_size=2),
    steps=STEPS,
    key=st.sampled_from([b"", b"one", b"other"]),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_worker_finds_what_the_router_finds(available, coming, steps, key, draw):
    """By number, label, split, default and rollback; where the router refuses, the worker leaves it to it."""
    versions = Versions(available, coming)
    router = Router(versions, (), draw=lambda: draw)
    for step, *arguments in steps:
        with contextlib.suppress(ServerError):
            getattr(router, step)("m", *arguments)
    told = routes_of(view_of(router, versions), lambda version: version + 100)
    assert told.versions == {version: version + 100 for version in available}
    for target in (
        ModelTarget(name="m"),
        *(ModelTarget(name="m", version=version) for version in range(8)),
        *(ModelTarget(name="m", label=label) for label in ("stable", "canary", "absent")),
    ):
        try:
            expected = router.acquire(target, key)
        except ServerError:
            expected = None
        found = resolved(told, as_routes(told), target, client_key=key, draw=lambda: draw)
        assert found == expected or (found is None and target.version == 0), target


def test_what_is_not_everywhere_is_the_first_process_s():
    """A model with a version that workers don't have, with a shadow, or with no version."""
    versions = Versions([1, 2])
    view = view_of(Router(versions, ()), versions)
    assert routes_of(view, {1: 11, 2: 12}.get).versions == {1: 11, 2: 12}
    assert routes_of(view, {1: 11}.get) is None
    shadowed = view_of(Router(versions, ()), versions, shadow=Shadow(version=1, share=0.5))
    assert routes_of(shadowed, {1: 11, 2: 12}.get) is None
    nothing = Versions([], [1])
    assert routes_of(view_of(Router(nothing, ()), nothing), {}.get) is None
