import math

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_runtime.remote.catalog import Serves
from edge_runtime.remote.ranking import Standing, rank


def standing(expected_s=0.01, *, serves=Serves.YES, gone=False, server_id="", version=0, refused=False):
    return Standing(
        serves=serves, gone=gone, server_id=server_id, expected_s=expected_s, version=version, refused=refused
    )


def test_those_that_are_alike_are_drawn_from():
    """What takes up to three times as long as the best, and a little, is near; what takes longer is far."""
    ranks = rank([standing(0.2), standing(0.02), standing(0.01), standing(math.inf)])
    assert (ranks.near, ranks.far) == ((1, 2), (0, 3))


def test_unknown_is_asked_and_lacking_is_not():
    """A server that hasn't said what it has may be asked; one without the version not; one that loads it at last."""
    ranks = rank([standing(serves=serves) for serves in (Serves.NO, Serves.UNKNOWN, Serves.SOON, Serves.YES)])
    assert (ranks.near, ranks.far, ranks.last, ranks.lacking) == ((1, 3), (), (2,), (0,))


def test_those_that_are_gone_come_last():
    """Where nobody was there of late somebody may be there again: after those that load, not never."""
    ranks = rank([standing(gone=True), standing(serves=Serves.SOON, expected_s=1.0), standing()])
    assert (ranks.near, ranks.last) == ((2,), (1, 0))


def test_two_ways_to_one_server_are_one():
    """A server that is known by two addresses is no second one: the sooner way is near."""
    ranks = rank([standing(0.011, server_id="a"), standing(0.010, server_id="a"), standing(0.012, server_id="b")])
    assert (ranks.near, ranks.far) == ((1, 2), (0,))


def test_the_newest_answers_for_the_latest():
    """However soon an older latest would answer, or who has not said which it has, the newest is asked before."""
    ranks = rank([standing(version=version) for version in (2, 0, 3, 1, 3)] + [standing(9.0, version=3)])
    assert (ranks.near, ranks.far, ranks.behind) == ((2, 4), (5,), (0, 3, 1))


def test_a_newest_that_can_not_be_asked_holds_nobody_up():
    """Where the breaker lets nothing through, or nobody is there, the next newest is asked."""
    barred, gone = standing(math.inf, version=3), standing(version=4, gone=True)
    ranks = rank([barred, gone, standing(version=1), standing(version=2)])
    assert (ranks.near, ranks.far, ranks.behind, ranks.last) == ((3,), (0,), (2,), (1,))


def test_a_misfit_comes_behind_those_that_answer_as_the_same():
    """However soon it is; those that answer as an older version come behind it all the same."""
    ranks = rank([replace(standing(0.001, version=2), misfit=True), standing(9.0, version=2), standing(version=1)])
    assert (ranks.near, ranks.far, ranks.behind) == ((1,), (0,), (2,))


def test_those_that_refused_come_after_those_that_may_answer():
    """However soon, and however new: unless all of them did, or the others may not be asked."""
    refusing, older = standing(0.001, version=3, refused=True), standing(version=2)
    ranks = rank([refusing, older, standing(version=1)])
    assert (ranks.near, ranks.behind) == ((1,), (2, 0))
    assert rank([refusing, refusing]).near == (0, 1)
    assert rank([refusing, standing(math.inf, version=3)]).near == (0,)


STANDINGS = st.lists(
    st.builds(
        Standing,
        serves=st.sampled_from(Serves),
        gone=st.booleans(),
        server_id=st.sampled_from(["", "a", "b"]),
        expected_s=st.floats(0, 100) | st.just(math.inf),
        version=st.integers(0, 3),
        misfit=st.booleans(),
        refused=st.booleans(),
    ),
    max_size=8,
)


@given(STANDINGS)
def test_every_endpoint_has_one_rank(standings):
    """Nobody is lost or named twice, and where one of the newest may be asked who is no misfit, somebody is near."""
    ranks = rank(standings)
    places = [*ranks.near, *ranks.far, *ranks.behind, *ranks.last, *ranks.lacking]
    assert sorted(places) == list(range(len(standings)))
    able = [one for one in standings if one.serves in {Serves.YES, Serves.UNKNOWN} and not one.gone]
    able = [one for one in able if one.expected_s < math.inf]
    if any(not one.refused and not one.misfit for one in able):
        able = [one for one in able if not one.refused]
    newest = max((one.version for one in able), default=0)
    assert bool(ranks.near) == any(one.version == newest and not one.misfit for one in able)
