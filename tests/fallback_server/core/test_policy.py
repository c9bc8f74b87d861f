import pytest

from fallback_server.core.policy import Action, Verb, VersionSnapshot, availability_preserving
from fallback_server.core.servable import State

START, LOADING, AVAILABLE, UNLOADING, END = State


def versions(*rows):
    return [VersionSnapshot(version=version, state=state, aspired=aspired) for version, state, aspired in rows]


@pytest.mark.parametrize(
    ("rows", "action"),
    [
        ([], None),
        ([(1, START, True)], Action(Verb.LOAD, 1)),
        ([(1, START, True), (2, START, True)], Action(Verb.LOAD, 2)),
        ([(1, LOADING, True)], None),
        ([(1, AVAILABLE, True)], None),
        # the new one first, then the old one goes
        ([(1, AVAILABLE, False), (2, START, True)], Action(Verb.LOAD, 2)),
        ([(1, AVAILABLE, False), (2, LOADING, True)], None),
        ([(1, AVAILABLE, False), (2, AVAILABLE, True)], Action(Verb.UNLOAD, 1)),
        # the new one failed: the old one stays
        ([(1, AVAILABLE, False), (2, END, True)], None),
        # of several old ones the last stays
        ([(1, AVAILABLE, False), (2, AVAILABLE, False), (3, LOADING, True)], Action(Verb.UNLOAD, 1)),
        ([(2, AVAILABLE, False), (3, LOADING, True)], None),
        # nothing is wanted: all go
        ([(1, AVAILABLE, False)], Action(Verb.UNLOAD, 1)),
        ([(1, UNLOADING, False)], None),
        ([(1, LOADING, False)], None),
    ],
)
def test_availability_preserving(rows, action):
    """Each snapshot of a model's versions gives this one step, or none."""
    assert availability_preserving(versions(*rows)) == action
