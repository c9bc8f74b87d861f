"""Waits until what was asked for is loaded, or can't be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from fallback_server.control import Control
from fallback_server.core.errors import ModelNotFound, NotServed, VersionNotReady
from fallback_server.core.servable import ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.transport.changes import Changes

States = Callable[[ModelTarget], Sequence[ServableState]]

_LOOK_AGAIN_S = 0.5
"""A bound on how late a change that nobody told is seen."""

_ON_THE_WAY = (State.START, State.LOADING)

_GONE = "it was removed meanwhile, or taken out of service"


async def wait_settled(
    names: Sequence[str],
    states_of: States,
    changes: Changes,
    lack_of: Callable[[str], str] = lambda _: "",
    wanted: Callable[[], Collection[str]] | None = None,
) -> None:
    """Waits until nothing of the models is on its way any more, as long as the caller does.

    Args:
        names: The models.
        states_of: What is known of one.
        changes: Tells when that has changed.
        lack_of: Why nothing, or nothing new, of a model is on disk; empty where there is. Nobody waits for that.
        wanted: The models that should be served; nobody waits for another. None: all that are named.

    Raises:
        VersionNotReady: a model is not served as it should be; the text says why.
    """
    while True:
        seen = changes.count
        states = {name: _known(states_of, name) for name in names}
        # After the states: of a model that was wanted now, they were not those of its removal.
        gone: frozenset[str] = frozenset() if wanted is None else frozenset(names).difference(wanted())
        if changes.closed or all(name in gone or settled(states[name], lack_of(name)) for name in names):
            break
        await changes.wait(seen, _LOOK_AGAIN_S)
    failed = [
        text
        for name in names
        if (text := f"{{name: {name}}}: {_GONE}" if name in gone else failure(name, states[name], lack_of(name)))
    ]
    if failed:
        raise VersionNotReady(f"{len(failed)} servable(s) did not become available: {{{', '.join(failed)}}}")


async def wait_served(control: Control, changes: Changes, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Waits until a configuration was looked for on disk, and nothing of its models is on its way any more.

    Args:
        control: Has taken the configuration.
        changes: Tells when states have changed.
        names: The models; None for all that should be served once the disk was looked at.

    Returns:
        The models' names.

    Raises:
        NotServed: a model is not served as it should be. UNKNOWN, as in TensorFlow Serving: a client that tries again
            whatever is UNAVAILABLE would send the configuration again and again.
    """
    while not changes.closed and not await asyncio.to_thread(control.wait_configured, timeout_s=_LOOK_AGAIN_S):
        pass
    waited = control.wanted() if names is None else tuple(names)
    try:
        await wait_settled(waited, control.states, changes, control.lack, control.wanted)
    except VersionNotReady as error:
        raise NotServed(str(error)) from error
    return waited


def settled(states: Sequence[ServableState], lack: str = "") -> bool:
    """Whether nothing of a model is on its way any more; not before something of it is known, or what it lacks.

    A version that has an error is not: it waits for files that it lacks, or for a retry.
    """
    return bool(states or lack) and not any(
        (state.state in _ON_THE_WAY and state.error is None) or state.successor in _ON_THE_WAY for state in states
    )


def available(states: Iterable[ServableState]) -> bool:
    """Whether a version of the model answers."""
    return any(state.state is State.AVAILABLE for state in states)


def failure(name: str, states: Sequence[ServableState], lack: str = "") -> str:
    """What to say of a model that is not served as it should be; empty where it is."""
    said = [f"{state.servable_id}: {state.error}" for state in states if state.error]
    if not available(states):
        return "; ".join(said) or f"{{name: {name}}}: {lack or 'no version'}"
    if lack:
        return f"{{name: {name}}}: {lack}; it is served as before"
    return "; ".join(f"{state.servable_id}: {state.note}" for state in states if state.successor is State.END)


def _known(states_of: States, name: str) -> Sequence[ServableState]:
    try:
        return states_of(ModelTarget(name=name))
    except ModelNotFound:
        return ()
