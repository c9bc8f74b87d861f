"""Waits until what was asked for is loaded, or can't be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fallback_server.core.errors import ModelNotFound, VersionNotReady
from fallback_server.core.servable import ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.transport.changes import Changes

States = Callable[[ModelTarget], Sequence[ServableState]]

_LOOK_AGAIN_S = 0.5
"""A bound on how late a change that nobody told is seen."""

_ON_THE_WAY = (State.START, State.LOADING)


async def wait_settled(names: Sequence[str], states_of: States, changes: Changes) -> None:
    """Waits until nothing of the models is on its way any more, as long as the caller does.

    Raises:
        VersionNotReady: a model has no version that could be loaded; the text says why.
    """
    while True:
        seen = changes.count
        states = {name: _known(states_of, name) for name in names}
        if all(map(settled, states.values())) or changes.closed:
            break
        await changes.wait(seen, _LOOK_AGAIN_S)
    failed = [failure(name, states[name]) for name in names if not available(states[name])]
    if failed:
        raise VersionNotReady(f"{len(failed)} servable(s) did not become available: {{{', '.join(failed)}}}")


def settled(states: Sequence[ServableState]) -> bool:
    """Whether nothing of a model is on its way any more; not before something of it is known.

    A version that has an error is not: it waits for files that it lacks, or for a retry.
    """
    return bool(states) and not any(state.state in _ON_THE_WAY and state.error is None for state in states)


def available(states: Iterable[ServableState]) -> bool:
    """Whether a version of the model answers."""
    return any(state.state is State.AVAILABLE for state in states)


def failure(name: str, states: Iterable[ServableState]) -> str:
    """What to say of a model that has no version that answers."""
    said = [f"{state.servable_id}: {state.error}" for state in states if state.error]
    return "; ".join(said) or f"{{name: {name}}}: no version"


def _known(states_of: States, name: str) -> Sequence[ServableState]:
    try:
        return states_of(ModelTarget(name=name))
    except ModelNotFound:
        return ()
