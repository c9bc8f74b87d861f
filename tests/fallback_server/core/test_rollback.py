"""What a rollback does to the routes of one model, as tables; and that it can be taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.errors import InvalidInput, PreconditionFailed
from fallback_server.core.rollback import MAX_STEPS, Move, rolled_back, rolled_back_label, taken_back
from fallback_server.core.routes import PLAIN, Hold, Label, Routes, default_version, settled, shares

ONE, TWO, THREE = {1: 1.0}, {2: 1.0}, {3: 1.0}


def stable(version=None, *history, pending=None):
    return {"stable": Label(version=version, history=history, pending=pending)}


def back(routes, available, label=""):
    done, after = rolled_back("m", label, routes, available)
    return (done.from_version, done.to_version), [(move.label, move.before, move.after) for move in done.moves], after


@pytest.mark.parametrize(
    ("label", "available", "back"),
    [
        (Label(version=3, history=(1, 2)), [1, 2, 3], Label(version=2, history=(1,))),
        (Label(version=3, history=(1, 2)), [1, 3], Label(version=1)),
        (Label(version=3, history=(5,)), [3, 5], Label(version=5)),
        (Label(version=3), [1, 2, 3], Label(version=2)),
        (Label(version=2, pending=3, history=(1,)), [1, 2], Label(version=2, history=(1,))),
        (Label(version=3), [3, 4], None),
        (Label(pending=3), [1, 2], None),
    ],
)
def test_a_label_goes_a_step_back(label, available, back):
    """Where it pointed before, else to the next lower version; None where there is neither."""
    assert rolled_back_label(label, available) == back


@pytest.mark.parametrize(
    ("routes", "available", "versions", "moves"),
    [
        # the default alone
        (PLAIN, [1, 2, 3], (3, 2), [("", THREE, TWO)]),
        (Routes(hold=Hold(version=2, above=3)), [1, 2, 3], (2, 1), [("", TWO, ONE)]),
        # label and default together
        (Routes(labels=stable(3, 1)), [1, 2, 3], (3, 1), [("", THREE, ONE), ("stable", THREE, ONE)]),
        (Routes(labels=stable(3)), [1, 2, 3], (3, 2), [("", THREE, TWO), ("stable", THREE, TWO)]),
        # the label stands on the older version already, and tells where to go
        (Routes(labels=stable(1)), [1, 2, 3], (3, 1), [("", THREE, ONE)]),
        # the label stands on the newer, and the default is held
        (Routes(labels=stable(3), hold=Hold(version=2, above=3)), [1, 2, 3], (3, 2), [("stable", THREE, TWO)]),
        # a split: with the label on one side, or without it
        (
            Routes(labels=stable(2), traffic={2: 95, 3: 5}),
            [1, 2, 3],
            (3, 2),
            [("", {2: 0.95, 3: 0.05}, TWO)],
        ),
        (Routes(traffic={1: 75, 3: 25}), [1, 2, 3], (3, 1), [("", {1: 0.75, 3: 0.25}, ONE)]),
        (
            Routes(labels=stable(3, 2), traffic={2: 5, 3: 95}),
            [1, 2, 3],
            (3, 2),
            [("", {2: 0.05, 3: 0.95}, TWO), ("stable", THREE, TWO)],
        ),
        (Routes(labels=stable(3), traffic={1: 1}), [1, 2, 3], (3, 1), [("stable", THREE, ONE)]),
        # a label whose version is on its way, or gone
        (Routes(labels=stable(1, pending=3)), [1, 2], (3, 1), [("", TWO, ONE), ("stable", THREE, ONE)]),
        (Routes(labels=stable(3)), [1, 2], (3, 2), [("stable", THREE, TWO)]),
        # other labels stay
        (Routes(labels={"canary": Label(version=3)}), [2, 3], (3, 2), [("", THREE, TWO)]),
    ],
)
def test_all_that_makes_the_newer_version_answer_goes_back(routes, available, versions, moves):
    """One version answers whoever names none, by whatever way, and who says `stable`; and what has moved is told."""
    told, moved, after = back(routes, available)
    assert (told, moved) == (versions, moves)
    target = versions[1]
    assert shares(after, available) == {target: 1.0}
    assert {default_version(after, available, key=b"client-%d" % number) for number in range(99)} == {target}
    assert after.points().get("stable", target) == target
    assert after.traffic == routes.traffic
    # the version that was passed over does not come back by itself when it is loaded anew
    assert shares(after, sorted({*available, 3})) == {target: 1.0}


def test_a_new_version_ends_the_rollback_only_where_it_would_have_answered_anyway():
    """Without a split the highest answers, and with it the newest fix; with one nobody gets what has no weight."""
    plain, split = back(PLAIN, [1, 2, 3])[2], back(Routes(traffic={2: 95, 3: 5}), [1, 2, 3])[2]
    assert (plain.hold, split.hold) == (Hold(version=2, above=3), Hold(version=2, above=None))
    again = back(plain, [1, 2, 3])[2]
    assert again.hold == Hold(version=1, above=3)


def test_what_is_on_its_way_is_passed_over_too():
    """A load that was under way was begun before the rollback, and is not what shall end it."""
    _, after = rolled_back("m", "", PLAIN, [1, 2], coming=[2, 3, 4])
    assert after.hold == Hold(version=1, above=4)
    assert shares(settled(after, [1, 2, 3, 4]), [1, 2, 3, 4]) == {1: 1.0}


@pytest.mark.parametrize(
    ("routes", "available", "text"),
    [
        (PLAIN, [3], r"^model m, at version 3, has no earlier version to go back to; available: 3$"),
        (PLAIN, [], r"^model m has no version that answers$"),
        (Routes(hold=Hold(version=2, above=3)), [2, 3], "at version 2, has no earlier version"),
        (Routes(labels=stable(3), traffic={3: 1}), [3, 4], "at version 3, has no earlier version"),
        (Routes(labels=stable(3)), [], "available: none"),
    ],
)
def test_nothing_to_go_back_to(routes, available, text):
    """Refused, with what answers and what there is."""
    with pytest.raises(PreconditionFailed, match=text):
        rolled_back("m", "", routes, available)


def test_a_label_alone():
    """The default stays; what isn't there is refused."""
    routes = Routes(labels=stable(3, 1), traffic={2: 1, 3: 1})
    versions, moves, after = back(routes, [1, 2, 3], "stable")
    assert (versions, moves) == ((3, 1), [("stable", THREE, ONE)])
    assert (after.hold, after.traffic) == (None, routes.traffic)
    with pytest.raises(InvalidInput, match="label: canary"):
        rolled_back("m", "canary", routes, [1, 2, 3])
    with pytest.raises(PreconditionFailed, match="label stable of model m, at version 1, has no earlier version"):
        rolled_back("m", "stable", after, [1, 2, 3])


def test_a_rollback_can_be_taken_back_while_its_version_is_there():
    """What it moved is as before, histories too; one after the other; else it is refused."""
    routes = Routes(labels=stable(3, 2), traffic={2: 1, 3: 3})
    once = back(routes, [1, 2, 3])[2]
    twice = back(once, [1, 2, 3])[2]
    done, again = taken_back("m", twice, [1, 2, 3])
    assert (again, done.from_version, done.to_version) == (once, 1, 2)
    done, first = taken_back("m", again, [1, 2, 3])
    assert first == routes
    assert done.moves == (
        Move(label="", before=TWO, after={2: 0.25, 3: 0.75}),
        Move(label="stable", before=TWO, after=THREE),
    )
    with pytest.raises(PreconditionFailed, match="no rollback that can be taken back"):
        taken_back("m", first, [1, 2, 3])
    with pytest.raises(PreconditionFailed, match=r"version 3 is not available; available: 1, 2$"):
        taken_back("m", once, [1, 2])


def test_with_the_hold_ends_what_can_be_taken_back():
    """A newer version answers: to take back would move `stable` alone, to a bad one. A label that went since can."""
    routes = Routes(labels=stable(3) | {"canary": Label(version=3)})
    for label in ("canary", "", ""):
        routes = back(routes, [1, 2, 3], label)[2]
    assert [step.to_version for step in routes.steps] == [2, 2, 1]
    over = settled(routes, [1, 2, 3, 4])
    assert (over.hold, over.steps, over.points()) == (None, (), {"stable": 1, "canary": 2})
    with pytest.raises(PreconditionFailed, match="no rollback that can be taken back"):
        taken_back("m", over, [1, 2, 3, 4])
    over = settled(back(routes, [1, 2, 3], "canary")[2], [1, 2, 3, 4])
    done, after = taken_back("m", over, [1, 2, 3])
    assert (after.hold, after.points(), done.label) == (None, {"stable": 1, "canary": 2}, "canary")
    assert (str(done), done.moves) == ("label canary: version 1 -> 2", (Move(label="canary", before=ONE, after=TWO),))


def test_what_was_taken_back_tells_who_answered():
    """What it went back to may be gone, and another have answered; or the label alone have moved."""
    twice = back(back(PLAIN, [1, 2, 3, 4])[2], [1, 2, 3, 4])[2]
    done, _ = taken_back("m", twice, [1, 3, 4])
    assert (str(done), done.moves) == ("version 1 -> 3", (Move(label="", before=ONE, after=THREE),))
    held = Routes(labels=stable(3), hold=Hold(version=2, above=3))
    done, after = rolled_back("m", "", held, [1, 2, 3])
    assert str(done) == "label stable: version 3 -> 2"
    assert str(taken_back("m", after, [1, 2, 3])[0]) == "label stable: version 2 -> 3"


numbers = st.integers(0, 6)
labels = st.builds(
    Label, version=st.none() | numbers, pending=st.none() | numbers, history=st.lists(numbers, max_size=3).map(tuple)
)
all_routes = st.builds(
    Routes,
    labels=st.dictionaries(st.sampled_from(["stable", "canary"]), labels),
    traffic=st.dictionaries(numbers, st.sampled_from([0.0, 1.0, 2.5])),
    hold=st.none() | st.builds(Hold, version=numbers, above=st.none() | numbers),
)


@given(all_routes, st.sets(numbers).map(sorted), st.integers(1, 30))
def test_whatever_stands_a_rollback_leads_to_one_older_version_that_is_there(routes, available, times):
    """It is available and lower than what answered; it ends after finitely many steps, which are remembered bounded."""
    canary = routes.labels.get("canary")
    for _ in range(times):
        try:
            done, after = rolled_back("m", "", routes, available)
        except PreconditionFailed:
            break
        assert done.to_version in available
        assert done.to_version < done.from_version
        assert shares(after, available) == {done.to_version: 1.0}
        if "stable" in after.labels:
            assert after.labels["stable"].aim == done.to_version
        assert after.labels.get("canary") == canary
        assert len(after.steps) <= MAX_STEPS
        routes = after
    else:
        assert times <= 8
