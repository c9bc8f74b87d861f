import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.policy import (
    Action,
    Verb,
    VersionSnapshot,
    availability_preserving,
    reload_delay_s,
    resource_preserving,
    worth_reloading,
)
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


@pytest.mark.parametrize(
    ("rows", "action"),
    [
        ([], None),
        ([(1, START, True), (2, START, True)], Action(Verb.LOAD, 2)),
        ([(1, AVAILABLE, True)], None),
        # the old one goes first, whatever becomes of the new one
        ([(1, AVAILABLE, False), (2, START, True)], Action(Verb.UNLOAD, 1)),
        ([(1, AVAILABLE, False), (2, AVAILABLE, False), (3, START, True)], Action(Verb.UNLOAD, 1)),
        # its memory must be free before the new one's is taken
        ([(1, UNLOADING, False), (2, START, True)], None),
        ([(1, LOADING, False), (2, START, True)], None),
        ([(1, END, False), (2, START, True)], Action(Verb.LOAD, 2)),
        # what is wanted holds up nothing
        ([(1, LOADING, True), (2, START, True)], Action(Verb.LOAD, 2)),
    ],
)
def test_resource_preserving(rows, action):
    """Each snapshot of a model's versions gives this one step, or none."""
    assert resource_preserving(versions(*rows)) == action


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(State), st.booleans()), max_size=6, unique_by=lambda row: row[0]
)


@given(ROWS)
def test_no_policy_takes_an_answer_away_or_a_step_that_cannot_be(rows):
    """Only START is loaded, only AVAILABLE unloaded; availability-preserving leaves an answer where one is wanted."""
    states = {version: (state, aspired) for version, state, aspired in rows}
    for policy in (availability_preserving, resource_preserving):
        action = policy(versions(*rows))
        if action is not None:
            state, aspired = states[action.version]
            assert (state, aspired) == ((START, True) if action.verb is Verb.LOAD else (AVAILABLE, False))
    action = availability_preserving(versions(*rows))
    if action is not None and action.verb is Verb.UNLOAD and any(aspired for _, aspired in states.values()):
        assert any(state is AVAILABLE for version, (state, _) in states.items() if version != action.version)


@pytest.mark.parametrize(
    ("rows", "worth"),
    [
        ([(1, AVAILABLE, True)], True),
        ([(1, LOADING, False)], False),
        ([(1, LOADING, False), (2, LOADING, True)], True),
        ([(1, LOADING, False), (2, END, True)], True),
        ([(1, LOADING, False), (2, AVAILABLE, True)], False),
    ],
)
def test_what_is_worth_reloading(rows, worth):
    """Version 1 died: loaded anew when it is wanted, or stands in for one that is and does not answer."""
    assert worth_reloading(1, versions(*rows)) is worth


def test_the_delay_before_a_reload_doubles_up_to_a_bound():
    """At once the first time, then half a second, doubled, and a minute at most."""
    assert [reload_delay_s(losses) for losses in (1, 2, 3, 4, 9, 10, 10**9)] == [0, 0.5, 1, 2, 60, 60, 60]


@pytest.mark.parametrize(
    ("policy", "state", "aspired", "action"),
    [
        (availability_preserving, AVAILABLE, True, Action(Verb.REPLACE, 2)),
        (resource_preserving, AVAILABLE, True, Action(Verb.UNLOAD, 2)),
        (availability_preserving, UNLOADING, True, None),
        (resource_preserving, UNLOADING, True, None),
        (availability_preserving, AVAILABLE, False, Action(Verb.UNLOAD, 2)),
    ],
)
def test_what_has_moved(policy, state, aspired, action):
    """It is replaced, or goes first; one that is not wanted goes in any case."""
    assert policy([VersionSnapshot(version=2, state=state, aspired=aspired, moved=True)]) == action
